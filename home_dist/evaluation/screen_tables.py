"""Tables of a split's metrics."""

import math
from collections.abc import Sequence

from rich.table import Table

from home_dist.metrics import Slice, TaskMetrics, mean_row


def evaluation_table(split: str, metrics: Sequence[TaskMetrics]) -> Table:
    """One row per task; the last row has each metric's mean over the tasks for which it is defined."""
    table = Table(title=f"evaluation: {split}")
    table.add_column("task")
    for name in ("samples", "positives", "AUC", "GAUC", "log loss", "calibration"):
        table.add_column(name, justify="right")
    for m in metrics:
        table.add_row(m.task, f"{m.samples:,}", f"{m.positives:,}", *_figures(m))
    table.add_section()
    table.add_row("mean", "", "", *_figures(mean_row(metrics)))
    return table


def slice_table(split: str, feature: str, slices: Sequence[Slice]) -> Table:
    """One row per value of a feature: means over tasks."""
    table = Table(title=f"evaluation: {split}, by {feature}")
    table.add_column(feature, justify="right")
    for name in ("samples", "AUC", "GAUC", "log loss", "calibration"):
        table.add_column(name, justify="right")
    for part in slices:
        table.add_row(str(part.value), f"{part.samples:,}", *_figures(mean_row(part.tasks)))
    return table


def _figures(m: TaskMetrics) -> list[str]:
    return [_cell(m.auc), _cell(m.gauc), _cell(m.log_loss), _cell(m.calibration)]


def _cell(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4f}" if abs(value) < 1e6 else f"{value:.4g}"
