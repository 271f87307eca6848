"""Builds the sharded model and its optimizer on every rank, from the configuration and the data's schema."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch.nn.parallel import DistributedDataParallel
from torchrec.distributed import DistributedModelParallel
from torchrec.distributed.model_parallel import DataParallelWrapper, DefaultDataParallelWrapper
from torchrec.distributed.types import ShardingEnv, ShardingPlan
from torchrec.optim.keyed import CombinedOptimizer

from home_dist.config import RunConfig
from home_dist.data.inputs import Inputs
from home_dist.distributed import health
from home_dist.distributed.ranks import Ranks
from home_dist.embeddings.collections import initialise
from home_dist.embeddings.exchange import codecs
from home_dist.embeddings.sharding import drawing_nothing, sharders
from home_dist.errors import ConfigError, UserError
from home_dist.experts import kernels
from home_dist.experts.share import held_apart, shares
from home_dist.layers.program import program
from home_dist.layers.step_check import LARGEST, LARGEST_FP16, StepCheck
from home_dist.network import Head, Network
from home_dist.objectives import Objectives
from home_dist.planning.lengths import Lengths, of_footers
from home_dist.planning.placement import model_without_memory, place
from home_dist.planning.topology import Machines, detected
from home_dist.training.optimizers import build_optimizer

_RANKS_OF_HOST = "LOCAL_WORLD_SIZE"


@dataclass(frozen=True)
class Built:
    model: DistributedModelParallel
    optimizer: CombinedOptimizer
    plan: ShardingPlan
    kernel: kernels.Kernel
    check: StepCheck
    """Refuses steps that are not finite."""
    head: Head

    @contextmanager
    def averaged(self, wanted: bool) -> Iterator[None]:
        """Inside the block, if wanted, dense parameters are their averages (`train.ema`)."""
        if wanted and self.head.averages is not None:
            with self.head.averages.in_place(self.head):
                yield
        else:
            yield

    @property
    def objectives(self) -> Objectives:
        """Of all tasks."""
        return self.head.objectives


def build(inputs: Inputs, ranks: Ranks, loaded: bool = False) -> Built:
    """Plans, shards and initialises; initial values are the same on any number of ranks. loaded: a checkpoint fills the tables
    next, so that their initial values are not drawn."""
    config, exchange = inputs.config, inputs.config.distributed.exchange
    kernels.set_numerics(config.kernel, ranks.device)
    kernel = _of_all_ranks(kernels.choose(ranks.device, config.kernel), ranks)
    torch.manual_seed(config.train.seed)
    network = model_without_memory(inputs.schema, inputs.layout, config, ranks.world_size)
    machines = detected(ranks)
    plan = _placed(network, inputs, ranks, machines)
    kernel = kernels.select(network, config.kernel, ranks.device, kernel)
    network.head.features.bf16 = kernel.precision == "bf16"
    if kernel.backend == "compile":
        network.head.program = program(network.head.logits, config.kernel.cuda_graphs, network.head.weighting.looks)
    sent = codecs(exchange, ranks.device, config.train.batch_size, config.embedding.dim)
    with drawing_nothing(), _hosts_of(machines):
        model = DistributedModelParallel(
            network,
            env=ShardingEnv.from_process_group(torch.distributed.group.WORLD),
            device=ranks.device,
            plan=plan,
            sharders=sharders(config.embedding, config.train.seed, sent),
            data_parallel_wrapper=_DataParallel(config, list(shares(network))) if ranks.world_size > 1 else _Alone(),
        )
    if not loaded:
        initialise(model, config.embedding.init_std, config.train.seed)
    check = network.head.check = _step_check(network, config, ranks)
    return Built(model, build_optimizer(model, config, check), plan, kernel, check, network.head)


@contextmanager
def _hosts_of(machines: Machines) -> Iterator[None]:
    """Inside the block TorchRec, which asks the environment, finds as many ranks on each host as the plan. On hosts of several
    sizes each rank would else take its own host's, and all would wait for ever."""
    before = os.environ.get(_RANKS_OF_HOST)
    os.environ[_RANKS_OF_HOST] = str(machines.per_host)
    try:
        yield
    finally:
        if before is None:
            del os.environ[_RANKS_OF_HOST]
        else:
            os.environ[_RANKS_OF_HOST] = before


def _placed(network: Network, inputs: Inputs, ranks: Ranks, machines: Machines) -> ShardingPlan:
    """The plan of the first rank, which alone reads footers and measures. Raises its UserError on all ranks, such as a
    ConfigError where no plan fits."""
    found: list[ShardingPlan | UserError | None] = [None]
    if ranks.first:
        files = next((inputs.files[s] for s in ("train", *inputs.files) if s in inputs.files), None)
        try:
            lengths = Lengths.of(inputs.layout, {}, of_footers(files) if files is not None else {})
            found = [place(network, inputs.layout, inputs.config, machines, lengths.by_key).plan]
        except UserError as error:
            found = [error]
    health.meet()
    torch.distributed.broadcast_object_list(found)
    if isinstance(found[0], ShardingPlan):
        return found[0]
    raise found[0] or ConfigError("the first rank has no plan")


def _of_all_ranks(own: kernels.Kernel, ranks: Ranks) -> kernels.Kernel:
    """The kernel that all ranks can take."""
    by_rank = [own] * ranks.world_size
    torch.distributed.all_gather_object(by_rank, own)
    return kernels.common(by_rank, ranks.rank)


def _step_check(network: Network, config: RunConfig, ranks: Ranks) -> StepCheck:
    sent = config.distributed.exchange
    dense, lookups = (
        LARGEST_FP16 if kind == "fp16" and ranks.world_size > 1 else LARGEST for kind in (sent.gradients, sent.backward)
    )
    return StepCheck(network.head, config.train.accumulate > 1, dense, lookups, apart=held_apart(network.head))


class _Alone(DataParallelWrapper):
    """Wrapper for one rank, without DDP, which would copy gradients into buckets and back with nothing to sum."""

    def wrap(self, dmp: DistributedModelParallel, env: ShardingEnv, device: torch.device) -> None:
        dmp._dmp_wrapped_module.to(device)


class _DataParallel(DefaultDataParallelWrapper):
    """DDP for dense gradients, whose buckets are the same in all steps of a run and of one that resumes it.

    DDP orders its buckets anew after a process's first backward. Of three ranks or more the order in which a number's parts
    are added depends on its place in a bucket, so that a resumed run would differ by rounding. A first backward without data
    has made the order before the first step.
    """

    def __init__(self, config: RunConfig, apart: list[str]):
        """apart: names of parameters and buffers that are not the same on all ranks."""
        sent = config.distributed.exchange.gradients
        super().__init__(static_graph=False, allreduce_comm_precision=None if sent == "fp32" else sent, params_to_ignore=apart)

    def wrap(self, dmp: DistributedModelParallel, env: ShardingEnv, device: torch.device) -> None:
        super().wrap(dmp, env, device)
        ddp = dmp._dmp_wrapped_module
        if isinstance(ddp, DistributedDataParallel):
            parameters = ddp._module_parameters
            ddp.reducer.prepare_for_backward([])
            torch.stack([(p * 0).sum() for p in parameters]).sum().backward()
            ddp.reducer._rebuild_buckets()
            for parameter in parameters:
                parameter.grad = None
