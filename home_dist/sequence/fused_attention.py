"""DIN's attention on a CPU: all layers for a tile of pairs while it is in the cache (native/attention_unit.hpp).

Kept for the backward are the layers' values before their activations, (P, units) each, and the pairs' weights: no copy of an
event or a target per pair. The backward computes activations again. Everything is in the operands' type, fp32 or fp64, also
under autocast: the products are so narrow that a cast would cost more than it gains.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import nn

from home_dist.experts.kernels.cpu_library import call, gemm, pointers, sizes
from home_dist.experts.kernels.once import once_differentiable
from home_dist.layers.global_norm import GlobalBatchNorm, joined, several_ranks
from home_dist.sequence.jagged import bounds_of

KINDS = ("dice", "prelu", "swish", "relu")
"""In the order of the C++ source's `Kind`."""
_SOURCE = Path(__file__).parent / "native" / "attention_unit.cpp"


class UnitLayer(NamedTuple):
    """An activation and the linear layer that follows it."""

    linear: nn.Linear
    slope: torch.Tensor | None = None
    """(in,), of Dice and PReLU."""
    norm: GlobalBatchNorm | None = None
    """Of Dice."""


@dataclass(frozen=True)
class TargetPairs:
    """Which targets meet which events. Histories lie one after the other, and so do the targets of each."""

    bounds: torch.Tensor
    """(R + 1,) int64: where each history's events begin, and where the last one's end."""
    owned: torch.Tensor
    """(R + 1,) int64: the same of each history's targets."""
    starts: torch.Tensor
    """(B + 1,) int64: the same of each target's pairs."""

    @staticmethod
    def of(lengths: torch.Tensor, of_target: torch.Tensor | None) -> "TargetPairs":
        """lengths: (R,), events of each history; of_target: (B,), the history of each target, ascending; None: target b has
        history b."""
        bounds = bounds_of(lengths)
        if of_target is None:
            return TargetPairs(bounds, torch.arange(len(bounds)), bounds)
        owned = torch.searchsorted(of_target.contiguous(), torch.arange(len(bounds), dtype=of_target.dtype))
        return TargetPairs(bounds, owned, bounds_of(lengths.index_select(0, of_target)))


def takes(*tensors: torch.Tensor) -> bool:
    return {t.dtype for t in tensors} in ({torch.float32}, {torch.float64})


def attend(
    pairs: TargetPairs,
    events: torch.Tensor,
    contexts: torch.Tensor,
    targets: torch.Tensor,
    first: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    layers: Sequence[UnitLayer],
    kind: str,
    softmax: bool,
) -> torch.Tensor:
    """events: (N, C); contexts: (N, O); targets: (B, C); first: the weights (H, 2 C + O) of [event ; context ; event * target],
    the bias (H,) and the weight of the target (H, C). Returns sum_t a_t [e_t ; c_t], (B, C + O)."""
    norms = tuple(layer.norm for layer in layers)
    plan = _Plan(pairs, len(layers), norms, KINDS.index(kind), softmax)
    slopes = [layer.slope for layer in layers]
    operands = (
        events,
        contexts,
        targets,
        *first,
        *(n.linear.weight for n in layers),
        *(n.linear.bias for n in layers),
        *slopes,
    )
    return _Attend.apply(plan, *(None if t is None else t.contiguous() for t in operands))


class _Plan(NamedTuple):
    pairs: TargetPairs
    layers: int
    norms: tuple[GlobalBatchNorm | None, ...]
    kind: int
    softmax: bool


