"""Sharded tables as TorchRec collections, and their first values."""

import hashlib
from collections.abc import Sequence

import torch
from torch import nn
from torchrec import EmbeddingBagCollection, EmbeddingBagConfig, EmbeddingCollection, EmbeddingConfig, PoolingType

from home_dist.schema import IdInput, InputLayout, Table

_BLOCK = 65536  # rows that one random stream fills


def bag_collection(layout: InputLayout, device: torch.device) -> EmbeddingBagCollection | None:
    inputs = layout.at("bag")
    configs = [
        EmbeddingBagConfig(
            name=table.name,
            num_embeddings=table.rows,
            embedding_dim=table.dim,
            feature_names=[i.key for i in users],
            pooling=PoolingType.MEAN if any(i.pooling == "mean" for i in users) else PoolingType.SUM,
        )
        for table, users in _by_table(inputs)
    ]
    return EmbeddingBagCollection(tables=configs, device=device) if configs else None


def event_collection(layout: InputLayout, device: torch.device) -> EmbeddingCollection | None:
    configs = [
        EmbeddingConfig(
            name=table.name, num_embeddings=table.rows, embedding_dim=table.dim, feature_names=[i.key for i in users]
        )
        for table, users in _by_table(layout.at("event"))
    ]
    return EmbeddingCollection(tables=configs, device=device) if configs else None


def _by_table(inputs: Sequence[IdInput]) -> list[tuple[Table, list[IdInput]]]:
    tables = {i.table.name: i.table for i in inputs}
    return [(table, [i for i in inputs if i.table.name == table.name]) for table in tables.values()]


@torch.no_grad()
def initialise(module: nn.Module, std: float, seed: int) -> None:
    """Fills sharded tables with normal values that depend on (seed, table, row, column) alone, not on the sharding."""
    for name, value in module.state_dict().items():
        if not name.endswith(".weight") or not (".embedding_bags." in f".{name}" or ".embeddings." in f".{name}"):
            continue
        table = name.split(".")[-2]
        if hasattr(value, "local_shards"):
            for shard in value.local_shards():
                row, column = shard.metadata.shard_offsets
                _fill(shard.tensor, table, row, column, value.size()[1], std, seed)
        else:
            _fill(value, table, 0, 0, value.shape[1], std, seed)


def _fill(out: torch.Tensor, table: str, first_row: int, first_column: int, dim: int, std: float, seed: int) -> None:
    rows, columns = out.shape
    done = 0
    while done < rows:
        block, within = divmod(first_row + done, _BLOCK)
        take = min(_BLOCK - within, rows - done)
        digest = hashlib.sha256(f"{seed}/{table}/{block}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))
        values = torch.randn(within + take, dim, generator=generator)[within:, first_column : first_column + columns]
        out[done : done + take].copy_(values * std)
        done += take
