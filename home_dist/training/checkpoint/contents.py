"""Converts a model and its optimizers to named pieces, and back. Names and shapes are the whole tensors', whatever the plan:

    dense/NAME                      parameters and statistics that every rank holds; of a pool of experts that ranks share,
                                    each rank holds some experts
    dense_optimizer/NAME/KEY        their optimizer's state
    tables/TABLE/weight             (rows, dim)
    tables/TABLE/momentum1, ...     (rows, dim); row-wise optimizers: (blocks, rows), a value per row and block of columns
    tables/TABLE/steps              the step counter of the table's optimizer

TorchRec names a table's optimizer state differently for fused and for data-parallel tables; here both have one name. A row-wise
optimizer keeps one value per row and block of columns on one rank; `column_wise` sharding makes several blocks. If blocks
change, a new block takes the mean of the old blocks that it overlaps, weighted by shared columns. This is exact, because a
gradient's mean square over all columns is the weighted mean of the blocks' mean squares.

A managed table has rows that pad it to the number of ranks. They are never used, and in no checkpoint.
"""

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torchrec.distributed import DistributedModelParallel
from torchrec.optim.keyed import KeyedOptimizer

from home_dist.embeddings.managed import managed_rows
from home_dist.experts.share import Share, shares
from home_dist.layers.averages import average_name
from home_dist.network import Network
from home_dist.training.checkpoint.pieces import Piece, Stored
from home_dist.training.checkpoint.table_plan import Columns, Shard, TablePlan

# Names of the same state in TorchRec's fused optimizers and in torch's.
_ALIASES = {"sum": "momentum1", "exp_avg": "momentum1", "exp_avg_sq": "momentum2", "step": "steps"}
_NAMED = 5
"""Tensors that an error names."""


def table_plans(model: DistributedModelParallel) -> dict[str, TablePlan]:
    """Plans of all tables, by table; the same on every rank."""
    kinds = {t: p.sharding_type for m in model.plan.plan.values() for t, p in m.items()}
    plans = {}
    for name, value in model.state_dict().items():
        table = table_of(name)
        if table is None:
            continue
        rows, dim = value.size()
        if hasattr(value, "metadata"):
            shards = [
                Shard(s.placement.rank(), _span(s.shard_offsets, s.shard_sizes, 0), _span(s.shard_offsets, s.shard_sizes, 1))
                for s in value.metadata().shards_metadata
            ]
        else:
            shards = [Shard(rank, (0, rows), (0, dim)) for rank in range(dist.get_world_size())]
        plans[table] = TablePlan(kinds[table], tuple(shards))
    return plans


def _span(offsets: list[int], sizes: list[int], axis: int) -> tuple[int, int]:
    return offsets[axis], sizes[axis]


def table_of(name: str) -> str | None:
    """The table that a parameter of a sharded collection belongs to; None for dense parameters."""
    sharded = name.endswith(".weight") and (".embedding_bags." in f".{name}" or ".embeddings." in f".{name}")
    return name.split(".")[-2] if sharded else None


def weight_pieces(model: DistributedModelParallel) -> Iterator[Piece]:
    """Parameters and statistics that this rank writes, not copied. Of tensors that several ranks hold, one writes."""
    yield from (piece for piece, writes in _weights(model) if writes)


