"""Sharders of tables, the shardings that a run allows, and a plan as a table. The planner is in planning/placement.py."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch.distributed as dist
from fbgemm_gpu.split_table_batched_embeddings_ops_training import SplitTableBatchedEmbeddingBagsCodegen
from torch import nn
from torchrec.distributed.batched_embedding_kernel import BaseBatchedEmbedding, BaseBatchedEmbeddingBag
from torchrec.distributed.embedding import EmbeddingCollectionSharder
from torchrec.distributed.embedding_types import EmbeddingComputeKernel
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.planner import ParameterConstraints
from torchrec.distributed.types import CacheParams, EnumerableShardingSpec, ModuleSharder, ShardingPlan, ShardingType

from home_dist.config import EmbeddingSection
from home_dist.embeddings.exchange import Codecs
from home_dist.embeddings.managed import ManagedSharder
from home_dist.errors import ConfigError
from home_dist.schema import InputLayout, Table

# Without data-parallel, which is only for tables that are pinned to it: small tables are replicated without TorchRec.
_PLANNED = [ShardingType.TABLE_WISE.value, ShardingType.ROW_WISE.value, ShardingType.COLUMN_WISE.value]
_OF_HOST_MEMORY = {
    "host": EmbeddingComputeKernel.FUSED_UVM,
    "cached": EmbeddingComputeKernel.FUSED_UVM_CACHING,
}
_OF_HOSTS = ("table_row_wise", "table_column_wise", "grid")
_NAMES = {"grid": ShardingType.GRID_SHARD.value}
_WITHIN_HOSTS = [ShardingType.TABLE_ROW_WISE.value, ShardingType.TABLE_COLUMN_WISE.value, ShardingType.GRID_SHARD.value]


class BagSharder(EmbeddingBagCollectionSharder):
    """Offers sharding by row on a CPU, too: TorchRec's own sharder does not, although it works."""

    def sharding_types(self, compute_device_type: str) -> list[str]:
        offered = super().sharding_types(compute_device_type)
        return [*offered, *(t for t in [ShardingType.ROW_WISE.value, *_WITHIN_HOSTS] if t not in offered)]


@contextmanager
def drawing_nothing() -> Iterator[None]:
    """Inside the block TorchRec's look-ups draw no values for the tables that they make: the run draws its own, or reads them
    from a checkpoint. TorchRec 1.8 has no option for it.

    A look-up on a CPU that holds no row of any table gets some memory: by it FBGEMM 1.8 tells where a look-up is, and takes one
    without any for a GPU's."""

    def drawn(lookup: Any) -> None:
        tables = lookup.emb_module
        if isinstance(tables, SplitTableBatchedEmbeddingBagsCodegen) and tables.use_cpu and not tables.weights_host.numel():
            tables.weights_host = nn.Parameter(tables.weights_host.new_zeros(max(tables.max_D, 1)))

    kinds = (BaseBatchedEmbedding, BaseBatchedEmbeddingBag)
    before = [kind.init_parameters for kind in kinds]
    try:
        for kind in kinds:
            kind.init_parameters = drawn
        yield
    finally:
        for kind, method in zip(kinds, before, strict=True):
            kind.init_parameters = method


def sharders(config: EmbeddingSection, seed: int, codecs: Codecs | None = None) -> list[ModuleSharder[nn.Module]]:
    """seed: of initial values; codecs: precisions in which embeddings are sent."""
    # Every look-up must know of the prefetching, also those without a cache; else gradients go to wrong places in it.
    fused = {"prefetch_pipeline": True} if config.prefetch else None
    bags = BagSharder(fused_params=fused, qcomm_codecs_registry=codecs)
    one_by_one = EmbeddingCollectionSharder(fused_params=fused, qcomm_codecs_registry=codecs)
    return [bags, one_by_one, ManagedSharder(config.init_std, seed)]


