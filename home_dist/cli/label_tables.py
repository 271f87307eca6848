"""Tables of a label's fitted values: thresholds, quantiles by duration, or shares of classes."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

from home_dist.schema import LabelValues, TaskSpec

_SHOWN = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
"""Quantiles of a group of durations that are shown."""


def label_lines(task: TaskSpec) -> Iterator[str]:
    """Of a task that is not binary."""
    unit = "" if task.unit is None else f", {task.unit}"
    yield f"{task.name} ({task.kind}{unit}, column {task.column})"
    values = task.values
    if values is None:
        yield "  nothing is fitted of it"
        return
    if values.shares:
        rows = [[str(n), f"{share:.3%}"] for n, share in enumerate(values.shares)]
        yield from _table(["class", "share"], rows)
        return
    yield f"  mean {values.mean:.6g}, deviation {values.std:.6g}; of log(1 + y): {values.log_mean:.6g}, {values.log_std:.6g}"
    if values.thresholds:
        above = values.above or [float("nan")] * len(values.thresholds)
        rows = [[f"{t:g}", f"{share:.2%}"] for t, share in zip(values.thresholds, above, strict=True)]
        yield from _table(["threshold", "rows above"], rows)
    if values.quantiles:
        yield from _durations(task, values)


def _durations(task: TaskSpec, values: LabelValues) -> Iterator[str]:
    edges = ["", *(f"{b:g}" for b in values.duration_boundaries), ""]
    rows = []
    for (low, high), quantiles in zip(pairwise(edges), values.quantiles, strict=True):
        last = len(quantiles) - 1
        rows.append([low, high, *(f"{quantiles[round(share * last)]:g}" for share in _SHOWN)])
    yield f"  quantiles of the label by {task.duration or 'duration'}:"
    yield from _table(["from", "below", *(f"{share:.0%}" for share in _SHOWN)], rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    for row in (head, *rows):
        yield "  " + "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
