"""A run's report: each task's metric on the validation split over the run's checkpoints, and which task turned first."""

import math
from collections.abc import Iterator, Sequence

from home_dist.insight import plots
from home_dist.insight.page import PageSection, grid, picture, table
from home_dist.insight.run_record import RunRecord

_MAIN = {"binary": ("auc", "AUC"), "number": ("xauc", "XAUC"), "class": ("accuracy", "accuracy")}


def validation_sections(runs: Sequence[RunRecord]) -> Iterator[PageSection]:
    first = runs[0]
    if len(first.validations) < 2:
        return
    pictures, rows = [], []
    for task in first.tasks:
        family = next((v["tasks"][task].get("family", "binary") for v in first.validations if task in v["tasks"]), "binary")
        name, label = _MAIN[family]
        lines = [(run.name, *_points(run, task, name)) for run in runs]
        lines = [line for line in lines if line[1]]
        if not lines:
            continue
        pictures.append(picture(plots.lines(f"{task}, {label}", lines, plots.RUN_COLOURS), f"{label} of {task} over steps"))
        _, steps, values = lines[0]
        best = max(range(len(values)), key=values.__getitem__)
        lost = values[best] - values[-1]
        turned = f"{steps[best]:,.0f}" if best < len(steps) - 1 else "not yet"
        rows.append(
            (steps[best], [task, label, f"{values[best]:.4f}", turned, f"{values[-1]:.4f}", f"{lost:.4f}" if lost else "-"])
        )
    if not pictures:
        return
    head = ["task", "metric", "best", "turned at step", "last", "lost since"]
    body = grid(pictures) + table(head, [row for _, row in sorted(rows, key=lambda entry: entry[0])])
    about = (
        f"Of {first.name} on the validation split, at each checkpoint. The table begins with the task whose best checkpoint "
        f"came first: it overfits, or loses to the others, while these still learn."
    )
    yield PageSection("validation", "Validation over steps", about, body)


def _points(run: RunRecord, task: str, name: str) -> tuple[list[float], list[float]]:
    """Steps and values where the metric is defined."""
    points = [(v["step"], v["tasks"].get(task, {}).get(name)) for v in run.validations]
    known = [(float(step), float(value)) for step, value in points if value is not None and not math.isnan(value)]
    return [step for step, _ in known], [value for _, value in known]
