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


@dataclass(frozen=True)
class Verified:
    """A checkpoint whose files were read and compared with its manifest."""

    checkpoint: str
    intact: bool
    tensors: int | None = None
    bytes: int | None = None
    problem: str | None = None

    def __str__(self) -> str:
        return f"{self.checkpoint}: intact, {self.tensors} tensors, {(self.bytes or 0) / 1e6:,.1f} MB"


def verified(path: Path) -> Iterator[Verified]:
    """Checks a checkpoint, or all of a run, one after the other. At the end raises a CheckpointError that names each damaged
    file."""
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
            yield Verified(str(checkpoint), False, problem=str(error))
            continue
        size = sum(e["bytes"] for e in read_manifest(checkpoint).values())
        yield Verified(str(checkpoint), True, len(stored.tensors), size)
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


def shown(path: Path) -> dict[str, Any]:
    """What is in a checkpoint: its step and metrics, and shape, norm and largest value of each tensor."""
    stored, record = open_stored(path)
    state = record.state
    tables, dense = [], []
    for name in stored.tensors:
        kind, _, rest = name.partition("/")
        if kind == "dense_optimizer":
            continue
        entry = {"shape": list(stored.shape(name)), **vars(figures(stored, name))}
        if kind == "tables":
            table_name, _, key = rest.partition("/")
            plan = record.plan.get(table_name)
            tables.append(
                {"table": table_name, "state": key, **entry, "sharding": plan.sharding if plan and key == "weight" else None}
            )
        else:
            states = [n for n in stored.tensors if n.startswith(f"dense_optimizer/{rest}/")]
            norms = {n.rpartition("/")[2]: figures(stored, n).norm for n in states}
            dense.append({"tensor": rest, **entry, "optimizer_norms": norms})
    return {
        "checkpoint": str(path),
        "step": state.step,
        "samples": state.samples,
        "epoch": state.position.epoch,
        "steps_of_epoch": state.position.steps,
        "ranks": state.world_size,
        "metrics": dict(sorted(state.metrics.items())),
        "versions": record.versions,
        "tables": tables,
        "dense": dense,
    }


def told(content: dict[str, Any]) -> tuple[str, Table, Table]:
    """(summary, its tables, its dense tensors) of what `shown` returned."""
    ranks, metrics = content["ranks"], content["metrics"]
    lines = [
        content["checkpoint"],
        f"step {content['step']:,} | samples {content['samples']:,} | epoch {content['epoch']} + {content['steps_of_epoch']} "
        f"steps | written by {ranks} rank{'s' if ranks > 1 else ''}",
        "metrics: " + (", ".join(f"{k} {number(v)}" for k, v in metrics.items()) or "none"),
        "versions: " + ", ".join(f"{k} {v}" for k, v in content["versions"].items()),
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
    for entry in content["tables"]:
        tables.add_row(entry["table"], entry["state"], _shape(entry), entry["sharding"] or "", *_sizes(entry))
    for entry in content["dense"]:
        norms = ", ".join(f"{name} {number(norm)}" for name, norm in entry["optimizer_norms"].items())
        dense.add_row(entry["tensor"], _shape(entry), *_sizes(entry), norms)
    return "\n".join(lines), tables, dense


def _shape(entry: dict[str, Any]) -> str:
    return " x ".join(map(str, entry["shape"])) or "one number"


def _sizes(entry: dict[str, Any]) -> tuple[str, str]:
    broken = f", {entry['broken']} not finite" if entry["broken"] else ""
    return number(entry["norm"]), number(entry["largest"]) + broken


def compared(before: Path, after: Path) -> dict[str, Any]:
    """Differences between two checkpoints: settings, versions and metrics by key, and tensors by relative distance."""
    (old, old_record), (new, new_record) = open_stored(before), open_stored(after)
    changes: dict[str, dict[str, tuple[Any, Any]]] = {}
    for title, one, two in (
        ("config", _flat(old_record.config), _flat(new_record.config)),
        ("versions", old_record.versions, new_record.versions),
        ("metrics", old_record.state.metrics, new_record.state.metrics),
    ):
        differ = (key for key in sorted(one.keys() | two.keys()) if one.get(key) != two.get(key))
        changes[title] = {key: (one.get(key), two.get(key)) for key in differ}
    tensors, resized, same = [], {}, 0
    for name in (n for n in old.tensors if n in new.tensors):
        if old.shape(name) != new.shape(name):
            resized[name] = list(old.shape(name)), list(new.shape(name))
            continue
        difference = distance(old, new, name)
        same += difference is None
        if difference is not None:
            rows, apart, relative = difference
            shape = list(old.shape(name))
            tensors.append({"tensor": name, "shape": shape, "rows": rows, "distance": apart, "relative": relative})
    return {
        "from": {"checkpoint": str(before), "step": old_record.state.step},
        "to": {"checkpoint": str(after), "step": new_record.state.step},
        **changes,
        "only_in_first": sorted(old.tensors.keys() - new.tensors.keys()),
        "only_in_second": sorted(new.tensors.keys() - old.tensors.keys()),
        "resized": resized,
        "tensors": sorted(tensors, key=lambda t: -t["relative"]),
        "same": same,
    }


def differences_told(found: dict[str, Any]) -> tuple[str, Table]:
    """What `compared` returned, as text and a table."""
    lines = [f"{word:4} {found[word]['checkpoint']}, step {found[word]['step']:,}" for word in ("from", "to")]
    for title in ("config", "versions", "metrics"):
        lines += [f"{title}: {key}: {_there(one)} -> {_there(two)}" for key, (one, two) in found[title].items()]
    lone = [(name, "first") for name in found["only_in_first"]] + [(name, "second") for name in found["only_in_second"]]
    lines += [f"only in the {place}: {name}" for name, place in sorted(lone)]
    lines += [f"resized: {name}: {tuple(one)} -> {tuple(two)}" for name, (one, two) in found["resized"].items()]
    table = Table(title="tensors that differ, by distance relative to the first one's norm")
    table.add_column("tensor")
    for name in ("shape", "rows changed", "distance", "relative"):
        table.add_column(name, justify="right")
    for entry in found["tensors"]:
        shape = entry["shape"]
        rows_changed = f"{entry['rows']:,} of {shape[0]:,}" if shape else ""
        sizes = number(entry["distance"]), number(entry["relative"])
        table.add_row(entry["tensor"], " x ".join(map(str, shape)), rows_changed, *sizes)
    lines.append(f"tensors: {len(found['tensors'])} differ, {found['same']} are the same bit for bit")
    return "\n".join(lines), table


def _there(value: Any) -> Any:
    return "not there" if value is None else value


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
