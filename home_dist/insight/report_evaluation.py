"""Sections of a run's report about its evaluations: a table per split and family of tasks, calibration, predicted numbers."""

import math
from collections.abc import Iterator, Sequence

import numpy as np

from home_dist.config.stopping import SMALLER_IS_BETTER
from home_dist.insight import plots
from home_dist.insight.kept_scores import RESAMPLES, of_family
from home_dist.insight.page import Cell, PageSection, grid, picture, table
from home_dist.insight.run_record import RunRecord, same_rows
from home_dist.metrics import paired_test

_Columns = tuple[tuple[str, str], ...]
_DRAWN: dict[str, _Columns] = {
    "binary": (("auc", "AUC"), ("gauc", "GAUC")),
    "number": (("mae", "MAE"), ("xauc", "XAUC"), ("user_xauc", "XAUC per user")),
    "class": (("accuracy", "accuracy"), ("log_loss", "log loss"), ("macro_auc", "macro AUC")),
}
"""Metrics that are compared, with intervals where there are draws."""
_PLAIN: dict[str, _Columns] = {
    "binary": (("log_loss", "log loss"), ("normalized_entropy", "normalised entropy"), ("calibration", "calibration")),
    "number": (("rmse", "RMSE"), ("r2", "R2"), ("calibration", "calibration")),
    "class": (),
}
_OF_REQUESTS: _Columns = (("ndcg", "NDCG@10"), ("mrr", "MRR"), ("recall", "recall@10"))
_TITLES = {"binary": "", "number": ", numbers", "class": ", classes"}
_POINTS = 2000
"""Samples that a picture of predictions and labels shows."""


def evaluation_sections(runs: Sequence[RunRecord]) -> Iterator[PageSection]:
    first = runs[0]
    for split in first.splits:
        for family in _DRAWN:
            tasks = [t for t in first.tasks if first.family(split, t) == family]
            if not tasks or (len(runs) > 1 and split not in runs[1].splits):
                continue
            if len(runs) == 1:
                about, body = interval_note(first, split, family), _metrics(first, split, family, tasks)
            else:
                about, body = comparison(first, runs[1], split, family)
            name = f"evaluation-{split}" + (f"-{family}" if family != "binary" else "")
            yield PageSection(name, f"Evaluation: {split}{_TITLES[family]}", about, body)


def calibration_sections(runs: Sequence[RunRecord]) -> Iterator[PageSection]:
    for split in runs[0].splits[:1]:
        parts, numbers = [], []
        for task in runs[0].tasks:
            curves = [(run.name, run.evaluation.get("calibration", {}).get(split, {}).get(task)) for run in runs]
            drawn = [(name, curve) for name, curve in curves if curve and curve["weight"]]
            if drawn and runs[0].family(split, task) == "number":
                numbers.append(picture(plots.number_calibration(_with_unit(runs[0], task), drawn), f"calibration of {task}"))
                numbers += _scatter(runs[0], split, task)
            elif drawn:
                parts.append(picture(plots.calibration(task, drawn), f"calibration of {task}"))
        about = f"On {split}, in bins of equally many samples. On the dashed line what is predicted happens."
        yield PageSection("calibration", "Calibration", about, grid(parts, "small") if parts else "")
        about = (
            f"On {split}. For each task first the mean label over the mean prediction, in bins of equally many samples, with "
            f"one standard deviation of the labels in grey; then up to {_POINTS:,} samples. On the dashed line predictions are "
            f"right."
        )
        yield PageSection("numbers", "Predicted numbers", about, grid(numbers) if numbers else "")


def interval_note(run: RunRecord, split: str, family: str) -> str:
    if family == "class":
        return "Macro AUC is the mean over classes of the AUC of a class against the others."
    if not run.bootstraps(split):
        return "Without intervals: scores were not kept, see [metrics] keep_scores."
    return (
        f"With 95 % intervals over {RESAMPLES} draws of {run.drawn}. Calibration is the sum of predictions over that of labels."
    )


