"""Managed tables: rows are assigned to ids as they come. No two ids share a row; ids that are no longer seen lose theirs.

These are TorchRec's managed collisions of the sorted kind. A rank keeps the sorted ids of its range of hashes and counts them.
Frequent new ids take the rows of rare (lfu) or old (lru) ids; vectors and optimizer states of these rows then start anew. An id
without a row reads the last row of its rank.

Two things are fixed here. On a CPU FBGEMM has no kernel that resets rows. TorchRec's history of ids, from which it evicts at
intervals, is in no checkpoint, and the first batch sets its length. Here eviction happens in every step, from that step's ids
alone, so that a resumed run continues bit for bit.
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
from torchrec.modules.mc_modules import (
    LFU_EvictionPolicy,
    LRU_EvictionPolicy,
    ManagedCollisionCollection,
    MCHManagedCollisionModule,
)
from torchrec.sparse.jagged_tensor import JaggedTensor

from home_dist.ids.rows import MANAGED_BITS
from home_dist.schema import Table

_POLICIES = {"lfu": LFU_EvictionPolicy, "lru": LRU_EvictionPolicy}


class ManagedIds(MCHManagedCollisionModule):
    """Managed ids whose history buffer grows with the largest batch; `managed_collection` has them evict in every step."""

    def profile(self, features: dict[str, JaggedTensor]) -> dict[str, JaggedTensor]:
        if self.training and sum(f.values().numel() for f in features.values()) > self._input_history_buffer_size:
            self._init_history_buffers(features)
        return super().profile(features)


def managed_collection(
    tables: list[tuple[Table, list[str]]], ranks: int, device: torch.device
) -> ManagedCollisionEmbeddingCollection | None:
    """tables: each with the keys of its inputs; ranks: number of ranks to shard over; device: of the unsharded weights."""
    if not tables:
        return None
    configs = [
        EmbeddingConfig(name=t.name, num_embeddings=t.rows, embedding_dim=t.dim, feature_names=keys) for t, keys in tables
    ]
    modules = {
        t.name: ManagedIds(
            zch_size=t.rows,
            device=torch.device("cpu"),
            eviction_policy=_POLICIES[t.managed or "lfu"](),
            eviction_interval=1,
            input_hash_size=2**MANAGED_BITS,
            buckets=ranks,
        )
        for t, _ in tables
    }
    inner = EmbeddingCollection(tables=configs, device=device)
    return ManagedCollisionEmbeddingCollection(inner, ManagedCollisionCollection(modules, inner.embedding_configs()))


class ShardedManaged(ShardedManagedCollisionEmbeddingCollection):
    init_std: float

    @torch.no_grad()
    def _evict(self, evictions_per_table: dict[str, torch.Tensor | None]) -> None:
        """Resets evicted rows to small random weights and zero optimizer state."""
        for table, rows in evictions_per_table.items():
            if rows is None or not len(rows):
                continue
            lookup, number = self._table_to_tbe_and_index[table]
            weights = lookup.split_embedding_weights()[int(number)]
            weights[rows] = torch.randn(len(rows), weights.shape[1], device=weights.device, dtype=weights.dtype) * self.init_std
            states = lookup.split_optimizer_states()
            for state in states[int(number)] if states else ():
                state[rows] = 0


class ManagedSharder(ManagedCollisionEmbeddingCollectionSharder):
    def __init__(self, init_std: float):
        super().__init__()
        self.init_std = init_std

    def sharding_types(self, compute_device_type: str) -> list[str]:
        return [ShardingType.ROW_WISE.value]

    def shard(self, module: Any, params: Any, env: Any, device: Any = None, module_fqn: Any = None) -> ShardedManaged:
        sharded = ShardedManaged(module, params, self._e_sharder, self._mc_sharder, env, device)
        sharded.init_std = self.init_std
        return sharded

    @property
    def sharded_module_type(self) -> type[ShardedManaged]:
        return ShardedManaged
