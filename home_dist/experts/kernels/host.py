"""The operator on a CPU: matrix products as torch has them, everything else in passes that read each tensor once.

Kept for the backward are the hidden activations and the experts' outputs before their activation; the activated outputs never
exist as a whole. The backward computes anew what is pointwise, and writes gradients over what it no longer needs: beside the
gradients that it returns it allocates next to nothing.
"""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from home_dist.experts.kernels.operands import Operands, Precision
from home_dist.experts.kernels.passes import Activation, Passes, TorchPasses
from home_dist.experts.kernels.passes_native import CannotBuild, NativePasses
from home_dist.layers.global_norm import several_ranks

_BLOCK_BYTES = 8 << 20
"""Of the hidden activations between a matrix product and the pass over its result, which then finds them in the cache."""

_STORED = {"fp32": None, "bf16": torch.bfloat16}


@functools.cache
def passes() -> Passes:
    try:
        return NativePasses()
    except CannotBuild as error:
        return TorchPasses(str(error))


def mixed(
    operands: Operands,
    inputs: Sequence[torch.Tensor],
    gates: torch.Tensor,
    mask: torch.Tensor | None,
    precision: Precision,
    using: Passes | None = None,
) -> torch.Tensor:
    """inputs: (B, F) each; gates: (K, B, E); mask: (B,). Returns (K, B, D). `using`: other passes than this machine's best."""
    kinds = {t.dtype for t in (*inputs, gates, *operands.weights)}
    if len(kinds) > 1 or not kinds <= {torch.float32, torch.float64}:
        raise TypeError(f"the cpu kernel takes fp32 or fp64 throughout, got {', '.join(sorted(map(str, kinds)))}")
    norm = () if operands.norm is None else (operands.norm.weight, operands.norm.bias)
    keep = torch.is_grad_enabled()
    call = _Call(operands, len(inputs), mask, precision, using or passes(), keep)
    return _Mixed.apply(call, gates, *inputs, *operands.weights, *operands.biases, *norm)


