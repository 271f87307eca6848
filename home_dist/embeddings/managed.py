"""Managed tables: rows are assigned to ids as they come (managed_ids.py). No two ids share a row of their own.

They go through TorchRec's sharded managed collisions, which deal ranges of hashes to ranks. On a CPU FBGEMM has no kernel that
resets rows, so that rows of new ids are reset here: to initial values, and zero optimizer state.
"""

from typing import Any

import torch
from torchrec import EmbeddingCollection, EmbeddingConfig
from torchrec.distributed.mc_embedding import (
    ManagedCollisionEmbeddingCollectionSharder,
    ShardedManagedCollisionEmbeddingCollection,
)
from torchrec.distributed.types import ShardingType
from torchrec.modules.mc_embedding_modules import ManagedCollisionEmbeddingCollection
from torchrec.modules.mc_modules import ManagedCollisionCollection

from home_dist.embeddings.initial import Drawn, drawn_later
from home_dist.embeddings.managed_ids import ManagedIds
from home_dist.ids.managed_sets import ManagedSets
from home_dist.schema import Table


def managed_collection(
    tables: list[tuple[Table, list[str]]], ranks: int, device: torch.device
) -> ManagedCollisionEmbeddingCollection | None:
    """tables: each with the keys of its inputs; ranks: number of ranks to shard over; device: of the unsharded weights. Raises
    ConfigError for a table with too few rows for the ranks."""
    if not tables:
        return None
    configs, modules = [], {}
    for table, keys in tables:
        sets = ManagedSets.of(table.rows)
        sets.check_ranks(table.name, ranks)
        configs.append(
            EmbeddingConfig(
                name=table.name,
                num_embeddings=sets.padded_rows(ranks),
                embedding_dim=table.dim,
                feature_names=keys,
                init_fn=drawn_later,
            )
        )
        # The state of the whole table is made by rank, when it is sharded.
        modules[table.name] = ManagedIds(sets, ranks, torch.device("meta"), table.managed or "lfu", table.admit, table.max_age)
    inner = EmbeddingCollection(tables=configs, device=device)
    return ManagedCollisionEmbeddingCollection(inner, ManagedCollisionCollection(modules, inner.embedding_configs()))


class ShardedManaged(ShardedManagedCollisionEmbeddingCollection):
    init_std: float
    seed: int

    @torch.no_grad()
    def _evict(self, evictions_per_table: dict[str, torch.Tensor | None]) -> None:
        """Resets rows that ids have got."""
        for table, rows in evictions_per_table.items():
            if rows is None or not len(rows):
                continue
            lookup, number = self._table_to_tbe_and_index[table]
            weights = lookup.split_embedding_weights()[int(number)]
            first = self._managed_collision_collection._table_to_offset[table]
            weights[rows] = Drawn(table, weights.shape[1], self.init_std, self.seed).rows(rows + first, 0, weights.shape[1])
            states = lookup.split_optimizer_states()
            for state in states[int(number)] if states else ():
                state[rows] = 0


def managed_rows(model: torch.nn.Module) -> dict[str, int]:
    """By managed table of a sharded model: its rows without those that pad it to the number of ranks."""
    found: dict[str, int] = {}
    for module in model.modules():
        if isinstance(module, ShardedManaged):
            ids = module._managed_collision_collection._managed_collision_modules
            found |= {table: m.sets.rows for table, m in ids.items() if isinstance(m, ManagedIds)}
    return found


class ManagedSharder(ManagedCollisionEmbeddingCollectionSharder):
    def __init__(self, init_std: float, seed: int):
        """Of initial values."""
        super().__init__()
        self.init_std, self.seed = init_std, seed

    def sharding_types(self, compute_device_type: str) -> list[str]:
        return [ShardingType.ROW_WISE.value]

    def shard(self, module: Any, params: Any, env: Any, device: Any = None, module_fqn: Any = None) -> ShardedManaged:
        sharded = ShardedManaged(module, params, self._e_sharder, self._mc_sharder, env, device)
        sharded.init_std, sharded.seed = self.init_std, self.seed
        return sharded

    @property
    def sharded_module_type(self) -> type[ShardedManaged]:
        return ShardedManaged
