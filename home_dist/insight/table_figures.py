"""Growth of sharded embedding tables, and the share of rows that no step has changed.

Initial values can be computed again (embeddings/initial.py): a row that still holds them was never looked up. Of a large table
`SAMPLED` rows are examined, one of each of so many equal parts of it, the same ones at each checkpoint and on any number of
ranks: the cost does not depend on its rows. Each rank examines those that it holds, where they lie.
"""

import zlib
from collections.abc import Collection
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn

from home_dist.embeddings.collections import TableShard, table_shards
from home_dist.embeddings.initial import Drawn
from home_dist.embeddings.managed import managed_rows

SAMPLED = 4096
"""Rows of a table that are examined at most. The standard deviation of a share of untouched rows is then at most 0.008."""


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
    """Examined entries that are infinite or NaN."""
    used_to: int = -1
    """Number of rows up to the last one that was looked up, as far as examined; -1 in records without this figure."""
    hashed: bool = False
    """Whether the run hashes ids into rows, so that used rows lie anywhere."""
    examined: int = -1
    """Rows that the figures are of; -1 in records of all rows."""
    given: bool = False
    """Whether rows began with vectors of a file. Then `untouched` and `growth` do not tell what training did."""


@torch.no_grad()
def table_figures(
    model: nn.Module, std: float, seed: int, hashed: Collection[str] = (), given: Collection[str] = ()
) -> list[TableFigures]:
    """Figures of all sharded tables, the same on every rank. Collective. std, seed: of the run's initial values. hashed: tables
    into which ids are hashed; given: tables that began with vectors of a file."""
    sums_of: dict[str, torch.Tensor] = {}
    tops_of: dict[str, torch.Tensor] = {}
    rows: dict[str, int] = {}
    managed = managed_rows(model)
    for shard in table_shards(model):
        rows[shard.table] = managed.get(shard.table, shard.rows)
        own = _own(shard, rows[shard.table])
        sums, tops = _examined(shard, own, Drawn(shard.table, shard.dim, std, seed))
        sums_of[shard.table] = sums_of[shard.table] + sums if shard.table in sums_of else sums
        tops_of[shard.table] = torch.maximum(tops_of[shard.table], tops) if shard.table in tops_of else tops
    # A rank may hold no shard of a table that others hold.
    rows_by_rank: list[dict[str, int]] = [{} for _ in range(dist.get_world_size())]
    dist.all_gather_object(rows_by_rank, rows)
    rows = {table: count for rank_rows in rows_by_rank for table, count in rank_rows.items()}
    tables = sorted(rows)
    if not tables:
        return []
    device = next(iter(sums_of.values())).device if sums_of else torch.device("cpu")
    packed = torch.stack([sums_of.get(t, torch.zeros(4, dtype=torch.float64, device=device)) for t in tables]).cpu()
    tops = torch.stack([tops_of.get(t, torch.zeros(2, dtype=torch.float64, device=device)) for t in tables]).cpu()
    dist.all_reduce(packed)
    dist.all_reduce(tops, op=dist.ReduceOp.MAX)
    result = []
    for table, (same, squares, entries, broken), (top, last) in zip(tables, packed.tolist(), tops.tolist(), strict=True):
        size = (squares / entries) ** 0.5 if entries else 0.0
        examined = min(rows[table], SAMPLED)
        # The last row of an untouched rest is known up to the part of the table that the next examined row stands for.
        used_to = -(-int(last) * rows[table] // examined)
        figures = (rows[table], same / examined, size, top, size / std, round(broken))
        result.append(TableFigures(table, *figures, used_to, table in hashed, examined, table in given))
    return result


def sampled_rows(table: str, rows: int) -> torch.Tensor:
    """(n,) rows of a table that are examined, n = min(rows, SAMPLED), in order: one of each of n equal parts of the table."""
    if rows <= SAMPLED:
        return torch.arange(rows)
    generator = torch.Generator().manual_seed(zlib.crc32(table.encode()))
    edges = torch.arange(SAMPLED + 1) * rows // SAMPLED
    within = torch.rand(SAMPLED, generator=generator, dtype=torch.float64)
    return edges[:-1] + (within * edges.diff()).long()


def _own(shard: TableShard, rows: int) -> torch.Tensor:
    """(2, n): the numbers, among all sampled rows of a table, of those that a shard holds; and these, as rows of the table."""
    chosen = sampled_rows(shard.table, rows)
    numbers = torch.arange(len(chosen))
    own = (chosen >= shard.first_row) & (chosen < shard.first_row + len(shard.values))
    return torch.stack([numbers[own], chosen[own]])


def _examined(shard: TableShard, own: torch.Tensor, drawn: Drawn) -> tuple[torch.Tensor, torch.Tensor]:
    """(4,) sums: untouched rows, squares and number of entries of the others, and broken entries; (2,) largest: of entries, and
    of the numbers of touched rows, from 1 on. On the shard's device, without waiting for it."""
    numbers, rows = own.to(shard.values.device)
    columns = shard.values.shape[1]
    values = shard.values.detach().index_select(0, rows - shard.first_row)
    same = (values == drawn.rows(rows, shard.first_column, columns).to(values.dtype)).all(1)
    finite = values.isfinite()
    kept = torch.where(finite, values, 0).double()
    touched = (~same).double()
    # In a column-wise shard a row counts by the share of its columns; of a table copied to n ranks, each counts 1 / n.
    share = columns / shard.dim / shard.copies
    sums = [
        same.sum().double() * share,
        (kept.square().sum(1) * touched).sum() / shard.copies,
        touched.sum() * columns / shard.copies,
        (~finite).sum().double() / shard.copies,
    ]
    none = values.new_zeros(1, dtype=torch.float64)
    tops = [torch.cat([kept.abs().flatten(), none]).max(), torch.cat([(numbers + 1) * touched, none]).max()]
    return torch.stack(sums), torch.stack(tops)
