"""Sharded tables as TorchRec collections, and their initial values."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn
from torchrec import EmbeddingBagCollection, EmbeddingBagConfig, EmbeddingCollection, EmbeddingConfig, PoolingType
from torchrec.modules.embedding_configs import DataType

from home_dist.embeddings.managed import ManagedCollisionEmbeddingCollection, managed_collection
from home_dist.errors import ConfigError
from home_dist.schema import IdInput, InputLayout, Table

_BLOCK = 65536  # rows that one random stream initialises


def bag_collection(layout: InputLayout, device: torch.device, weighted: bool = False) -> EmbeddingBagCollection | None:
    """The collection of pooled tables, if any. weighted: of tables whose lists all have weights; else of the others."""
    inputs = layout.at("weighted_bag" if weighted else "bag")
    configs = [
        EmbeddingBagConfig(
            name=table.name,
            num_embeddings=table.rows,
            embedding_dim=table.dim,
            feature_names=[i.key for i in users],
            # Always sums; the network divides for means. If row-wise tables with mean pooling are beside other tables,
            # TorchRec 1.8 divides the others' results by their numbers of ids, too.
            pooling=PoolingType.SUM,
            data_type=_data_type(table),
        )
        for table, users in _by_table(inputs)
    ]
    return EmbeddingBagCollection(tables=configs, is_weighted=weighted, device=device) if configs else None


def event_collection(layout: InputLayout, device: torch.device) -> EmbeddingCollection | None:
    configs = [
        EmbeddingConfig(
            name=table.name,
            num_embeddings=table.rows,
            embedding_dim=table.dim,
            feature_names=[i.key for i in users],
            data_type=_data_type(table),
        )
        for table, users in _by_table(layout.at("event"))
    ]
    return EmbeddingCollection(tables=configs, device=device) if configs else None


def managed_tables(layout: InputLayout, device: torch.device) -> ManagedCollisionEmbeddingCollection | None:
    users = [(table, [i.key for i in inputs]) for table, inputs in _by_table(layout.at("managed"))]
    return managed_collection(users, dist.get_world_size() if dist.is_initialized() else 1, device)


def _data_type(table: Table) -> DataType:
    return DataType.FP16 if table.half else DataType.FP32


def _by_table(inputs: Sequence[IdInput]) -> list[tuple[Table, list[IdInput]]]:
    tables = {i.table.name: i.table for i in inputs}
    for name in tables:
        if hasattr(nn.ModuleDict, name):
            raise ConfigError(
                f"table {name!r}: no sharded table can have this name, as torch's modules have an attribute of the same name. "
                f"Give it another one in the schema, such as {name}_id; the names of features and columns may stay."
            )
    return [(table, [i for i in inputs if i.table.name == table.name]) for table in tables.values()]


@dataclass(frozen=True)
class TableShard:
    """This rank's part of a sharded table."""

    table: str
    rows: int
    dim: int
    """Of the whole table."""
    values: torch.Tensor
    """(rows on this rank, columns on this rank)"""
    first_row: int = 0
    first_column: int = 0
    copies: int = 1
    """Number of ranks that hold the same rows."""


def table_shards(module: nn.Module) -> Iterator[TableShard]:
    """The shards of a sharded model on this rank."""
    for name, value in module.state_dict().items():
        if not name.endswith(".weight") or not (".embedding_bags." in f".{name}" or ".embeddings." in f".{name}"):
            continue
        table, (rows, dim) = name.split(".")[-2], value.size()
        if hasattr(value, "local_shards"):
            for shard in value.local_shards():
                yield TableShard(table, rows, dim, shard.tensor, *shard.metadata.shard_offsets)
        else:
            yield TableShard(table, rows, dim, value, copies=dist.get_world_size() if dist.is_initialized() else 1)


@torch.no_grad()
def initialise(module: nn.Module, std: float, seed: int) -> None:
    """Fills sharded tables with normal values that depend only on (seed, table, row, column), not on the sharding."""
    for shard in table_shards(module):
        for first in range(0, len(shard.values), _BLOCK):
            out = shard.values[first : first + _BLOCK]
            out.copy_(initial_values(shard, first, len(out), std, seed))


def initial_values(shard: TableShard, first: int, count: int, std: float, seed: int) -> torch.Tensor:
    """Initial values of rows first .. first + count - 1 of a shard, (count, columns of the shard), on the CPU."""
    parts = []
    at, end = shard.first_row + first, shard.first_row + first + count
    columns = slice(shard.first_column, shard.first_column + shard.values.shape[1])
    while at < end:
        block, within = divmod(at, _BLOCK)
        take = min(_BLOCK - within, end - at)
        digest = hashlib.sha256(f"{seed}/{shard.table}/{block}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))
        parts.append(torch.randn(within + take, shard.dim, generator=generator)[within:, columns])
        at += take
    return torch.cat(parts) * std
