"""Growth of sharded embedding tables, and the share of rows that no step has changed.

Initial values can be computed again (embeddings/collections.py): a row that still holds them was never looked up. Each rank
examines the rows that it holds.
"""

from collections.abc import Collection
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn

from home_dist.embeddings.collections import initial_values, table_shards

_BLOCK = 1 << 16
"""Rows examined at a time, so that the memory needed does not depend on the table."""


@dataclass(frozen=True)
class TableFigures:
    table: str
    rows: int
    untouched: float
    """Share of rows that still hold their initial values."""
    size: float
    """Root mean square of the entries of all other rows."""
    largest: float
    """Largest absolute entry."""
    growth: float
    """`size` / standard deviation of initial values."""
    broken: int
    """Entries that are infinite or NaN."""
    used_to: int = -1
    """Number of rows up to the last one that was looked up; -1 in records without this figure."""
    hashed: bool = False
    """Whether the run hashes ids into rows, so that used rows lie anywhere."""


@torch.no_grad()
def table_figures(model: nn.Module, std: float, seed: int, hashed: Collection[str] = ()) -> list[TableFigures]:
    """Figures of all sharded tables, the same on every rank. Collective. std, seed: of the run's initial values. hashed: tables
    into which ids are hashed."""
    sums_of: dict[str, torch.Tensor] = {}
    largest: dict[str, torch.Tensor] = {}
    rows: dict[str, int] = {}
    for shard in table_shards(model):
        rows[shard.table] = shard.rows
        # In a column-wise shard a row counts by the share of its columns; of a table copied to n ranks, each counts 1 / n.
        share = shard.values.shape[1] / shard.dim / shard.copies
        sums = sums_of.setdefault(shard.table, torch.zeros(4, dtype=torch.float64))
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
    # A rank may hold no shard of a table that others hold.
    rows_by_rank: list[dict[str, int]] = [{} for _ in range(dist.get_world_size())]
    dist.all_gather_object(rows_by_rank, rows)
    rows = {table: count for rank_rows in rows_by_rank for table, count in rank_rows.items()}
    tables = sorted(rows)
    if not tables:
        return []
    packed = torch.stack([sums_of.get(t, torch.zeros(4, dtype=torch.float64)) for t in tables])
    tops = torch.stack([largest.get(t, torch.zeros(2, dtype=torch.float64)) for t in tables])
    dist.all_reduce(packed)
    dist.all_reduce(tops, op=dist.ReduceOp.MAX)
    result = []
    for table, (same, squares, entries, broken), (top, last) in zip(tables, packed.tolist(), tops.tolist(), strict=True):
        size = (squares / entries) ** 0.5 if entries else 0.0
        untouched, place = same / rows[table], (int(last), table in hashed)
        result.append(TableFigures(table, rows[table], untouched, size, top, size / std, round(broken), *place))
    return result
