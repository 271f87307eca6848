"""Shows the content of a checkpoint and the differences between two. Tensors are read block by block."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from home_dist.config import CheckpointSection
from home_dist.errors import CheckpointError
from home_dist.training.checkpoint.folder import Checkpoints
from home_dist.training.checkpoint.manifest import MANIFEST, read_manifest, verify
from home_dist.training.checkpoint.of_run import checkpoints_of, number
from home_dist.training.checkpoint.pieces import Stored
from home_dist.training.checkpoint.reading import open_stored


def verified(path: Path) -> Iterator[str]:
    """Checks a checkpoint, or all of a run; yields a line for each intact one. At the end raises a CheckpointError that names
    each damaged file."""
    single = (path / MANIFEST).exists() or path.name.startswith("step-")
    checkpoints = Checkpoints(path.parent, CheckpointSection()) if single else checkpoints_of(path)
    chosen = [path] if single else checkpoints.complete()
    if not chosen:
        raise CheckpointError(f"{checkpoints.folder}: no complete checkpoint yet.")
    problems = []
    for checkpoint in chosen:
        try:
            verify(checkpoint)
            stored, _ = open_stored(checkpoint)
        except CheckpointError as error:
            problems.append(str(error))
            continue
        size = sum(e["bytes"] for e in read_manifest(checkpoint).values())
        yield f"{checkpoint}: intact, {len(stored.tensors)} tensors, {size / 1e6:,.1f} MB"
    if problems:
        intact = checkpoints.newest_intact()
        offer = f"The newest intact one is {intact}." if intact else "There is no intact one."
        raise CheckpointError("\n".join([*problems, offer]))


@dataclass(frozen=True)
class Figures:
    norm: float
    largest: float
    broken: int
    """Values that are NaN or infinite."""


def figures(stored: Stored, name: str) -> Figures:
    total, largest, broken = 0.0, 0.0, 0
    for _, values in stored.rows(name):
        values = values.double()
        finite = values[torch.isfinite(values)]
        broken += values.numel() - finite.numel()
        total += float(finite.square().sum())
        largest = max(largest, float(finite.abs().max()) if finite.numel() else 0.0)
    return Figures(math.sqrt(total), largest, broken)


def shown(path: Path) -> tuple[str, Table, Table]:
    """(summary, its tables, its dense tensors) of a checkpoint."""
    stored, record = open_stored(path)
    state = record.state
    lines = [
        f"{path}",
        f"step {state.step:,} | samples {state.samples:,} | epoch {state.position.epoch} + {state.position.steps} steps | "
        f"written by {state.world_size} rank{'s' if state.world_size > 1 else ''}",
        "metrics: " + (", ".join(f"{k} {number(v)}" for k, v in sorted(state.metrics.items())) or "none"),
        "versions: " + ", ".join(f"{k} {v}" for k, v in record.versions.items()),
    ]
    tables = Table(title="tables and their optimizers")
    for name in ("table", "state", "shape", "sharding"):
        tables.add_column(name)
    dense = Table(title="dense parameters and statistics, and the norms of their optimizer state")
    for name in ("tensor", "shape"):
        dense.add_column(name)
    for table in (tables, dense):
        for name in ("norm", "largest"):
            table.add_column(name, justify="right")
    dense.add_column("optimizer state")
    for name in stored.tensors:
        kind, _, rest = name.partition("/")
        shape = " x ".join(map(str, stored.shape(name))) or "one number"
        if kind == "dense_optimizer":
            continue
        sizes = figures(stored, name)
        numbers = [number(sizes.norm), number(sizes.largest) + (f", {sizes.broken} not finite" if sizes.broken else "")]
        if kind == "tables":
            table_name, _, key = rest.partition("/")
            plan = record.plan.get(table_name)
            tables.add_row(table_name, key, shape, plan.sharding if plan and key == "weight" else "", *numbers)
        else:
            states = [n for n in stored.tensors if n.startswith(f"dense_optimizer/{rest}/")]
            state_norms = ", ".join(f"{n.rpartition('/')[2]} {number(figures(stored, n).norm)}" for n in states)
            dense.add_row(rest, shape, *numbers, state_norms)
    return "\n".join(lines), tables, dense


def compared(before: Path, after: Path) -> tuple[str, Table]:
    """Differences between two checkpoints: settings, versions and metrics as text, tensors as a table by relative distance."""
    (old, old_record), (new, new_record) = open_stored(before), open_stored(after)
    lines = [f"from {before}, step {old_record.state.step:,}", f"to   {after}, step {new_record.state.step:,}"]
    for title, one, two in (
        ("config", _flat(old_record.config), _flat(new_record.config)),
        ("versions", old_record.versions, new_record.versions),
        ("metrics", old_record.state.metrics, new_record.state.metrics),
    ):
        differ = (key for key in sorted(one.keys() | two.keys()) if one.get(key) != two.get(key))
        lines += [f"{title}: {key}: {one.get(key, 'not there')} -> {two.get(key, 'not there')}" for key in differ]
    lone = sorted(old.tensors.keys() ^ new.tensors.keys())
    lines += [f"only in the {'first' if name in old.tensors else 'second'}: {name}" for name in lone]
    table = Table(title="tensors that differ, by distance relative to the first one's norm")
    table.add_column("tensor")
    for name in ("shape", "rows changed", "distance", "relative"):
        table.add_column(name, justify="right")
    rows, same = [], 0
    for name in (n for n in old.tensors if n in new.tensors):
        if old.shape(name) != new.shape(name):
            lines.append(f"resized: {name}: {old.shape(name)} -> {new.shape(name)}")
            continue
        difference = distance(old, new, name)
        same += difference is None
        if difference is not None:
            rows.append((difference[2], name, difference))
    for relative, name, (changed, apart, _) in sorted(rows, key=lambda r: -r[0]):
        shape = old.shape(name)
        rows_changed = f"{changed:,} of {shape[0]:,}" if shape else ""
        table.add_row(name, " x ".join(map(str, shape)), rows_changed, number(apart), number(relative))
    lines.append(f"tensors: {len(rows)} differ, {same} are the same bit for bit")
    return "\n".join(lines), table


def distance(old: Stored, new: Stored, name: str) -> tuple[int, float, float] | None:
    """(rows changed, distance, distance relative to the old norm); None if all bits are the same."""
    changed, apart, norm = 0, 0.0, 0.0
    for (_, a), (_, b) in zip(old.rows(name), new.rows(name), strict=True):
        differ = changed_rows(a, b)
        changed += int(differ.sum())
        apart += float((a.double() - b.double()).square().sum())
        norm += float(a.double().square().sum())
    return (changed, math.sqrt(apart), math.sqrt(apart / norm) if norm else math.inf) if changed else None


def changed_rows(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Mask (rows,): True where two tensors of one shape differ in some bit of the row."""
    rows = len(a) if a.dim() else 1
    bits = [x.contiguous().view(torch.uint8) if x.dim() else x.reshape(1).view(torch.uint8) for x in (a, b)]
    return (bits[0].reshape(rows, -1) != bits[1].reshape(rows, -1)).any(1)


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(tree, dict):
        return {k: v for name, sub in tree.items() for k, v in _flat(sub, f"{prefix}{name}.").items()}
    return {prefix[:-1]: tree}
