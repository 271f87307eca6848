"""How embedding tables have grown, and which of their rows no step has changed.

Sharded tables start from values that can be made again (embeddings/collections.py): a row that still holds them was never
looked up. Each rank looks at the rows that lie on it.
"""

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


@torch.no_grad()
def table_figures(model: nn.Module, std: float, seed: int) -> list[TableFigures]:
    """Of all sharded tables, the same on every rank; every rank calls it. std, seed: those that the run started with."""
    found: dict[str, torch.Tensor] = {}
    largest: dict[str, torch.Tensor] = {}
    rows: dict[str, int] = {}
    for shard in table_shards(model):
        rows[shard.table] = shard.rows
        # A row cut into columns is counted by the share of it that lies here; a copy on each rank by one rank's share.
        share = shard.values.shape[1] / shard.dim / shard.copies
        sums = found.setdefault(shard.table, torch.zeros(4, dtype=torch.float64))
        top = largest.setdefault(shard.table, torch.zeros(1, dtype=torch.float64))
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
                top.clamp_(min=torch.where(finite, values, 0).abs().max().item())
    # A rank may hold no shard of a table.
    known: list[dict[str, int]] = [{} for _ in range(dist.get_world_size())]
    dist.all_gather_object(known, rows)
    rows = {table: count for ranks in known for table, count in ranks.items()}
    tables = sorted(rows)
    if not tables:
        return []
    packed = torch.stack([found.get(t, torch.zeros(4, dtype=torch.float64)) for t in tables])
    tops = torch.stack([largest.get(t, torch.zeros(1, dtype=torch.float64)) for t in tables])
    dist.all_reduce(packed)
    dist.all_reduce(tops, op=dist.ReduceOp.MAX)
    result = []
    for table, (same, squares, entries, broken), top in zip(tables, packed.tolist(), tops.flatten().tolist(), strict=True):
        size = (squares / entries) ** 0.5 if entries else 0.0
        result.append(TableFigures(table, rows[table], same / rows[table], size, top, size / std, round(broken)))
    return result
