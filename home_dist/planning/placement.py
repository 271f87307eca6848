"""The one planner of sharded tables, TorchRec's on a model of meta tensors: for `home-dist plan` and for the ranks of a run."""

import contextlib
import io
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torchrec.distributed.embedding_types import EmbeddingComputeKernel
from torchrec.distributed.planner import EmbeddingShardingPlanner, ParameterConstraints, Topology
from torchrec.distributed.planner.enumerators import EmbeddingEnumerator
from torchrec.distributed.planner.storage_reservations import FixedPercentageStorageReservation
from torchrec.distributed.planner.types import PlannerError, ShardingOption, Storage
from torchrec.distributed.types import EnumerableShardingSpec, ShardingPlan, ShardingType

from home_dist.config import RunConfig
from home_dist.embeddings.sharding import sharders, sharding_name, table_constraints
from home_dist.embeddings.table_optimizer import fuse_table_optimizer
from home_dist.errors import ConfigError
from home_dist.experts import SparseBank
from home_dist.network import Network
from home_dist.planning.estimate import HEAD_ROOM, not_tables, state_bytes
from home_dist.planning.no_plan import does_not_fit
from home_dist.planning.probe import DenseCost, probe
from home_dist.planning.topology import Machines
from home_dist.planning.traffic import Placed, PlannedShard
from home_dist.schema import InputLayout, Schema

_WIDEST = 2048
"""Columns of a shard that FBGEMM generates kernels for GPUs for (`max_embedding_dim` of its generator)."""


class NoPlan(Exception):
    """No plan fits; its text is the planner's reason."""


@dataclass(frozen=True)
class Placement:
    plan: ShardingPlan
    dense: DenseCost


def place(
    network: Network, layout: InputLayout, config: RunConfig, machines: Machines, lengths: Mapping[str, float]
) -> Placement:
    """Places the tables. network: not yet sharded, as it is constructed; lengths: ids per sample, by key of the input. A
    function of its arguments alone, so that a run's tables lie where `home-dist plan` says. Raises ConfigError, with remedies,
    when no plan fits, or a setting cannot be."""
    sharing = config.distributed.expert_parallel
    if sharing > 1 and not any(isinstance(m, SparseBank) for m in network.head.modules()):
        raise ConfigError(
            f"distributed.expert_parallel = {sharing}: model.kind = {config.model.kind!r} has no pool of experts to share. Set "
            "it to 1, or choose a model with a pool, such as smes"
        )
    dense = probe(network, layout, lengths)
    fixed = sum(not_tables(config, dense).values())
    buffers = _buffers(layout, config, lengths)
    ids = sum(t.managed_bytes for t in layout.tables) / machines.count  # of managed tables, which are sharded by row
    reserved = fixed + buffers + ids + HEAD_ROOM * machines.device.memory * 1e9
    try:
        plan = _planned(network, layout, config, machines, lengths, reserved)
        _refuse_wide(plan, layout, machines)
        return Placement(plan, dense)
    except NoPlan as reason:
        raise ConfigError(does_not_fit(layout, config, machines, fixed, buffers, str(reason))) from None


def _planned(
    network: Network, layout: InputLayout, config: RunConfig, machines: Machines, lengths: Mapping[str, float], reserved: float
) -> ShardingPlan:
    """reserved: bytes per device that tables may not take. Raises NoPlan or ConfigError."""
    device, cap = machines.device, int(machines.device.memory * 1e9 - reserved)
    if cap <= 0:
        raise NoPlan("what is not tables takes all memory of a device")
    of_host = int(device.host_memory * 1e9 * (1 - HEAD_ROOM))
    memory: dict[str, Any] = {"hbm_cap": cap, "ddr_cap": of_host} if device.platform == "cuda" else {"ddr_cap": cap}
    topology = Topology(
        world_size=machines.count,
        compute_device=device.platform,
        local_world_size=machines.per_host,
        hbm_mem_bw=device.memory_speed * 1e6,  # bytes per millisecond
        ddr_mem_bw=device.memory_speed * 1e6,
        hbm_to_ddr_mem_bw=device.host_link * 1e6,
        intra_host_bw=device.intra * 1e6,
        inter_host_bw=device.inter * 1e6,
        **memory,
    )
    constraints = table_constraints(layout, config.embedding, device.platform)
    for table in constraints:
        users = [i for i in layout.inputs if i.table.name == table]
        constraints[table] = replace(constraints[table], pooling_factors=[lengths.get(i.key, 1.0) for i in users])
    planner = EmbeddingShardingPlanner(
        topology=topology,
        batch_size=config.train.batch_size,
        enumerator=_Enumerator(topology, config.train.batch_size, constraints, config.embedding.optimizer),
        constraints=constraints,
        storage_reservation=_nothing(),
        debug=False,
    )
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            return planner.plan(network, sharders(config.embedding, config.train.seed))
    except PlannerError as error:
        raise NoPlan(str(error).splitlines()[0]) from None


