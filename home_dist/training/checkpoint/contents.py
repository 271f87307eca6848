"""A model and its optimizers as named pieces, and back. Names and shapes are of the whole tensors and tell nothing of a plan:

    dense/NAME                      parameters and statistics that every rank holds
    dense_optimizer/NAME/KEY        their optimizer's state
    tables/TABLE/weight             (rows, dim)
    tables/TABLE/momentum1, ...     (rows, dim), or of row-wise optimizers (blocks, rows): a value per row and block of columns
    tables/TABLE/steps              the step counter of the table's optimizer

TorchRec names a table's optimizer state differently for fused and for data-parallel tables; here it has one name. A row-wise
optimizer keeps one value per row for each block of columns that lies on one rank: several with `column_wise` sharding. Where
blocks change, a new block takes the mean of the old ones that it covers, weighted by their columns: the mean square of a
gradient over all columns is that mean of the blocks' mean squares.
"""

import zlib
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torchrec.distributed import DistributedModelParallel
from torchrec.optim.keyed import KeyedOptimizer

from home_dist.training.checkpoint.pieces import Piece, Stored
from home_dist.training.checkpoint.table_plan import Columns, Shard, TablePlan

# What TorchRec's fused optimizers and torch's call the same.
_ALIASES = {"sum": "momentum1", "exp_avg": "momentum1", "exp_avg_sq": "momentum2", "step": "steps"}