def _metrics(run: RunRecord, split: str, family: str, tasks: Sequence[str]) -> str:
    drawn = run.bootstraps(split)
    counts = ("samples", "positives") if family == "binary" else ("samples",)
    of_requests = _OF_REQUESTS if any(run.metric(split, t, "requests") > 0 for t in tasks) else ()
    rows: list[list[str | Cell]] = []
    with_mean = [None] if family == "binary" or len(tasks) > 1 else []
    for task in [*tasks, *with_mean]:
        shown_counts = [f"{run.metric(split, task, n):,.0f}" if task else "" for n in counts]
        row: list[str | Cell] = [_with_unit(run, task) if task else "mean", *shown_counts]
        for name, _ in _DRAWN[family]:
            value = run.metric(split, task, name) if task else run.mean(split, name, tasks)
            interval = drawn[name].only(tasks).interval(task) if name in drawn else None
            shown = ""
            if interval and not math.isnan(interval.low):
                digits = 3 if abs(interval.high) < 10 else 1
                shown = f"{interval.low:.{digits}f}–{interval.high:.{digits}f}"
            row.append(Cell(shown_number(value), shown))
        plain = (*_PLAIN[family], *of_requests)
        row += [shown_number(run.metric(split, task, n) if task else run.mean(split, n, tasks)) for n, _ in plain]
        rows.append(row)
    head = ["task", *counts, *(label for _, label in (*_DRAWN[family], *_PLAIN[family], *of_requests))]
    return table(head, rows, last_is_mean=bool(with_mean))


def comparison(first: RunRecord, second: RunRecord, split: str, family: str = "binary") -> tuple[str, str]:
    """(about, table): metrics side by side, with a paired test of the differences if both runs scored the same rows."""
    alike = same_rows(first, second, split)
    drawn = (first.bootstraps(split), second.bootstraps(split)) if alike else ({}, {})
    rows: list[list[str | Cell]] = []
    shared = [t for t in first.tasks if t in second.tasks and {first.family(split, t), second.family(split, t)} == {family}]
    for task in [*shared, *([None] if family == "binary" or len(shared) > 1 else [])]:
        row: list[str | Cell] = [_with_unit(first, task) if task else "mean"]
        for name, _ in _DRAWN[family]:
            values = [run.metric(split, task, name) if task else run.mean(split, name, shared) for run in (first, second)]
            row += [shown_number(v) for v in values]
            difference = values[0] - values[1]
            shown_difference = f"{difference:+.4f}" if not math.isnan(difference) else "-"
            if name not in drawn[0] or name not in drawn[1]:
                row.append(Cell(shown_difference))
                continue
            test = paired_test(drawn[0][name].only(shared), drawn[1][name].only(shared), task)
            better = (test.interval.estimate > 0) != (name in SMALLER_IS_BETTER)
            kind = "" if not test.differs else "better" if better else "worse"
            low, high = test.interval.low, test.interval.high
            shown = "" if math.isnan(low) else f"{low:+.3f} to {high:+.3f}, p {test.p:.2f}"
            row.append(Cell(shown_difference, shown, kind))
        rows.append(row)
    head = ["task"]
    for _, label in _DRAWN[family]:
        head += [f"{label} {first.name}", f"{label} {second.name}", "difference"]
    if not drawn[0] or not drawn[1]:
        about = (
            "Without a paired test: the runs did not keep scores of the same rows in the same order: that takes the same "
            "data, number of ranks and batch size."
        )
    else:
        about = (
            f"Difference {first.name} - {second.name} with its 95 % interval and p over {RESAMPLES} draws of {first.drawn}, "
            "the same in both runs; coloured where 0 lies outside."
        )
    return about, table(head, rows, last_is_mean=family == "binary" or len(shared) > 1)


def _scatter(run: RunRecord, split: str, task: str) -> Iterator[str]:
    kept = run.scores(split)
    if kept is None:
        return
    names, labels, weights, scores = of_family(kept, run.tasks, "number")
    k = names.index(task)
    known = np.flatnonzero(weights[:, k] > 0)
    few = np.random.default_rng(0).permutation(known)[:_POINTS]
    drawn = plots.scatter(_with_unit(run, task), scores[few, k].astype(np.float64), labels[few, k].astype(np.float64))
    yield picture(drawn, f"predictions and labels of {task}")


def _with_unit(run: RunRecord, task: str) -> str:
    unit = next((t.unit for t in run.schema.task if t.name == task), None)
    return f"{task} ({unit})" if unit else task


def shown_number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4f}"
