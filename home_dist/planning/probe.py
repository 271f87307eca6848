"""Cost of one sample in the dense part: runs a few samples through it on this machine, and counts."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode
from torchrec.sparse.jagged_tensor import JaggedTensor, KeyedJaggedTensor, KeyedTensor

from home_dist.config import KernelSection
from home_dist.data.batch import Batch
from home_dist.experts import SparseBank, kernels, mixture
from home_dist.experts.kernels import Operands
from home_dist.experts.kernels.eager import outputs
from home_dist.layers.global_norm import GlobalBatchNorm, without_other_ranks
from home_dist.layers.kept_bytes import KeptBytes
from home_dist.network import Head, Network
from home_dist.schema import IdInput, InputLayout
from home_dist.schema.layout import ONE_BY_ONE

_SAMPLES = 4


@dataclass(frozen=True)
class DenseCost:
    parameters: int
    """On each rank: of a pool of experts that ranks share, those of its share."""
    flops: float
    """Of one sample's forward."""
    kept: float
    """Bytes per sample that the forward keeps for the backward, without parameters."""
    statistics: int
    """Numbers that the normalisation layers send to the other ranks in a step."""
    launches: int
    """Operators of a step's forward and backward, without views; each is at least one launch."""
    pools: tuple["PoolCost", ...] = ()
    """Pools of experts that ranks share."""

    @property
    def apart(self) -> int:
        """Parameters that not all ranks hold, of `parameters`."""
        return sum(pool.parameters for pool in self.pools)


@dataclass(frozen=True)
class PoolCost:
    """A pool of experts that ranks share (distributed.expert_parallel)."""

    holders: int
    """Ranks that share it."""
    parameters: int
    """On the rank that holds most."""
    pairs: int
    """Experts of a sample, at most."""
    numbers: int
    """That travel for a pair in a forward: the expert's input and its output."""

    @staticmethod
    def of(bank: SparseBank) -> "PoolCost":
        width = bank.weights[0].shape[2] + bank.weights[-1].shape[1]
        return PoolCost(bank.share.holders.count, sum(p.numel() for p in bank.parameters()), bank.per_sample, width)


def probe(network: Network, layout: InputLayout, lengths: Mapping[str, float]) -> DenseCost:
    """lengths: ids per sample, by key of the input. Changes neither the network nor the state of random numbers, and exchanges
    nothing with other ranks."""
    with torch.random.fork_rng(devices=[]), without_other_ranks():
        return _probe(copy.deepcopy(network.head), layout, lengths)


def _probe(head: Head, layout: InputLayout, lengths: Mapping[str, float]) -> DenseCost:
    kernels.select(head, KernelSection(backend="eager"), torch.device("cpu"))
    pools = [m for m in head.modules() if isinstance(m, SparseBank)]
    parameters = {p.untyped_storage().data_ptr() for p in head.parameters()}
    for bank in pools:
        bank.of_chosen = partial(_of_some, bank, parameters)  # type: ignore[method-assign]
    batch, looked_up = _batch(layout, len(head.objectives.outputs), lengths)
    kept = KeptBytes(parameters)
    with FlopCounterMode(display=False) as counted, kept:
        head(batch, *looked_up)
    with LaunchCount() as launched:
        loss, _ = head(batch, *looked_up)
        loss.backward()
    for bank in pools:
        del bank.of_chosen  # which holds the bank that holds it
    norms = [m for m in head.modules() if isinstance(m, GlobalBatchNorm)]
    return DenseCost(
        parameters=sum(p.numel() for p in head.parameters()),
        flops=counted.get_total_flops() / _SAMPLES,
        kept=kept.total / _SAMPLES,
        statistics=sum(2 * m.running_mean.numel() + 1 for m in norms),
        launches=launched.count,
        pools=tuple(PoolCost.of(bank) for bank in pools if not bank.share.whole),
    )


def _of_some(
    bank: SparseBank,
    parameters: set[int],
    x: torch.Tensor,
    chosen: torch.Tensor,
    gates: torch.Tensor,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """In place of SparseBank.of_chosen, which eager computes for all experts: the work and the memory of as many experts as a
    sample uses at most. What is chosen here, by new routers and of equal samples, says nothing. Those of other ranks are
    copies of this one's. parameters: where the storages of what are no activations begin."""
    some, held, whole = bank.per_sample, bank.share.count, bank._operands()
    times = -(-some // held)

    def of(values: torch.Tensor) -> torch.Tensor:
        own = values[:some] if times == 1 else torch.cat([values] * times)[:some]
        parameters.add(own.untyped_storage().data_ptr())
        return own

    operands = Operands((some,), [of(w) for w in whole.weights], [of(b) for b in whole.biases], None)
    out = outputs(operands, [x], mask, "fp32", activate=False)
    return mixture(gates.mean(2, keepdim=True).expand(-1, -1, some), torch.relu(out))


class LaunchCount(TorchDispatchMode):
    """Counts operators, also in the backward. Views do not count: they compute nothing, so that a GPU launches nothing."""

    count = 0

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not getattr(operator, "is_view", False)
        return operator(*args, **(kwargs or {}))


_LookedUp = tuple[KeyedTensor | None, KeyedTensor | None, dict[str, JaggedTensor]]


def _batch(layout: InputLayout, tasks: int, lengths: Mapping[str, float]) -> tuple[Batch, _LookedUp]:
    def length(item: IdInput) -> int:
        return max(1, round(lengths.get(item.key, 1.0)))

    def ids(items: tuple[IdInput, ...], floats: bool = False) -> KeyedJaggedTensor:
        sizes = torch.tensor([length(i) for i in items], dtype=torch.int32).repeat_interleave(_SAMPLES)
        total = int(sizes.sum())
        values = torch.ones(total) if floats else torch.zeros(total, dtype=torch.int64)
        return KeyedJaggedTensor([i.key for i in items], values, lengths=sizes)

    def bags(items: tuple[IdInput, ...]) -> KeyedTensor | None:
        dims = [i.table.dim for i in items]
        return (
            KeyedTensor([i.key for i in items], dims, torch.zeros(_SAMPLES, sum(dims), requires_grad=True)) if items else None
        )

    events = {
        i.key: JaggedTensor(
            values=torch.zeros(_SAMPLES * length(i), i.table.dim, requires_grad=True),
            lengths=torch.full((_SAMPLES,), length(i), dtype=torch.int32),
        )
        for place in ONE_BY_ONE
        for i in layout.at(place)
    }
    batch = Batch(
        bags=ids(layout.at("bag")),
        weighted_bags=ids(layout.at("weighted_bag")),
        events=ids(layout.at("event")),
        managed=ids(layout.at("managed")),
        small_lists=ids(layout.at("small_list")),
        list_weights=ids(layout.weighted, floats=True),
        small=torch.zeros(_SAMPLES, len(layout.at("small")), dtype=torch.int64),
        dense=torch.zeros(_SAMPLES, layout.dense_width),
        vectors=torch.zeros(_SAMPLES, sum(i.width + 1 for i in layout.pretrained)),
        labels=torch.zeros(_SAMPLES, tasks),
        durations=torch.ones(_SAMPLES, len(layout.durations)),
        teachers=torch.zeros(_SAMPLES, len(layout.teachers)),
        weights=torch.ones(_SAMPLES, tasks),
        mask=torch.ones(_SAMPLES),
        groups=torch.zeros(_SAMPLES, dtype=torch.int64),
    )
    return batch, (bags(layout.at("bag")), bags(layout.at("weighted_bag")), events)
