"""Tables of a split's metrics."""

import math
from collections.abc import Iterator, Sequence

from rich.table import Table

from home_dist.metrics import Slice, TaskMetrics, mean_row
from home_dist.metrics.evaluation import Family
from home_dist.schema import Schema

COLUMNS: dict[Family, tuple[tuple[str, str], ...]] = {
    "binary": (("auc", "AUC"), ("gauc", "GAUC"), ("log_loss", "log loss"), ("calibration", "calibration")),
    "number": (
        ("mae", "MAE"),
        ("rmse", "RMSE"),
        ("r2", "R2"),
        ("xauc", "XAUC"),
        ("user_xauc", "XAUC per user"),
        ("calibration", "calibration"),
    ),
    "class": (("accuracy", "accuracy"), ("log_loss", "log loss"), ("macro_auc", "macro AUC")),
}
OF_REQUESTS = (("ndcg", "NDCG@10"), ("mrr", "MRR"), ("recall", "recall@10"))


def evaluation_tables(split: str, metrics: Sequence[TaskMetrics], schema: Schema) -> Iterator[Table]:
    """One table for each family of tasks, and one of the order within requests."""
    for family, columns in COLUMNS.items():
        tasks = [m for m in metrics if m.family == family]
        if tasks:
            yield _of_family(split, tasks, schema, columns)
    of_requests = [m for m in metrics if m.requests]
    if of_requests:
        table = Table(title=f"within requests: {split}")
        table.add_column("task")
        for name in ("requests", *(label for _, label in OF_REQUESTS)):
            table.add_column(name, justify="right")
        for m in of_requests:
            table.add_row(m.task, f"{m.requests:,}", *(_cell(getattr(m, name)) for name, _ in OF_REQUESTS))
        yield table


def _of_family(split: str, metrics: Sequence[TaskMetrics], schema: Schema, columns: Sequence[tuple[str, str]]) -> Table:
    """One row per task; the last row has each metric's mean over the tasks for which it is defined."""
    binary = metrics[0].family == "binary"
    units = {t.name: f" ({t.unit})" if t.unit and not binary else "" for t in schema.task}
    kinds = {"binary": "", "number": ", numbers", "class": ", classes"}
    table = Table(title=f"evaluation: {split}{kinds[metrics[0].family]}")
    table.add_column("task")
    for name in ("samples", *(["positives"] if binary else []), *(label for _, label in columns)):
        table.add_column(name, justify="right")
    for m in metrics:
        counts = [f"{m.samples:,}", *([f"{m.positives:,}"] if binary else [])]
        table.add_row(f"{m.task}{units[m.task]}", *counts, *(_cell(getattr(m, name)) for name, _ in columns))
    if binary or len(metrics) > 1:
        mean = mean_row(metrics)
        table.add_section()
        table.add_row("mean", *([""] * (2 if binary else 1)), *(_cell(getattr(mean, name)) for name, _ in columns))
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