def optimizer_pieces(model: DistributedModelParallel, optimizer: KeyedOptimizer) -> Iterator[Piece]:
    """The optimizers' state that this rank writes."""
    plans, managed, pools = table_plans(model), managed_rows(model), pool_shares(model)
    for name, key, value in optimizer_state(optimizer):
        table = table_of(name)
        if table is None:
            piece, writes = _dense(f"dense_optimizer/{name}/{key}", value, pools.get(name), name)
            if writes:
                yield piece
        elif not hasattr(value, "local_shards"):
            if _writes_shared(name):
                if key == "steps":
                    value = value.long()
                elif value.shape[1] == 1:
                    value = value.view(1, -1)
                yield Piece.whole(f"tables/{table}/{key}", value)
        else:
            size, blocks, logical = tuple(value.size()), plans[table].blocks, f"tables/{table}/{key}"
            for shard in _filled(value):
                if shard.tensor.dim() == 2:
                    piece = Piece(logical, size, tuple(shard.metadata.shard_offsets), shard.tensor)
                    yield from _unpadded(piece, managed.get(table), 0)
                else:
                    block, row, _ = _place(size, shard, blocks)
                    shape = (len(blocks), size[0] // len(blocks))
                    yield from _unpadded(Piece(logical, shape, (block, row), shard.tensor.view(1, -1)), managed.get(table), 1)
    for table, steps in _fused_steps(model).items():
        if plans[table].sharding != "data_parallel" and plans[table].shards[0].rank == dist.get_rank():
            yield Piece.whole(f"tables/{table}/steps", torch.tensor(steps))


def _filled(value: Any) -> list[Any]:
    """Local shards that are not empty. With more ranks than rows, some shards are empty and lie beyond the last row."""
    return [shard for shard in value.local_shards() if shard.tensor.numel()]


def _place(size: tuple[int, ...], shard: Any, blocks: Columns) -> tuple[int, int, tuple[int, int]]:
    """Position of a local shard of row-wise state in its table: (block, first row, columns)."""
    # TorchRec stacks the blocks of columns: the rows of the first block, then those of the second, ...
    block, row = divmod(shard.metadata.shard_offsets[0], size[0] // len(blocks))
    return block, row, blocks[block]


def refuse_unknown(model: DistributedModelParallel, stored: Stored) -> None:
    """Raises ValueError if the checkpoint holds tensors that the model does not have, which were trained for something."""
    known = {_logical(name) for name in model.state_dict()}
    tables = {name.split("/")[1] for name in known if name.startswith("tables/")}
    unknown = []
    for name in stored.tensors:
        kind, _, rest = name.partition("/")
        if (kind == "dense" and name not in known) or (kind == "tables" and rest.partition("/")[0] not in tables):
            unknown.append(name)
    if unknown:
        more = f" and {len(unknown) - _NAMED:,} more" if len(unknown) > _NAMED else ""
        raise ValueError(f"the model has no {', '.join(unknown[:_NAMED])}{more}")


def _logical(name: str) -> str:
    """A parameter's name in a checkpoint."""
    table = table_of(name)
    return f"dense/{name}" if table is None else f"tables/{table}/weight"


def load_weights(model: DistributedModelParallel, stored: Stored) -> None:
    """Fills parameters and statistics in place. Raises ValueError if the checkpoint lacks a tensor or has another shape."""
    stored.read(piece for piece, _ in _weights(model))


def _weights(model: DistributedModelParallel) -> Iterator[tuple[Piece, bool]]:
    """(piece, whether this rank writes it) of the parameters and statistics on this rank."""
    managed, pools = managed_rows(model), pool_shares(model)
    for name, value in model.state_dict().items():
        logical = _logical(name)
        if hasattr(value, "local_shards"):
            rows = managed.get(table_of(name) or _managed_by(name))
            for shard in value.local_shards():
                piece = Piece(logical, tuple(value.size()), tuple(shard.metadata.shard_offsets), shard.tensor)
                yield from ((p, True) for p in _unpadded(piece, rows, 0))
        else:
            yield _dense(logical, value, pools.get(name), logical)


def _dense(logical: str, value: torch.Tensor, share: Share | None, written_by: str) -> tuple[Piece, bool]:
    """(piece, whether this rank writes it) of a tensor that is no table. share: of a pool of experts, None where all ranks hold
    the tensor. A counter of a pool's optimizer has no experts."""
    if share is None or not value.dim():
        return Piece.whole(logical, value), _writes_shared(written_by)
    return Piece(logical, (share.experts, *value.shape[1:]), (share.first,) + (0,) * (value.dim() - 1), value), share.writes


def pool_shares(model: nn.Module) -> dict[str, Share]:
    """By name of a parameter, statistic or average: the share of a pool of experts that this rank holds."""
    [network] = [m for m in model.modules() if isinstance(m, Network)]
    head = network.head
    found = shares(head)
    averages = {f"head.averages.{average_name(name)}": share for name, share in found.items() if head.averages is not None}
    return {f"head.{name}": share for name, share in found.items()} | averages


def _managed_by(name: str) -> str:
    """The table whose ids a state of managed ids is of."""
    return name.rpartition("._managed_collision_modules.")[2].partition(".")[0]


def _unpadded(piece: Piece, rows: int | None, axis: int) -> Iterator[Piece]:
    """A piece without the rows that pad its table; none if it has no others. rows: of the table without them, None for a table
    that is not padded; axis: of the rows."""
    if rows is None:
        yield piece
        return
    kept = min(piece.values.shape[axis], rows - piece.offsets[axis])
    if kept > 0:
        shape = tuple(rows if a == axis else n for a, n in enumerate(piece.shape))
        yield Piece(piece.name, shape, piece.offsets, piece.values.narrow(axis, 0, kept))


def load_optimizer(
    model: DistributedModelParallel, optimizer: KeyedOptimizer, stored: Stored, before: dict[str, TablePlan]
) -> None:
    """Fills the optimizers' state in place. before: the plans of the ranks that wrote the checkpoint.

    Raises ValueError if the checkpoint lacks a tensor or has another shape. Load weights after this.
    """
    # AdamW creates its state in its first step, and loading can only fill state that exists. This step of zero gradients
    # changes parameters (by weight decay); loading weights afterwards undoes that.
    optimizer.init_state()
    pieces, pools = list[Piece](), pool_shares(model)
    for name, key, value in optimizer_state(optimizer):
        table = table_of(name)
        if table is None:
            pieces.append(_dense(f"dense_optimizer/{name}/{key}", value, pools.get(name), name)[0])
        elif key == "steps":
            value.fill_(float(stored.whole(f"tables/{table}/steps")))
    managed = managed_rows(model)
    for part in table_states(model, optimizer):
        rows = managed.get(part.table)
        if part.row_wise:
            kept = part.values if rows is None else part.values[: max(0, rows - part.first_row)]
            pieces += _row_wise(stored, replace(part, values=kept), before[part.table]) if len(kept) else []
        else:
            pieces += _unpadded(Piece(part.logical, part.shape, (part.first_row, part.columns[0]), part.values), rows, 0)
    stored.read(pieces)
    # An optimizer without state, such as plain SGD of a data-parallel table, stores no counter.
    counters = {name: f"tables/{name}/steps" for names, _ in _fused_modules(model) for name in names}
    set_fused_steps(model, {name: int(stored.whole(c)) for name, c in counters.items() if c in stored.tensors})


def _row_wise(stored: Stored, part: "TableState", plan: TablePlan) -> list[Piece]:
    """Pieces that fill row-wise state. plan: of the checkpoint. If several blocks there overlap the part's columns, fills it
    with their mean and returns no pieces. Raises ValueError for a missing tensor."""
    name, row, out = part.logical, part.first_row, part.values.view(1, -1)
    if name not in stored.tensors:
        raise ValueError(f"it holds no {name}; the table was trained with another optimizer")
    shares = plan.shares(part.columns)
    if len(shares) == 1:
        return [Piece(name, stored.shape(name), (shares[0][0], row), out)]
    out.copy_(row_wise_values(stored, name, shares, row, out.numel()))
    return []


def row_wise_values(stored: Stored, name: str, shares: list[tuple[int, int]], row: int, count: int) -> torch.Tensor:
    """State (count,), float64, of rows row .. row + count - 1: the mean of blocks, each weighted by its share of columns."""
    total = torch.zeros(count, dtype=torch.float64)
    for block, share in shares:
        total += stored.box(name, (block, row), (1, count))[0].double() * share
    return total / sum(share for _, share in shares)


@dataclass(frozen=True)
class TableState:
    """A part of the optimizer's state of a sharded table, on this rank."""

    table: str
    key: str
    shape: tuple[int, int]
    """(rows, dim) of the whole table."""
    values: torch.Tensor
    """(rows, columns) of the part; (rows,) if row-wise."""
    first_row: int
    columns: tuple[int, int]
    """(first column, number of columns) of the table's weights that the part belongs to."""

    @property
    def row_wise(self) -> bool:
        return self.values.dim() == 1

    @property
    def logical(self) -> str:
        """Name in a checkpoint."""
        return f"tables/{self.table}/{self.key}"


def table_states(model: DistributedModelParallel, optimizer: KeyedOptimizer) -> Iterator[TableState]:
    """The state of sharded tables on this rank, without step counters."""
    plans, sizes = table_plans(model), {t: tuple(v.size()) for n, v in model.state_dict().items() if (t := table_of(n))}
    for name, key, value in optimizer_state(optimizer):
        table = table_of(name)
        if table is None or key == "steps":
            continue
        rows, dim = sizes[table]
        if not hasattr(value, "local_shards"):
            values = value.view(-1) if value.shape[1] == 1 else value
            yield TableState(table, key, (rows, dim), values, 0, (0, dim))
            continue
        for shard in _filled(value):
            if shard.tensor.dim() == 2:
                row, column = shard.metadata.shard_offsets
                yield TableState(table, key, (rows, dim), shard.tensor, row, (column, shard.tensor.shape[1]))
            else:
                _, row, columns = _place(tuple(value.size()), shard, plans[table].blocks)
                yield TableState(table, key, (rows, dim), shard.tensor, row, columns)


def optimizer_state(optimizer: KeyedOptimizer) -> Iterator[tuple[str, str, Any]]:
    """(parameter, key, value), with the model's parameter names and with keys that all optimizers share."""
    for full, state in optimizer.state_dict()["state"].items():
        # build_optimizer prefixes names with "fused." or "dense.GROUP.".
        kind, _, rest = full.partition(".")
        name = rest if kind == "fused" else rest.partition(".")[2]
        table = table_of(name)
        for key, value in state.items():
            if table is None:
                yield name, key, value
                continue
            plain = key.removeprefix(f"{table}.")
            yield name, _ALIASES.get(plain, plain), value


def _fused_modules(model: nn.Module) -> Iterator[tuple[list[str], Any]]:
    """(names of its tables, module) of each FBGEMM module on this rank."""
    # TorchRec keeps look-ups in plain lists, which modules() does not search.
    lookups = [lookup for module in model.modules() for lookup in getattr(module, "_lookups", ())]
    for module in (m for lookup in lookups for m in lookup.modules()):
        inner, tables = getattr(module, "_emb_module", None), getattr(getattr(module, "_config", None), "embedding_tables", ())
        if tables and hasattr(inner, "iter_cpu"):
            yield [t.name for t in tables], inner


def _fused_steps(model: nn.Module) -> dict[str, int]:
    """FBGEMM's step counter for each table on this rank. Its optimizers with bias correction need the counter, but no state
    dict holds it."""
    return {name: max(int(m.iter), int(m.iter_cpu)) for names, m in _fused_modules(model) for name in names}


def set_fused_steps(model: nn.Module, steps: Mapping[str, int]) -> None:
    """Sets the counters of FBGEMM's modules. steps: by table; a module of several tables takes the largest."""
    for names, module in _fused_modules(model):
        count = max((steps[name] for name in names if name in steps), default=0)
        module.iter.fill_(count)
        module.iter_cpu.fill_(count)  # FBGEMM increments iter_cpu; it copies iter into it only if iter_cpu is 0


def _writes_shared(name: str) -> bool:
    """Whether this rank writes a tensor that all ranks hold. Hashes the name: positions in ranks' lists differ, because a rank
    without a shard of some table lists fewer tensors."""
    return zlib.crc32(name.encode()) % dist.get_world_size() == dist.get_rank()