@dataclass
class _Call:
    """What a call is made of, apart from tensors with gradients."""

    operands: Operands
    inputs: int
    mask: torch.Tensor | None
    precision: Precision
    using: Passes
    keep: bool
    count: torch.Tensor | None = None
    """(): samples that the statistics are of; None where they are running averages."""

    def split(self, tensors: Sequence[torch.Tensor]) -> tuple[list[torch.Tensor], list[torch.Tensor], list[torch.Tensor]]:
        """Inputs, weights and biases, out of the order that they are passed in."""
        layers = len(self.operands.weights)
        ends = (self.inputs, self.inputs + layers, self.inputs + layers + len(self.operands.biases))
        return list(tensors[: ends[0]]), list(tensors[ends[0] : ends[1]]), list(tensors[ends[1] : ends[2]])

    def blocks(self, rows: int) -> Iterator[tuple[int, slice]]:
        """(input, experts): experts of one input whose hidden activations fit a cache, and at most an eighth of all."""
        weights = self.operands.weights
        size = max(w.shape[1] for w in weights) * rows * weights[0].element_size()
        step, at = max(min(_BLOCK_BYTES // max(size, 1), self.operands.total // 8), 1), 0
        for index, count in enumerate(self.operands.experts):
            for first in range(at, at + count, step):
                yield index, slice(first, min(first + step, at + count))
            at += count


class _Mixed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, call: _Call, gates: torch.Tensor, *tensors: torch.Tensor) -> torch.Tensor:
        using, stored = call.using, _STORED[call.precision]
        inputs, weights, biases = call.split(tensors)
        rows = gates.shape[1]
        gates = gates if gates.stride(2) == 1 else gates.contiguous()
        mask = None if call.mask is None else call.mask.to(gates.dtype).contiguous()
        if stored is not None:
            inputs, weights = [x.to(stored) for x in inputs], [w.to(stored) for w in weights]

        total = call.operands.total
        hidden = [inputs[0].new_empty(total if call.keep else 0, rows, w.shape[1]) for w in weights[:-1]]
        y = inputs[0].new_empty(total, rows, weights[-1].shape[1])
        for index, some in call.blocks(rows):
            count = some.stop - some.start
            x = inputs[index].expand(count, *inputs[index].shape)
            for depth, weight in enumerate(weights[:-1]):
                out = hidden[depth][some] if call.keep else x.new_empty(count, rows, weight.shape[1])
                torch.bmm(x, weight[some].transpose(1, 2), out=out)
                using.bias_relu_(out, biases[depth][some])
                x = out
            torch.bmm(x, weights[-1][some].transpose(1, 2), out=y[some])

        activation, call.count = _activation(call, y, biases, mask)
        out = using.mix(y, activation, gates)
        if call.keep:
            ctx.call, ctx.hidden, ctx.y = call, hidden, y
            ctx.save_for_backward(gates, mask, *activation, *inputs, *weights)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        call, using = ctx.call, ctx.call.using
        gates, mask, *rest = ctx.saved_tensors
        activation = Activation(*rest[:4])
        inputs, weights, _ = call.split(rest[4:])
        grad = grads[0].contiguous()
        y, hidden = _own(ctx)

        gate_grad, shift_grad, scale_grad = using.mix_sums(grad, y, activation, gates)
        statistics = _through_statistics(activation, shift_grad, scale_grad, call.count)
        using.mix_inner_(grad, y, activation, gates, *statistics, mask)
        down, blocks = y, list(call.blocks(y.shape[1]))
        del y
        weight_grads: list[torch.Tensor] = []
        bias_grads: list[torch.Tensor] = []
        for depth in range(len(weights) - 1, 0, -1):
            below = hidden.pop()
            weight_grads.insert(0, torch.empty_like(weights[depth]))
            bias_grads.insert(0, grad.new_empty(below.shape[0], below.shape[2]))
            for _, some in blocks:
                torch.bmm(down[some].transpose(1, 2), below[some], out=weight_grads[0][some])
                bias_grads[0][some] = using.relu_backward_(below[some], torch.bmm(down[some], weights[depth][some]))
            down = below
            del below
        weight_grads.insert(0, torch.empty_like(weights[0]))
        wanted = ctx.needs_input_grad[2 : 2 + call.inputs]
        input_grads = [torch.zeros_like(x, dtype=grad.dtype) if w else None for x, w in zip(inputs, wanted, strict=True)]
        for index, some in blocks:
            x, into = inputs[index], input_grads[index]
            torch.bmm(down[some].transpose(1, 2), x.expand(some.stop - some.start, *x.shape), out=weight_grads[0][some])
            if into is not None:
                _add_products(into, down[some], weights[0][some])
        if activation.scale is None:
            bias_grads.append(shift_grad)
        norm_grads = () if scale_grad is None else (scale_grad, shift_grad)
        return (None, gate_grad, *input_grads, *(g.to(grad.dtype) for g in weight_grads), *bias_grads, *norm_grads)


def _own(ctx: Any) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """What the forward kept, to be written over: copies if the graph is to serve again."""
    if ctx.y is None:
        raise RuntimeError("this graph has been through a backward; pass retain_graph=True to the first one for a second")
    y, hidden = ctx.y, ctx.hidden
    if _graph_is_kept():
        return y.clone(), [h.clone() for h in hidden]
    ctx.y = ctx.hidden = None
    return y, hidden


def _graph_is_kept() -> bool:
    # Not public; where it is missing, a copy is the safe choice.
    asked = getattr(torch._C._autograd, "_get_current_graph_task_keep_graph", None)
    return True if asked is None else asked()


def _add_products(into: torch.Tensor, down: torch.Tensor, weights: torch.Tensor) -> None:
    """into (B, F) += sum over m of down (m, B, H) @ weights (m, H, F); `into` has the type that is summed in."""
    for part, weight in zip(down, weights, strict=True):
        if into.dtype == weight.dtype:
            into.addmm_(part, weight)
        else:
            into.add_(torch.mm(part, weight))


def _activation(
    call: _Call, y: torch.Tensor, biases: list[torch.Tensor], mask: torch.Tensor | None
) -> tuple[Activation, torch.Tensor | None]:
    """What follows the last layer, and the number of samples that its statistics are of."""
    norm = call.operands.norm
    if norm is None:
        return Activation(None, biases[-1].contiguous()), None
    if norm.of_batch:
        mean, squares = call.using.moments(y, mask)
        count = mean.new_tensor(float(y.shape[1])) if mask is None else mask.sum()
        statistics = norm.of_ranks(mean, squares, count)
    else:
        statistics = norm.running()
    rstd = torch.rsqrt(statistics.variance + norm.module.eps)
    scale = rstd * norm.weight
    shift = norm.bias - statistics.mean * scale
    return Activation(scale, shift, statistics.mean.clone(), rstd), statistics.samples


def _through_statistics(
    activation: Activation, shift_grad: torch.Tensor, scale_grad: torch.Tensor | None, count: torch.Tensor | None
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """What each sample's gradient loses to the statistics that it is part of: away + along * its standardised value, (E, D)."""
    if count is None or scale_grad is None or activation.scale is None:
        return None, None
    sums = torch.stack([shift_grad, scale_grad])
    if several_ranks():
        torch.distributed.all_reduce(sums)
    away, along = (sums * (activation.scale / count.clamp(min=1))).unbind(0)
    return away, along