def table_plans(model: DistributedModelParallel) -> dict[str, TablePlan]:
    """By table; every rank knows all."""
    kinds = {t: p.sharding_type for m in model.plan.plan.values() for t, p in m.items()}
    plans = {}
    for name, value in model.state_dict().items():
        table = table_of(name)
        if table is None:
            continue
        rows, dim = value.size()
        if hasattr(value, "metadata"):
            places = value.metadata().shards_metadata
            shards = [
                Shard(p.placement.rank(), _span(p.shard_offsets, p.shard_sizes, 0), _span(p.shard_offsets, p.shard_sizes, 1))
                for p in places
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
    """This rank's share of parameters and statistics, without copies. What all ranks hold is shared out among them."""
    yield from (p for p, shared in _weights(model) if not shared or _mine(p.name))


def optimizer_pieces(model: DistributedModelParallel, optimizer: KeyedOptimizer) -> Iterator[Piece]:
    """This rank's share of all optimizers' state."""
    plans = table_plans(model)
    for name, key, value in _optimizer_state(optimizer):
        table = table_of(name)
        if table is None:
            if _mine(name):
                yield Piece.whole(f"dense_optimizer/{name}/{key}", value)
        elif not hasattr(value, "local_shards"):
            if _mine(name):
                if key == "steps":
                    value = value.long()
                elif value.shape[1] == 1:
                    value = value.view(1, -1)
                yield Piece.whole(f"tables/{table}/{key}", value)
        else:
            size, blocks, logical = tuple(value.size()), plans[table].blocks, f"tables/{table}/{key}"
            for shard in _filled(value):
                if shard.tensor.dim() == 2:
                    yield Piece(logical, size, tuple(shard.metadata.shard_offsets), shard.tensor)
                else:
                    block, row, _ = _place(size, shard, blocks)
                    yield Piece(logical, (len(blocks), size[0] // len(blocks)), (block, row), shard.tensor.view(1, -1))
    for table, steps in _fused_steps(model).items():
        if plans[table].sharding != "data_parallel" and plans[table].shards[0].rank == dist.get_rank():
            yield Piece.whole(f"tables/{table}/steps", torch.tensor(steps))


def _filled(value: Any) -> list[Any]:
    """Local shards; with more ranks than rows some are empty, and lie beyond the last row."""
    return [shard for shard in value.local_shards() if shard.tensor.numel()]


def _place(size: tuple[int, ...], shard: Any, blocks: Columns) -> tuple[int, int, tuple[int, int]]:
    """Where in a table a local shard of row-wise state belongs: (block, first row, columns)."""
    # TorchRec puts the blocks of columns one below the other.
    block, row = divmod(shard.metadata.shard_offsets[0], size[0] // len(blocks))
    return block, row, blocks[block]


def load_weights(model: DistributedModelParallel, stored: Stored) -> None:
    """Fills parameters and statistics in place. Raises ValueError for what does not fit."""
    stored.read(piece for piece, _ in _weights(model))


def _weights(model: DistributedModelParallel) -> Iterator[tuple[Piece, bool]]:
    """Parameters and statistics on this rank, and whether all ranks hold the same."""
    for name, value in model.state_dict().items():
        table = table_of(name)
        logical = f"dense/{name}" if table is None else f"tables/{table}/weight"
        if hasattr(value, "local_shards"):
            for shard in value.local_shards():
                yield Piece(logical, tuple(value.size()), tuple(shard.metadata.shard_offsets), shard.tensor), False
        else:
            yield Piece.whole(logical, value), True


def load_optimizer(
    model: DistributedModelParallel, optimizer: KeyedOptimizer, stored: Stored, before: dict[str, TablePlan]
) -> None:
    """Fills the optimizers' state in place. before: the plan that the checkpoint was written under.

    Raises ValueError for what does not fit.
    """
    # AdamW makes its state in its first step, and loading fills what is there. The values that this step of zero gradients
    # changes (by weight decay) are those of parameters, which are loaded after it.
    optimizer.init_state()
    plans = table_plans(model)
    pieces: list[Piece] = []
    for name, key, value in _optimizer_state(optimizer):
        table = table_of(name)
        if table is None:
            pieces.append(Piece.whole(f"dense_optimizer/{name}/{key}", value))
        elif key == "steps":
            value.fill_(float(stored.whole(f"tables/{table}/steps")))
        elif not hasattr(value, "local_shards"):
            if value.shape[1] == 1:
                columns = plans[table].blocks[0]
                pieces += _row_wise(stored, f"tables/{table}/{key}", value, 0, columns, before[table].blocks)
            else:
                pieces.append(Piece.whole(f"tables/{table}/{key}", value))
        else:
            size, blocks = tuple(value.size()), plans[table].blocks
            for shard in _filled(value):
                if shard.tensor.dim() == 2:
                    pieces.append(Piece(f"tables/{table}/{key}", size, tuple(shard.metadata.shard_offsets), shard.tensor))
                else:
                    _, row, columns = _place(size, shard, blocks)
                    pieces += _row_wise(stored, f"tables/{table}/{key}", shard.tensor, row, columns, before[table].blocks)
    stored.read(pieces)
    _set_fused_steps(model, stored)


def _row_wise(stored: Stored, name: str, out: torch.Tensor, row: int, columns: tuple[int, int], blocks: Columns) -> list[Piece]:
    """What fills `out`, state of the rows from `row` on over `columns`. blocks: those of the checkpoint."""
    if name not in stored.tensors:
        raise ValueError(f"it holds no {name}; the table was trained with another optimizer")
    shape, rows, flat = stored.shape(name), out.numel(), out.view(1, -1)
    first, width = columns
    shares = [(n, min(f + w, first + width) - max(f, first)) for n, (f, w) in enumerate(blocks)]
    shares = [(block, share) for block, share in shares if share > 0]
    if len(shares) == 1:
        return [Piece(name, shape, (shares[0][0], row), flat)]
    total = torch.zeros(1, rows, dtype=torch.float64)
    for block, share in shares:
        total += stored.box(name, (block, row), (1, rows)).double() * share
    flat.copy_(total / sum(share for _, share in shares))
    return []


def _optimizer_state(optimizer: KeyedOptimizer) -> Iterator[tuple[str, str, Any]]:
    """(parameter, key, value), with the names of parameters that the model has, and keys that all optimizers share."""
    for full, state in optimizer.state_dict()["state"].items():
        # build_optimizer puts "fused." or "dense.GROUP." before them.
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
    """FBGEMM's modules on this rank, each with the names of its tables."""
    # TorchRec keeps look-ups in plain lists, where modules() does not find them.
    lookups = [lookup for module in model.modules() for lookup in getattr(module, "_lookups", ())]
    for module in (m for lookup in lookups for m in lookup.modules()):
        inner, tables = getattr(module, "_emb_module", None), getattr(getattr(module, "_config", None), "embedding_tables", ())
        if tables and hasattr(inner, "iter_cpu"):
            yield [t.name for t in tables], inner


def _fused_steps(model: nn.Module) -> dict[str, int]:
    """By table of this rank: FBGEMM's step counter, which its optimizers with bias correction need and which stands in no
    state dict."""
    return {name: max(int(m.iter), int(m.iter_cpu)) for names, m in _fused_modules(model) for name in names}


def _set_fused_steps(model: nn.Module, stored: Stored) -> None:
    for names, module in _fused_modules(model):
        # An optimizer that keeps nothing, as plain SGD of a data-parallel table, has left no counter.
        counters = [f"tables/{name}/steps" for name in names]
        steps = max((int(stored.whole(c)) for c in counters if c in stored.tensors), default=0)
        module.iter.fill_(steps)
        module.iter_cpu.fill_(steps)  # FBGEMM counts on with this one, and takes over the other only where it is 0


def _mine(name: str) -> bool:
    """Whether this rank writes what all ranks hold. By name: ranks without a shard of some table list fewer tensors."""
    return zlib.crc32(name.encode()) % dist.get_world_size() == dist.get_rank()
