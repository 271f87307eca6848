"""How embedding tables have grown, and which of their rows no step has changed.

Sharded tables start from values that can be made again (embeddings/collections.py): a row that still holds them was never
looked up. Each rank looks at the rows that lie on it.
"""

from collections.abc import Collection
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn

from home_dist.embeddings.collections import initial_values, table_shards

_BLOCK = 1 << 16
"""Rows that are looked at together, so that the memory needed does not depend on the table."""


@dataclass(frozen=True)
class TableFigures:
    table: str
    rows: int
    untouched: float
    """Share of rows that still hold what they started with."""
    size: float
    """Root mean square of the entries of the others."""
    largest: float
    """Largest absolute entry."""
    growth: float
    """`size` over the standard deviation that tables start with."""
    broken: int
    """Entries that are infinite or NaN."""
    used_to: int = -1
    """Rows up to the last one that was looked up; -1: of a record that does not tell."""
    hashed: bool = False
    """Whether the run hashes ids into the rows, so that used ones lie anywhere."""


@torch.no_grad()
def table_figures(model: nn.Module, std: float, seed: int, hashed: Collection[str] = ()) -> list[TableFigures]:
    """Of all sharded tables, the same on every rank; every rank calls it. std, seed: those that the run started with. hashed:
    tables that ids are hashed into."""
    found: dict[str, torch.Tensor] = {}
    largest: dict[str, torch.Tensor] = {}
    rows: dict[str, int] = {}
    for shard in table_shards(model):
        rows[shard.table] = shard.rows
        # A row cut into columns is counted by the share of it that lies here; a copy on each rank by one rank's share.
        share = shard.values.shape[1] / shard.dim / shard.copies
        sums = found.setdefault(shard.table, torch.zeros(4, dtype=torch.float64))
        top = largest.setdefault(shard.table, torch.zeros(2, dtype=torch.float64))
        for first in range(0, len(shard.values), _BLOCK):
            values = shard.values[first : first + _BLOCK].detach().cpu()
            same = (values == initial_values(shard, first, len(values), std, seed).to(values.dtype)).all(1)
            finite = values.isfinite()
            touched = torch.where(finite, values, 0)[~same].double()
            sums += torch.tensor(
                [
                    share * float(same.sum()),
                    float(touched.square().sum()) / shard.copies,
                    touched.numel() / shard.copies,
                    float((~finite).sum()) / shard.copies,
                ],
                dtype=torch.float64,
            )
            if values.numel():
                used = (~same).nonzero().flatten()
                last = shard.first_row + first + int(used[-1]) + 1 if len(used) else 0
                reached = (torch.where(finite, values, 0).abs().max().item(), last)
                top.copy_(torch.maximum(top, torch.tensor(reached, dtype=torch.float64)))
    # A rank may hold no shard of a table.
    known: list[dict[str, int]] = [{} for _ in range(dist.get_world_size())]
    dist.all_gather_object(known, rows)
    rows = {table: count for ranks in known for table, count in ranks.items()}
    tables = sorted(rows)
    if not tables:
        return []
    packed = torch.stack([found.get(t, torch.zeros(4, dtype=torch.float64)) for t in tables])
    tops = torch.stack([largest.get(t, torch.zeros(2, dtype=torch.float64)) for t in tables])
    dist.all_reduce(packed)
    dist.all_reduce(tops, op=dist.ReduceOp.MAX)
    result = []
    for table, (same, squares, entries, broken), (top, last) in zip(tables, packed.tolist(), tops.tolist(), strict=True):
        size = (squares / entries) ** 0.5 if entries else 0.0
        untouched, place = same / rows[table], (int(last), table in hashed)
        result.append(TableFigures(table, rows[table], untouched, size, top, size / std, round(broken), *place))
    return result
