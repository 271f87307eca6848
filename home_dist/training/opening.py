"""Texts that a run shows at its start: detected devices, kernel, data and model, sharding plan."""

import os
import socket
from collections.abc import Sequence

import torch
from rich.table import Table
from torch import nn

from home_dist.config import KernelSection
from home_dist.data.bins import BinnedWindows
from home_dist.data.inputs import Inputs
from home_dist.data.reader import Reader
from home_dist.distributed.ranks import Ranks
from home_dist.embeddings.sharding import PlanRow
from home_dist.experts.kernels import Kernel, choose
from home_dist.experts.share import held_apart


def detected(ranks: Ranks, kernel: KernelSection) -> str:
    cores = len(os.sched_getaffinity(0))
    if ranks.device.type == "cuda":
        hardware = f"{ranks.local_world_size} x {torch.cuda.get_device_name(ranks.device)}"
    else:
        hardware = f"CPU, {cores} cores on {socket.gethostname()}, {ranks.threads} threads per rank"
    backend = "nccl" if ranks.device.type == "cuda" else "gloo"
    plural = "s" if ranks.world_size > 1 else ""
    chosen = choose(ranks.device, kernel)
    return f"devices: {ranks.world_size} rank{plural} on {hardware} | backend: {backend} | expert kernel: {chosen}"


def kernel_taken(ranks: Ranks, wanted: KernelSection, taken: Kernel) -> str:
    """Names the kernel that this model uses; empty if it is the detected one. A model's widths may rule that one out."""
    return "" if taken == choose(ranks.device, wanted) else f"expert kernel of this model: {taken}"


def pools_taken(head: nn.Module) -> str:
    """How many ranks share each pool of experts; empty where every rank holds all experts."""
    shares = dict.fromkeys(held_apart(head).values())
    return "\n".join(
        f"expert parallelism: {s.holders.count} of {s.world} ranks share {s.experts:,} experts, {s.count:,} on this one"
        for s in shares
    )


def derived(inputs: Inputs, ranks: Ranks, steps: int) -> str:
    train = inputs.config.train
    rows = ", ".join(f"{split} {files.rows:,}" for split, files in inputs.files.items())
    groups = {g: [t.name for t in inputs.schema.task if t.group == g] for g in inputs.schema.groups}
    tasks = "; ".join(f"{g}: {', '.join(names)}" for g, names in groups.items())
    every = inputs.config.insight.interval(None if inputs.config.data.follow else steps)
    looks = f" | experts are examined every {every} steps" if every else ""
    return (
        f"data: {inputs.config.data.shown} | rows: {rows}\n"
        f"tasks: {tasks}\n"
        f"model: {inputs.config.model.kind} | global batch {train.batch_size * ranks.world_size:,} "
        f"({train.batch_size:,} per rank) | epochs {train.epochs} | {steps:,} steps in all{looks}"
    )


_MUCH_PADDING = 0.1


def kept_together(reader: Reader, epoch: int) -> str:
    """The requests of an epoch and the share of padding in its batches; empty without `data.request`."""
    windows = reader.windows(epoch)
    if not isinstance(windows, BinnedWindows):
        return ""
    requests = windows.requests
    told = (
        f"requests: {len(requests.sizes):,} by {', '.join(requests.files.request)}, of up to {requests.largest:,} rows | "
        f"bins of {windows.size:,} rows | padding {windows.padding:.1%}"
    )
    advice = "; a larger train.batch_size, fewer data.lanes or a larger data.window_rows make it less"
    return told + (advice if windows.padding > _MUCH_PADDING else "")


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