def table_constraints(layout: InputLayout, config: EmbeddingSection, device: str) -> dict[str, ParameterConstraints]:
    """By table: the shardings that the planner may choose from. Raises ConfigError for a pin that does not work."""
    constraints = {}
    one_by_one = {i.table.name for i in layout.at("event")}
    for table in layout.tables:
        pinned = config.tables[table.name].sharding if table.name in config.tables else None
        key = f"embedding.tables.{table.name}.sharding"
        if pinned == "data_parallel" and table.name in one_by_one and device == "cpu":
            # On a CPU, FBGEMM 1.8's dense look-up sums over each sample's ids, although one vector per id is requested.
            raise ConfigError(
                f"{key}: data_parallel does not work on a CPU for a table that a history uses or that is pooled in several "
                "ways. Choose another sharding, or raise embedding.replicate_rows to keep the table whole on every rank."
            )
        if pinned in _OF_HOSTS and table.name in one_by_one:
            raise ConfigError(
                f"{key}: TorchRec shards tables that a history uses, or that are pooled in several ways, by table, row or "
                f"column, not {pinned}. Choose table_wise, row_wise or column_wise."
            )
        kernel = EmbeddingComputeKernel.DENSE if pinned == "data_parallel" else EmbeddingComputeKernel.FUSED
        cache = None
        if table.is_in_host_memory(device):
            kernel = _OF_HOST_MEMORY[table.memory]
            cache = CacheParams(load_factor=table.cached_rows) if table.memory == "cached" else None
        allowed = _PLANNED
        if pinned or table.managed:
            allowed = ["row_wise" if table.managed else _NAMES.get(pinned or "", pinned or "")]
        constraints[table.name] = ParameterConstraints(
            sharding_types=allowed, compute_kernels=[kernel.value], cache_params=cache
        )
    return constraints


@dataclass(frozen=True)
class PlanRow:
    """One line of the plan table."""

    table: str
    rows: int
    dim: int
    sharding: str
    """Kind, as named in the configuration."""
    ranks: str
    bytes: int


def plan_rows(plan: ShardingPlan, layout: InputLayout) -> list[PlanRow]:
    """A row per sharded table, and one for all replicated tables. Bytes are those of weights, on all ranks together."""
    by_name = {t.name: t for t in layout.tables}
    rows = []
    for module in plan.plan.values():
        for name, sharding in module.items():
            table = by_name[name]
            ranks = sorted(set(sharding.ranks or []))
            copies = len(ranks) if sharding.sharding_type == ShardingType.DATA_PARALLEL.value else 1
            if isinstance(sharding.sharding_spec, EnumerableShardingSpec):
                ranks = sorted({shard.placement.rank() for shard in sharding.sharding_spec.shards})
            rows.append(_row(table, sharding.sharding_type, _span(ranks), copies))
    small = {i.table for i in layout.inputs if i.table.replicated}
    if small:
        world = dist.get_world_size()
        weights = sum(t.bytes for t in small)
        dims = sorted({t.dim for t in small})
        text = f"({len(small)} small tables)"
        span = _span(list(range(world)))
        rows.append(PlanRow(text, sum(t.rows for t in small), dims[0], "replicated", span, weights * world))
    return sorted(rows, key=lambda r: -r.bytes)


def _row(table: Table, sharding: str, ranks: str, copies: int) -> PlanRow:
    return PlanRow(table.name, table.rows, table.dim, sharding_name(sharding), ranks, table.bytes * copies)


def sharding_name(torchrec_name: str) -> str:
    """The configuration's name of a kind of sharding, from TorchRec's."""
    return next((config_name for config_name, name in _NAMES.items() if name == torchrec_name), torchrec_name)


def _span(ranks: list[int]) -> str:
    if len(ranks) > 2 and ranks == list(range(ranks[0], ranks[-1] + 1)):
        return f"{ranks[0]}-{ranks[-1]}"
    return ", ".join(map(str, ranks))
