"""`home-dist checkpoints`: what is in one, what changed between two. Tensors are read block by block."""

import math
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from home_dist.config import CheckpointSection, load_config
from home_dist.errors import CheckpointError
from home_dist.training.checkpoint.folder import ASIDE, WRITING, Checkpoints, read_record, step_of
from home_dist.training.checkpoint.loading import open_stored
from home_dist.training.checkpoint.manifest import MANIFEST, read_manifest, verify
from home_dist.training.checkpoint.pieces import Stored
from home_dist.training.checkpoint.state import Record
from home_dist.training.run_folder import RunFolder


def checkpoints_of(run: Path) -> Checkpoints:
    """Of a run's folder, with its rules. Raises CheckpointError."""
    config = run / "config.toml"
    if not config.is_file():
        raise CheckpointError(f"{run}: no run is there (no config.toml). Give the run.dir of a run that was started.")
    return Checkpoints(run / "checkpoints", load_config(config).checkpoint)


def find(path: Path) -> Path:
    """A checkpoint as a user names it: its folder, a run's folder for the newest, or RUN/best. Raises CheckpointError."""
    if (path / MANIFEST).exists() or path.name.startswith("step-"):
        return path
    run, best = (path.parent, True) if path.name == "best" and not path.exists() else (path, False)
    there = checkpoints_of(run)
    found = there.best() if best else there.newest()
    if found is None:
        what = (
            "no checkpoint was measured; set checkpoint.best"
            if best
            else "no complete checkpoint yet; run `home-dist train` first"
        )
        raise CheckpointError(f"{there.folder}: {what}.")
    return found


def listing(run: Path) -> Table:
    """All checkpoints of a run, those that are being written or were set aside included; none of them is verified."""
    there = checkpoints_of(run)
    kept, best, names = there.kept(), there.best(), there.complete()
    records: dict[Path, Record | str] = {}
    for path in names:
        try:
            records[path] = read_record(path)
        except CheckpointError as error:
            records[path] = str(error)
    metrics = sorted({name for r in records.values() if isinstance(r, Record) for name in r.state.metrics})
    table = Table(title=f"checkpoints of {run}")
    table.add_column("checkpoint", no_wrap=True)
    for name in ("samples", "epoch+steps", "ranks", "MB", *(m.removeprefix("validation/") for m in metrics)):
        table.add_column(name, justify="right")
    table.add_column("")
    for path, record in records.items():
        if isinstance(record, str):
            table.add_row(path.name, *[""] * (4 + len(metrics)), "damaged: home-dist checkpoints verify tells more")
            continue
        state = record.state
        marks = [m for m, so in (("newest", path == names[-1]), ("best", path == best), ("not kept", path not in kept)) if so]
        measured = [_number(state.metrics.get(name)) for name in metrics]
        size = f"{sum(e['bytes'] for e in read_manifest(path).values()) / 1e6:,.1f}"
        where = f"{state.position.epoch}+{state.position.steps}"
        table.add_row(path.name, f"{state.samples:,}", where, str(state.world_size), size, *measured, ", ".join(marks))
    for path in sorted(p for ending in (WRITING, ASIDE) for p in there.folder.glob(f"step-*{ending}")):
        note = "unfinished; the next save removes it" if path.name.endswith(WRITING) else "damaged, set aside"
        table.add_row(path.name, *[""] * (4 + len(metrics)), note)
    return table


