"""What a run shows as tables: what was detected, the sharding plan, the evaluation."""

import math
import os
import socket
from collections.abc import Sequence

import torch
from rich.table import Table

from home_dist.config import KernelSection
from home_dist.embeddings.sharding import PlanRow
from home_dist.experts.kernels import Kernel, choose
from home_dist.metrics import Slice, TaskMetrics, mean_row
from home_dist.training.build import Inputs
from home_dist.training.ranks import Ranks


def detected(ranks: Ranks, kernel: KernelSection) -> str:
    cores = len(os.sched_getaffinity(0))
    if ranks.device.type == "cuda":
        what = f"{ranks.local_world_size} x {torch.cuda.get_device_name(ranks.device)}"
    else:
        what = f"CPU, {cores} cores on {socket.gethostname()}, {ranks.threads} threads per rank"
    backend = "nccl" if ranks.device.type == "cuda" else "gloo"
    plural = "s" if ranks.world_size > 1 else ""
    chosen = choose(ranks.device, kernel)
    return f"devices: {ranks.world_size} rank{plural} on {what} | backend: {backend} | expert kernel: {chosen}"


def kernel_taken(ranks: Ranks, wanted: KernelSection, taken: Kernel) -> str:
    """What a model's widths made of the kernel that was detected; empty if it is the one taken."""
    return "" if taken == choose(ranks.device, wanted) else f"expert kernel of this model: {taken}"


def derived(inputs: Inputs, ranks: Ranks, steps: int) -> str:
    train = inputs.config.train
    rows = ", ".join(f"{split} {files.rows:,}" for split, files in inputs.files.items())
    groups = {g: [t.name for t in inputs.schema.task if t.group == g] for g in inputs.schema.groups}
    tasks = "; ".join(f"{g}: {', '.join(names)}" for g, names in groups.items())
    return (
        f"data: {inputs.config.data.shown} | rows: {rows}\n"
        f"tasks: {tasks}\n"
        f"model: {inputs.config.model.kind} | global batch {train.batch_size * ranks.world_size:,} "
        f"({train.batch_size:,} per rank) | epochs {train.epochs} | {steps:,} steps in all"
    )


def plan_table(rows: Sequence[PlanRow]) -> Table:
    table = Table(title="sharding plan")
    table.add_column("table")
    for name in ("rows", "dim"):
        table.add_column(name, justify="right")
    table.add_column("sharding")
    table.add_column("rank")
    table.add_column("bytes", justify="right")
    for row in rows:
        table.add_row(row.table, f"{row.rows:,}", str(row.dim), row.sharding, row.ranks, f"{row.bytes:,}")
    return table


def evaluation_table(split: str, metrics: Sequence[TaskMetrics]) -> Table:
    """The last row is the mean over tasks, of those that are defined."""
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
    """Per value of a feature the means over tasks."""
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
