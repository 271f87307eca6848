"""Checkpoints for tests, written by one process without a model."""

import json
from pathlib import Path

import torch

from home_dist.data import ReaderPosition
from home_dist.training.checkpoint.manifest import entry, write_manifest
from home_dist.training.checkpoint.pieces import Piece, write_pieces
from home_dist.training.checkpoint.state import Record, TrainState, versions
from home_dist.training.checkpoint.table_plan import Shard, TablePlan

POSITION = ReaderPosition(0, 3, 1, 16, "f" * 16)


def write_checkpoint(
    folder: Path, tensors: dict[str, torch.Tensor], step: int = 3, metrics: dict[str, float] | None = None, **config: object
) -> Path:
    """Returns folder/step-...; needs a process group of one."""
    path = folder / f"step-{step:08d}"
    path.mkdir(parents=True)
    write_pieces(path, [Piece.whole(name, values) for name, values in tensors.items()], None)
    tables = {n.split("/")[1]: t for n, t in tensors.items() if n.startswith("tables/") and n.endswith("/weight")}
    plan = {name: TablePlan("row_wise", (Shard(0, (0, len(t)), (0, t.shape[1])),)) for name, t in tables.items()}
    record = Record(TrainState(step, step * 16, False, POSITION, 1, metrics or {}), plan, dict(config), versions())
    (path / "state.json").write_text(json.dumps(record.to_json()))
    write_manifest(path, {p.name: entry(p) for p in path.iterdir()})
    return path