class _Unit:
    """The operands of the C++ functions, with what they compute."""

    def __init__(self, plan: _Plan, tensors: Sequence[torch.Tensor | None]):
        count = plan.layers
        self.plan = plan
        self.inputs = [t for t in tensors[:6] if t is not None]
        self.weights, self.biases = list(tensors[6 : 6 + count]), list(tensors[6 + count : 6 + 2 * count])
        self.slopes = list(tensors[6 + 2 * count :])
        self.events, self.contexts, self.targets, self.first = self.inputs[:4]
        self.widths = [len(self.first), *(len(w) for w in self.weights[:-1] if w is not None)]
        self.means: list[torch.Tensor | None] = [None] * count
        self.rstds: list[torch.Tensor | None] = [None] * count
        self.away: list[torch.Tensor | None] = [None] * count
        self.along: list[torch.Tensor | None] = [None] * count
        self.counts: list[torch.Tensor | None] = [None] * count
        """Samples of the statistics; None where they are constants."""
        self.z: list[torch.Tensor | None] = [None] * count
        self.weight = self.events.new_empty(int(plan.pairs.starts[-1]))

    def keep(self) -> None:
        """Makes room for all layers' values."""
        self.z = [self.events.new_empty(len(self.weight), width) for width in self.widths]

    def constants(self, layer: int, mean: torch.Tensor, variance: torch.Tensor, eps: float) -> None:
        self.means[layer], self.rstds[layer] = mean.clone(), torch.rsqrt(variance + eps)

    def run(self, name: str, *arguments: Any) -> None:
        pairs, plan = self.plan.pairs, self.plan
        units = [t for of in zip(self.slopes, self.means, self.rstds, self.away, self.along, strict=True) for t in of]
        call(
            name,
            self.events.dtype,
            gemm(self.events.dtype),
            *self.inputs[:3],
            pairs.bounds,
            pairs.owned,
            pairs.starts,
            len(pairs.bounds) - 1,
            self.events.shape[1],
            self.contexts.shape[1],
            *self.inputs[3:],
            pointers(self.weights),
            pointers(self.biases),
            pointers(units),
            pointers(self.z),
            self.weight,
            sizes(self.widths),
            plan.layers,
            plan.kind,
            int(plan.softmax),
            *arguments,
            source=_SOURCE,
        )

    def forward(self, keep: bool) -> torch.Tensor:
        """keep: whether a backward may follow. Returns (B, C + O)."""
        out = self.events.new_empty(len(self.targets), self.events.shape[1] + self.contexts.shape[1])
        if keep or any(norm is not None and norm.training for norm in self.plan.norms):
            self.keep()
        done = 0
        for layer, norm in enumerate(self.plan.norms):
            if norm is None:
                continue
            if not norm.training:
                self.constants(layer, norm.running_mean, norm.running_var, norm.eps)
                continue
            mean, squares = (self.events.new_zeros(self.widths[layer]) for _ in range(2))
            self.run("attend", done, layer + 1, mean, squares, None)
            done = layer + 1
            mean, variance, count = joined(mean, squares, mean.new_tensor(float(len(self.weight))), norm.peers)
            norm.follow(mean, variance, count)
            self.constants(layer, mean, variance, norm.eps)
            self.counts[layer] = count
        self.run("attend", done, self.plan.layers + 1, None, None, out)
        return out

    def backward(self, grad: torch.Tensor) -> list[torch.Tensor | None]:
        """grad: (B, C + O). Returns the gradients in the order of the tensors."""
        count = self.plan.layers
        weight_grad = torch.empty_like(self.weight)
        input_grads = [torch.empty_like(t) for t in self.inputs[:3]]
        first_grads = [torch.zeros_like(t) for t in self.inputs[3:]]
        rest = [[None if t is None else torch.zeros_like(t) for t in of] for of in (self.weights, self.biases, self.slopes)]
        shared = (grad, weight_grad)
        targets = (*first_grads, *map(pointers, rest))
        up = count + 1
        for layer in range(count - 1, -1, -1):
            samples, norm, rstd = self.counts[layer], self.plan.norms[layer], self.rstds[layer]
            if samples is None or norm is None or rstd is None:
                continue
            inner, outer = torch.zeros(2, self.widths[layer], dtype=grad.dtype).unbind(0)
            self.run("attend_backward", *shared, layer + 1, up, *targets, inner, outer, None, None, None)
            sums = torch.stack([inner, outer])
            if several_ranks(norm.peers):
                dist.all_reduce(sums, group=None if norm.peers is None else norm.peers.group)
            self.away[layer], self.along[layer] = (sums * rstd / samples.clamp(min=1)).unbind(0)
            up = layer + 1
        self.run("attend_backward", *shared, 0, up, *targets, None, None, *input_grads)
        return [*input_grads, *first_grads, *(t for of in rest for t in of)]


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, plan: _Plan, *tensors: torch.Tensor | None) -> torch.Tensor:
        unit = _Unit(plan, tensors)
        out = unit.forward(keep=any(ctx.needs_input_grad))
        if any(ctx.needs_input_grad):
            ctx.plan = plan
            ctx.counts = unit.counts
            ctx.save_for_backward(*tensors, unit.weight, *unit.z, *unit.means, *unit.rstds)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        saved, count = ctx.saved_tensors, ctx.plan.layers
        own = 6 + 3 * count
        unit = _Unit(ctx.plan, saved[:own])
        unit.weight, unit.counts = saved[own], ctx.counts
        unit.z, unit.means, unit.rstds = (list(saved[own + 1 + n * count : own + 1 + (n + 1) * count]) for n in range(3))
        found = unit.backward(grads[0].contiguous())
        return None, *(g if wanted else None for g, wanted in zip(found, ctx.needs_input_grad[1:], strict=True))
