"""Sharded tables as TorchRec collections, and their initial values."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn
from torchrec import EmbeddingBagCollection, EmbeddingBagConfig, EmbeddingCollection, EmbeddingConfig, PoolingType
from torchrec.modules.embedding_configs import DataType

from home_dist.embeddings.initial import Drawn, drawn_later
from home_dist.embeddings.managed import ManagedCollisionEmbeddingCollection, managed_collection
from home_dist.errors import ConfigError
from home_dist.schema import IdInput, InputLayout, Table
from home_dist.schema.layout import Place


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
            init_fn=drawn_later,
        )
        for table, users in _by_table(inputs)
    ]
    return EmbeddingBagCollection(tables=configs, is_weighted=weighted, device=device) if configs else None


def event_collection(layout: InputLayout, device: torch.device) -> EmbeddingCollection | None:
    """The collection of tables that are looked up id by id, if any. Raises ConfigError for tables of several widths."""
    _check_width(layout, "event", "that a history uses, or that are pooled in several ways,")
    configs = [
        EmbeddingConfig(
            name=table.name,
            num_embeddings=table.rows,
            embedding_dim=table.dim,
            feature_names=[i.key for i in users],
            data_type=_data_type(table),
            init_fn=drawn_later,
        )
        for table, users in _by_table(layout.at("event"))
    ]
    return EmbeddingCollection(tables=configs, device=device) if configs else None


def managed_tables(layout: InputLayout, device: torch.device, ranks: int) -> ManagedCollisionEmbeddingCollection | None:
    _check_width(layout, "managed", "that are managed")
    users = [(table, [i.key for i in inputs]) for table, inputs in _by_table(layout.at("managed"))]
    return managed_collection(users, ranks, device)


def _check_width(layout: InputLayout, place: Place, which: str) -> None:
    """Raises ConfigError: TorchRec looks up ids one by one in tables of one width alone."""
    dims = {item.table.name: item.table.dim for item in layout.at(place)}
    if len(set(dims.values())) > 1:
        told = ", ".join(f"{name} {dim}" for name, dim in dims.items())
        raise ConfigError(
            f"embedding: tables {which} have one width in TorchRec, and these several: {told}. Give them one dim."
        )


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
    """Fills this rank's shards with their initial values (initial.py)."""
    for shard in table_shards(module):
        Drawn(shard.table, shard.dim, std, seed).fill(shard.values, shard.first_row, shard.first_column)