class _Enumerator(EmbeddingEnumerator):
    """TorchRec's, with all of the optimizer's state. TorchRec counts the state in the weights' precision, so that it lacks half
    of the state of fp16 tables, and one number per row of the table, where each column-wise shard keeps one."""

    def __init__(self, topology: Topology, batch: int, constraints: dict[str, ParameterConstraints], optimizer: str):
        super().__init__(topology, batch, constraints)
        self._optimizer = optimizer

    def populate_estimates(self, sharding_options: list[ShardingOption]) -> None:
        super().populate_estimates(sharding_options)
        for option in sharding_options:
            if option.sharding_type == ShardingType.DATA_PARALLEL.value:
                continue  # fp32, and kept whole
            weight, columns = option.tensor.element_size(), option.tensor.shape[1]
            for shard in option.shards:
                rows, width = shard.size
                counted = state_bytes(self._optimizer, rows, width) * weight / 4
                if self._optimizer == "row_wise_adagrad":
                    counted *= width / columns
                lacks = int(state_bytes(self._optimizer, rows, width) - counted)
                on_device = self._compute_device == "cuda" and option.compute_kernel == EmbeddingComputeKernel.FUSED.value
                shard.storage = shard.storage + (Storage(lacks, 0) if on_device else Storage(0, lacks))


def _refuse_wide(plan: ShardingPlan, layout: InputLayout, machines: Machines) -> None:
    """Raises ConfigError for a shard that is wider than FBGEMM's kernels for GPUs take."""
    if machines.device.platform != "cuda":
        return
    for table in placed_tables(plan, layout, machines.count):
        width = max(shard.columns for shard in table.shards)
        if width > _WIDEST:
            sets = f", {table.of.sets} vectors of {table.of.shared_dim}" if table.of.sets > 1 else ""
            raise ConfigError(
                f"table {table.table}: rows of {width:,} columns{sets}; FBGEMM's kernels for GPUs take {_WIDEST:,} at most. "
                f'Make embedding.dim smaller, or set embedding.tables.{table.table}.sharding = "column_wise"'
            )


def _buffers(layout: InputLayout, config: RunConfig, lengths: Mapping[str, float]) -> float:
    """Bytes of a rank's exchange buffers. The plan is not yet known: all tables are taken as sharded by row."""
    total = 0.0
    for item in layout.inputs:
        if item.table.replicated:
            continue
        vectors = 1.0 if item.place in ("bag", "weighted_bag") else lengths.get(item.key, 1.0)
        total += config.train.batch_size * (vectors * item.table.dim * 4 * 4 + lengths.get(item.key, 1.0) * 8 * 3)
    return total


def model_without_memory(schema: Schema, layout: InputLayout, config: RunConfig, ranks: int = 1) -> Network:
    """The network with sharded tables on the meta device, which take no memory. Dense parameters are real. ranks: over which
    managed tables and pools of experts will be sharded."""
    network = Network(schema, layout, config, torch.device("meta"), ranks)
    fuse_table_optimizer(network.table_parameters(), config.embedding)
    return network


def placed_tables(plan: ShardingPlan, layout: InputLayout, ranks: int) -> list[Placed]:
    """The placement of each sharded table in a plan, largest table first."""
    tables: list[Placed] = []
    by_name = {t.name: t for t in layout.tables}
    for module in plan.plan.values():
        for name, sharding in module.items():
            table, spec = by_name[name], sharding.sharding_spec
            if isinstance(spec, EnumerableShardingSpec):
                shards = tuple(PlannedShard(s.placement.rank(), *map(int, s.shard_sizes)) for s in spec.shards)
            else:
                shards = tuple(PlannedShard(rank, table.rows, table.dim) for rank in range(ranks))
            users = tuple(i for i in layout.inputs if i.table.name == name)
            tables.append(Placed(name, table.rows, table.dim, sharding_name(sharding.sharding_type), shards, users))
    return sorted(tables, key=lambda p: -p.rows * p.dim)


def _nothing() -> Any:
    """No reservation: all memory beside tables has been subtracted from the devices' already."""
    return FixedPercentageStorageReservation(percentage=0.0)