def verified(path: Path) -> Iterator[str]:
    """Checks a checkpoint, or all of a run, and yields a line about each that is intact. Raises CheckpointError at the end,
    which names each file that is not."""
    single = (path / MANIFEST).exists() or path.name.startswith("step-")
    there = Checkpoints(path.parent, CheckpointSection()) if single else checkpoints_of(path)
    chosen = [path] if single else there.complete()
    if not chosen:
        raise CheckpointError(f"{there.folder}: no complete checkpoint yet.")
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
        intact = there.newest_intact()
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
    """What a checkpoint is, and its tables and dense tensors."""
    stored, record = open_stored(path)
    state = record.state
    lines = [
        f"{path}",
        f"step {state.step:,} | samples {state.samples:,} | epoch {state.position.epoch} + {state.position.steps} steps | "
        f"written by {state.world_size} rank{'s' if state.world_size > 1 else ''}",
        "metrics: " + (", ".join(f"{k} {_number(v)}" for k, v in sorted(state.metrics.items())) or "none"),
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
        found = figures(stored, name)
        numbers = [_number(found.norm), _number(found.largest) + (f", {found.broken} not finite" if found.broken else "")]
        if kind == "tables":
            table_name, _, key = rest.partition("/")
            plan = record.plan.get(table_name)
            tables.add_row(table_name, key, shape, plan.sharding if plan and key == "weight" else "", *numbers)
        else:
            states = [n for n in stored.tensors if n.startswith(f"dense_optimizer/{rest}/")]
            of_state = ", ".join(f"{n.rpartition('/')[2]} {_number(figures(stored, n).norm)}" for n in states)
            dense.add_row(rest, shape, *numbers, of_state)
    return "\n".join(lines), tables, dense


def compared(before: Path, after: Path) -> tuple[str, Table]:
    """What changed from one checkpoint to another: settings, versions and metrics, and tensors by relative distance."""
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
        found = distance(old, new, name)
        same += found is None
        if found is not None:
            rows.append((found[2], name, found))
    for relative, name, (changed, apart, _) in sorted(rows, key=lambda r: -r[0]):
        shape = old.shape(name)
        of = f"{changed:,} of {shape[0]:,}" if shape else ""
        table.add_row(name, " x ".join(map(str, shape)), of, _number(apart), _number(relative))
    lines.append(f"tensors: {len(rows)} differ, {same} are the same bit for bit")
    return "\n".join(lines), table


def distance(old: Stored, new: Stored, name: str) -> tuple[int, float, float] | None:
    """Rows that changed, distance and distance relative to the norm; None if all bits are the same."""
    changed, apart, norm = 0, 0.0, 0.0
    for (_, a), (_, b) in zip(old.rows(name), new.rows(name), strict=True):
        differ = changed_rows(a, b)
        changed += int(differ.sum())
        apart += float((a.double() - b.double()).square().sum())
        norm += float(a.double().square().sum())
    return (changed, math.sqrt(apart), math.sqrt(apart / norm) if norm else math.inf) if changed else None


def changed_rows(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """(rows,): which rows of two tensors of one shape differ in some bit."""
    rows = len(a) if a.dim() else 1
    bits = [x.contiguous().view(torch.uint8) if x.dim() else x.reshape(1).view(torch.uint8) for x in (a, b)]
    return (bits[0].reshape(rows, -1) != bits[1].reshape(rows, -1)).any(1)


def pruned(run: Path, keep_last: int | None, keep_every: int | None, dry: bool) -> list[str]:
    """Removes what the run's rules, or those given, do not keep. Raises ConfigError while a process trains into the run."""
    there = checkpoints_of(run)
    given = {k: v for k, v in (("keep_last", keep_last), ("keep_every", keep_every)) if v is not None}
    there = Checkpoints(there.folder, CheckpointSection.model_validate(there.keep.model_dump() | given))
    with nullcontext() if dry else RunFolder(run).locked():
        gone = there.prune(dry)
    verb = "would remove" if dry else "removed"
    lines = [f"{verb} {path}" for path in gone] or ["nothing to remove"]
    return [*lines, f"kept: {', '.join(str(step_of(p)) for p in sorted(there.kept(), key=step_of)) or 'none'}"]


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(tree, dict):
        return {k: v for name, sub in tree.items() for k, v in _flat(sub, f"{prefix}{name}.").items()}
    return {prefix[:-1]: tree}


def _number(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.4g}"
