"""The operator on a CPU: matrix products as torch has them, everything else in passes that read each tensor once.

Kept for the backward are the hidden activations and the experts' outputs before their activation; the activated outputs never
exist as a whole. The backward computes what is pointwise anew, some experts at a time, so that its memory does not grow with
their number.
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

_BLOCK_BYTES = 16 << 20
"""Of the gradients that the backward holds at a time, about what a last-level cache has for us."""

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

    def blocks(self, rows: int) -> Iterator[tuple[int, int, int]]:
        """(input, first expert, last expert): experts of one input whose gradients fit a cache."""
        weights = self.operands.weights
        most = max(sum(w.shape[1] for w in weights[-2:]) * rows * weights[0].element_size(), 1)
        step, at = max(_BLOCK_BYTES // most, 1), 0
        for index, count in enumerate(self.operands.experts):
            for first in range(at, at + count, step):
                yield index, first, min(first + step, at + count)
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
        for index, first, last in call.blocks(rows):
            x = inputs[index].expand(last - first, *inputs[index].shape)
            for depth, weight in enumerate(weights):
                final = depth == len(weights) - 1
                if final:
                    out = y[first:last]
                else:
                    out = hidden[depth][first:last] if call.keep else x.new_empty(last - first, rows, weight.shape[1])
                torch.bmm(x, weight[first:last].transpose(1, 2), out=out)
                if not final:
                    using.bias_relu_(out, biases[depth][first:last])
                x = out

        activation, call.count = _activation(call, y, biases, mask)
        out = using.mix(y, activation, gates)
        if call.keep:
            ctx.call = call
            ctx.save_for_backward(gates, mask, y, *activation, *hidden, *inputs, *weights)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        call, using = ctx.call, ctx.call.using
        gates, mask, y, *rest = ctx.saved_tensors
        layers = len(call.operands.weights)
        activation = Activation(*rest[:4])
        hidden, tensors = rest[4 : 3 + layers], rest[3 + layers :]
        inputs, weights, _ = call.split(tensors)
        grad = grads[0].contiguous()

        gate_grad, shift_grad, scale_grad = using.mix_sums(grad, y, activation, gates)
        away, along = _through_statistics(activation, shift_grad, scale_grad, call.count)
        wanted = ctx.needs_input_grad[2 : 2 + call.inputs]
        input_grads = [torch.zeros_like(x, dtype=grad.dtype) if w else None for x, w in zip(inputs, wanted, strict=True)]
        weight_grads = [torch.empty_like(w) for w in weights]
        bias_grads = [y.new_empty(w.shape[:2], dtype=grad.dtype) for w in weights[:-1]]
        for index, first, last in call.blocks(y.shape[1]):
            some = slice(first, last)
            of = (None if away is None else away[some], None if along is None else along[some])
            down = using.mix_inner(grad, y[some], activation.of(first, last), gates[..., some], *of, mask)
            for depth in range(layers - 1, 0, -1):
                below = hidden[depth - 1][some]
                torch.bmm(down.transpose(1, 2), below, out=weight_grads[depth][some])
                down = torch.bmm(down, weights[depth][some])
                bias_grads[depth - 1][some] = using.relu_backward_(down, below)
            x = inputs[index]
            torch.bmm(down.transpose(1, 2), x.expand(last - first, *x.shape), out=weight_grads[0][some])
            into = input_grads[index]
            if into is not None:
                for n, weight in enumerate(weights[0][some]):
                    if into.dtype == weight.dtype:
                        into.addmm_(down[n], weight)
                    else:
                        into.add_(torch.mm(down[n], weight))
        if activation.scale is None:
            bias_grads.append(shift_grad)
        norm_grads = () if scale_grad is None else (scale_grad, shift_grad)
        return (None, gate_grad, *input_grads, *(g.to(grad.dtype) for g in weight_grads), *bias_grads, *norm_grads)


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
