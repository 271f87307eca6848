"""`home-dist inspect`: a run, or two side by side, as one HTML page. Findings first."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from html import escape
from pathlib import Path

import numpy as np

from home_dist.config import config_text, config_tree
from home_dist.errors import ConfigError
from home_dist.files.whole import write_whole
from home_dist.insight import plots
from home_dist.insight.clock import PARTS
from home_dist.insight.findings import Finding
from home_dist.insight.kept_scores import RESAMPLES
from home_dist.insight.page import Cell, PageSection, grid, page, picture, table
from home_dist.insight.report_inside import inside_sections
from home_dist.insight.rules import Sign
from home_dist.insight.run_figures import mean_defined
from home_dist.insight.run_names import names_apart
from home_dist.insight.run_record import RunRecord, same_rows
from home_dist.metrics import paired_test

_METRICS = (("auc", "AUC"), ("gauc", "GAUC"))
_PLAIN = (("log_loss", "log loss"), ("normalized_entropy", "normalised entropy"), ("calibration", "calibration"))


def write_report(path: Path, other: Path | None, against: Sequence[Path], out: Path) -> Path:
    """Writes the report of run folder `path`, compared with run `other`; against: runs of single tasks. Raises ConfigError for
    folders without a run, for a run without records, and where `out` cannot be written."""
    runs = [RunRecord.open(p) for p in (path, *([other] if other else []))]
    alone = [RunRecord.open(p) for p in against]
    if not (runs[0].evaluation or runs[0].records or runs[0].curves):
        raise ConfigError(
            f"{path}: the run has recorded nothing yet. Look again when it has trained insight.every_steps steps."
        )
    html = report(runs, alone)
    try:
        write_whole(out, html)
    except OSError as error:
        raise ConfigError(f"{out} cannot be written: {error}. Choose another place with --out.") from None
    return out


def report(runs: Sequence[RunRecord], alone: Sequence[RunRecord] = ()) -> str:
    names = names_apart([run.path for run in runs], [config_tree(run.config) for run in runs])
    runs = [replace(run, name=name) for run, name in zip(runs, names, strict=True)]
    first = runs[0]
    title = first.name if len(runs) == 1 else f"{first.name} compared with {runs[1].name}"
    sections = [_findings(runs, alone), *_evaluations(runs), *_slices(runs), _curves(runs), *_calibration(runs)]
    sections += inside_sections(runs)
    sections.append(_settings(runs))
    groups = ", ".join(first.schema.groups)
    subtitle = f"{first.config.model.kind} on {first.config.data.shown} · {len(first.tasks)} tasks in groups {groups}"
    return page(title, subtitle, _facts(runs, alone), [s for s in sections if s.body])


def _facts(runs: Sequence[RunRecord], alone: Sequence[RunRecord]) -> Iterator[tuple[str, str]]:
    for run in runs:
        prefix = f"{run.name}: " if len(runs) > 1 else ""
        yield f"{prefix}steps", f"{run.steps:,}"
        findings = run.findings(list(alone))
        yield f"{prefix}findings", str(len(findings)) if findings or run.looked_at else "not looked at"
        split = next(iter(run.splits), None)
        if split:
            yield f"{prefix}mean AUC, {split}", _number(run.mean(split, "auc"))
            yield f"{prefix}mean GAUC, {split}", _number(run.mean(split, "gauc"))


def _findings(runs: Sequence[RunRecord], alone: Sequence[RunRecord]) -> PageSection:
    parts = []
    for run in runs:
        findings = run.findings(list(alone))
        if len(runs) > 1:
            parts.append(f"<h3>{_key(run, runs)}{escape(run.name)}</h3>")
        if run.names is None:
            parts.append('<div class="quiet">Not looked at: insight.every_steps is 0.</div>')
        elif not run.looked_at:
            parts.append('<div class="quiet">Not looked at yet: no step of insight.every_steps has been reached.</div>')
        elif not findings:
            looked = f"{len(run.records)} records of experts and gates, {len(run.tables)} of embedding tables"
            parts.append(f'<div class="none">Nothing found in {looked}.</div>')
        latest = run.records[-1].step if run.records else 0
        parts += [_card(finding, latest) for finding in findings]
    about = "Signs of failure that lasted, by the rules and thresholds of [insight.rules]. Those that have gone since are grey."
    return PageSection("findings", "Findings", about, "".join(parts))


def _card(finding: Finding, latest: int) -> str:
    sign: Sign = finding.sign
    of_experts = sign.rule in ("collapse", "degradation", "underfitting", "identical", "constant")
    past = of_experts and finding.last < latest
    until = f" to {finding.last:,}" if past else ""
    kind = "finding past" if past else "finding"
    return (
        f'<div class="{kind}"><b>{escape(sign.rule.capitalize())} at {escape(sign.where)}</b>{escape(sign.what)}'
        f'<div class="soft">since step {finding.since:,}{until} · measured {sign.value:.3g}, threshold {sign.threshold:.3g}'
        f"</div><div>Try: {escape(sign.advice)}.</div></div>"
    )


def _evaluations(runs: Sequence[RunRecord]) -> Iterator[PageSection]:
    for split in runs[0].splits:
        if len(runs) == 1:
            yield PageSection(
                f"evaluation-{split}", f"Evaluation: {split}", _interval_note(runs[0], split), _metrics(runs[0], split)
            )
        elif split in runs[1].splits:
            about, body = _comparison(runs[0], runs[1], split)
            yield PageSection(f"evaluation-{split}", f"Evaluation: {split}", about, body)


def _interval_note(run: RunRecord, split: str) -> str:
    if run.bootstraps(split) is None:
        return "Without intervals: scores were not kept, see [metrics] keep_scores."
    return (
        f"With 95 % intervals over {RESAMPLES} draws of {run.drawn}. Calibration is the sum of predictions over that of labels."
    )


def _metrics(run: RunRecord, split: str) -> str:
    drawn = run.bootstraps(split)
    rows: list[list[str | Cell]] = []
    for task in [*run.tasks, None]:
        counts = [f"{run.metric(split, task, n):,.0f}" if task else "" for n in ("samples", "positives")]
        row: list[str | Cell] = [task or "mean", *counts]
        for n, (name, _) in enumerate(_METRICS):
            value = run.metric(split, task, name) if task else run.mean(split, name)
            interval = drawn[n].interval(task) if drawn else None
            shown = f"{interval.low:.3f}–{interval.high:.3f}" if interval and not math.isnan(interval.low) else ""
            row.append(Cell(_number(value), shown))
        row += [_number(run.metric(split, task, name) if task else run.mean(split, name)) for name, _ in _PLAIN]
        rows.append(row)
    head = ["task", "samples", "positives", *(label for _, label in (*_METRICS, *_PLAIN))]
    return table(head, rows, last_is_mean=True)


def _comparison(first: RunRecord, second: RunRecord, split: str) -> tuple[str, str]:
    """(about, table): metrics side by side, with a paired test of the differences if both runs scored the same rows."""
    drawn = (first.bootstraps(split), second.bootstraps(split)) if same_rows(first, second, split) else (None, None)
    rows: list[list[str | Cell]] = []
    shared = [t for t in first.tasks if t in second.tasks]
    for task in [*shared, None]:
        row: list[str | Cell] = [task or "mean"]
        for n, (name, _) in enumerate(_METRICS):
            values = [run.metric(split, task, name) if task else run.mean(split, name) for run in (first, second)]
            row += [_number(v) for v in values]
            difference = values[0] - values[1]
            if drawn[0] is None or drawn[1] is None:
                row.append(Cell(f"{difference:+.4f}" if not math.isnan(difference) else "-"))
                continue
            test = paired_test(drawn[0][n], drawn[1][n], task)
            kind = "" if not test.differs else "better" if test.interval.estimate > 0 else "worse"
            low, high = test.interval.low, test.interval.high
            shown = "" if math.isnan(low) else f"{low:+.3f} to {high:+.3f}, p {test.p:.2f}"
            row.append(Cell(f"{difference:+.4f}" if not math.isnan(difference) else "-", shown, kind))
        rows.append(row)
    head = ["task"]
    for _, label in _METRICS:
        head += [f"{label} {first.name}", f"{label} {second.name}", "difference"]
    if drawn[0] is None:
        about = (
            "Without a paired test: the runs did not keep scores of the same rows in the same order: that takes the same "
            "data, number of ranks and batch size."
        )
    else:
        about = (
            f"Difference {first.name} - {second.name} with its 95 % interval and p over {RESAMPLES} draws of {first.drawn}, "
            "the same in both runs; coloured where 0 lies outside."
        )
    return about, table(head, rows, last_is_mean=True)


def _slices(runs: Sequence[RunRecord]) -> Iterator[PageSection]:
    run = runs[0]
    split = next((s for s in run.splits if s in run.evaluation.get("slices", {})), None)
    if split is None:
        return
    body = ""
    entries = run.evaluation["slices"][split]
    for feature in dict.fromkeys(e["feature"] for e in entries):
        rows = []
        for entry in (e for e in entries if e["feature"] == feature):
            shown = ("auc", "gauc", "log_loss", "calibration")
            means = [_number(mean_defined(t[name] for t in entry["tasks"])) for name in shown]
            rows.append([str(entry["value"]), f"{entry['samples']:,}", *means])
        body += f"<h3>{escape(feature)}</h3>" + table([feature, "samples", "AUC", "GAUC", "log loss", "calibration"], rows)
    about = (
        f"Means over tasks, of {run.name} on {split}, by value (id or bucket) of a feature. Each task's are in evaluation.json."
    )
    yield PageSection("slices", "Slices", about, body)


def _curves(runs: Sequence[RunRecord]) -> PageSection:
    first, parts = runs[0], []
    for task in first.tasks:
        shown: list[plots.Line] = []
        for run in runs:
            points = [c for c in run.curves if task in c["task_losses"]]
            if points:
                shown.append((run.name, [c["step"] for c in points], [c["task_losses"][task] for c in points]))
        if shown:
            parts.append(picture(plots.lines(task, shown, plots.RUN_COLOURS), f"loss of {task} over steps"))
    if first.curves:
        for name in first.curves[-1].get("running", {}):
            shown = []
            for task in first.tasks:
                points = [c for c in first.curves if not math.isnan(c.get("running", {}).get(name, {}).get(task, math.nan))]
                if points:
                    shown.append((task, [c["step"] for c in points], [c["running"][name][task] for c in points]))
            if shown:
                title = f"{name.replace('_', ' ').replace('auc', 'AUC')} in training"
                parts.append(picture(plots.lines(title, shown), f"{title}, over steps"))
        for name in first.curves[-1]["auxiliary"]:
            points = [c for c in first.curves if name in c["auxiliary"]]
            line = (first.name, [c["step"] for c in points], [c["auxiliary"][name] for c in points])
            parts.append(picture(plots.lines(name, [line]), f"{name} over steps"))
        rates = [(r.name, [c["step"] for c in r.curves], [c["samples_per_second"] for c in r.curves]) for r in runs if r.curves]
        parts.append(picture(plots.lines("samples/s, all ranks", rates, plots.RUN_COLOURS, low=0), "samples per second"))
        steps = [c["step"] for c in first.curves]
        shares = {
            "computing": [max(0.0, 1 - c["waiting"] - c["insight"]) for c in first.curves],
            "waiting for data": [c["waiting"] for c in first.curves],
            "insight": [c["insight"] for c in first.curves],
        }
        parts.append(picture(plots.time_shares("where the time goes", steps, shares), "share of time per step"))
        parts += _breakdown(first)
    about = (
        "Each task's training loss, mean over the steps between two lines of progress, and running metrics of the samples in "
        "between, as the model saw them before it learnt from them. Parts of a step: see home_dist/insight/clock.py."
    )
    return PageSection("curves", "Curves", about, grid(parts) if parts else "")


def _breakdown(run: RunRecord) -> list[str]:
    """Parts of the sampled steps: shares of time as a picture, medians as a table."""
    timed = [(r.step, r.figures["seconds"]) for r in run.records if "seconds" in r.figures]
    timed = [(step, seconds) for step, seconds in timed if np.isfinite(seconds).all()]
    if not timed:
        return []
    steps, seconds = [step for step, _ in timed], np.stack([by_part for _, by_part in timed])
    shares = seconds / seconds.sum(1, keepdims=True)
    shown = {part: shares[:, n].tolist() for n, part in enumerate(PARTS)}
    medians = np.median(seconds, 0)
    rows = [[part, f"{1000 * x:.1f}", f"{x / medians.sum():.0%}"] for part, x in zip(PARTS, medians, strict=True)]
    return [
        picture(plots.time_shares("parts of a step", steps, shown), "share of time by part of a step"),
        table(["part of a step", "ms, median", "share"], rows),
    ]


def _calibration(runs: Sequence[RunRecord]) -> Iterator[PageSection]:
    for split in runs[0].splits[:1]:
        parts = []
        for task in runs[0].tasks:
            curves = [(run.name, run.evaluation.get("calibration", {}).get(split, {}).get(task)) for run in runs]
            drawn = [(name, curve) for name, curve in curves if curve and curve["weight"]]
            if drawn:
                parts.append(picture(plots.calibration(task, drawn), f"calibration of {task}"))
        about = f"On {split}, in bins of equally many samples. On the dashed line what is predicted happens."
        yield PageSection("calibration", "Calibration", about, grid(parts, "small") if parts else "")


def _settings(runs: Sequence[RunRecord]) -> PageSection:
    texts = ""
    for run in runs:
        name = escape(f"{run.name}: " * (len(runs) > 1) + str(run.path / "config.toml"))
        text = escape(config_text(run.config))
        texts += f"<details><summary>{name}</summary><pre>{text}</pre></details>"
    return PageSection("settings", "Settings", "", texts)


def _key(run: RunRecord, runs: Sequence[RunRecord]) -> str:
    return f'<span class="key" style="background:{plots.RUN_COLOURS[list(runs).index(run)]}"></span>'


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4f}"
