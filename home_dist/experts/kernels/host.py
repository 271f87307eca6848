"""The operator on a CPU: matrix products as torch has them, everything else in passes that read each tensor once.

Kept for the backward are the hidden activations and the experts' outputs before their activation; the activated outputs never
exist as a whole. The backward computes anew what is pointwise, and writes gradients over what it no longer needs: beside the
gradients that it returns it allocates next to nothing.
"""

import functools
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import torch
from torch.autograd.function import once_differentiable

from home_dist.experts.kernels.activation import Activation, activation_of, through_statistics
from home_dist.experts.kernels.call import Call, keep, own
from home_dist.experts.kernels.grouped import add_product
from home_dist.experts.kernels.operands import Operands, Precision
from home_dist.experts.kernels.passes import Passes, TorchPasses
from home_dist.experts.kernels.passes_native import CannotBuild, NativePasses
from home_dist.layers.global_norm import Moments

_BLOCK_BYTES = 8 << 20
"""Of the hidden activations between a matrix product and the pass over its result, which then finds them in the cache."""

T = TypeVar("T", torch.Tensor, torch.Tensor | None)

_SPLIT_ROWS = 256
"""From here on, products of half as many samples are no slower."""

STORED = {"fp32": None, "bf16": torch.bfloat16}


@functools.cache
def passes() -> Passes:
    try:
        return NativePasses()
    except CannotBuild as error:
        return TorchPasses(str(error))


def mixed(
    operands: Operands,
    inputs: Sequence[torch.Tensor] | torch.Tensor,
    gates: torch.Tensor,
    mask: torch.Tensor | None,
    precision: Precision,
    using: Passes | None = None,
) -> torch.Tensor:
    """inputs: (B, F) each, or all as one tensor; gates: (K, B, E); mask: (B,). Returns (K, B, D).

    `using`: other passes than this machine's best.
    """
    inputs = [inputs] if isinstance(inputs, torch.Tensor) else inputs
    kinds = {t.dtype for t in (*inputs, gates, *operands.weights)}
    if len(kinds) > 1 or not kinds <= {torch.float32, torch.float64}:
        raise TypeError(f"the cpu kernel takes fp32 or fp64 throughout, got {', '.join(sorted(map(str, kinds)))}")
    call, tensors = Call.arguments(operands, inputs, mask, precision)
    return _Mixed.apply(call, using or passes(), gates, *tensors)


def _blocks(operands: Operands, rows: int) -> Iterator[tuple[int, slice]]:
    """(input, experts): experts of one input whose hidden activations fit a cache, and at most an eighth of all."""
    weights = operands.weights
    size = max(w.shape[1] for w in weights) * rows * weights[0].element_size()
    step, at = max(min(_BLOCK_BYTES // max(size, 1), operands.total // 8), 1), 0
    for index, count in enumerate(operands.experts):
        for first in range(at, at + count, step):
            yield index, slice(first, min(first + step, at + count))
        at += count


def _halves(block: torch.Tensor) -> list[slice]:
    """Samples, of which a block's gradient is held at a time: all; half of them if the block is one expert, as it cannot be
    made smaller otherwise."""
    experts, rows, _ = block.shape
    middle = rows // 2 if experts == 1 and rows >= _SPLIT_ROWS else 0
    return [slice(0, middle), slice(middle, rows)] if middle else [slice(0, rows)]


class _Mixed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, call: Call, using: Passes, gates: torch.Tensor, *tensors: torch.Tensor) -> torch.Tensor:
        stored = STORED[call.precision]
        inputs, weights, biases = call.split(tensors)
        rows = gates.shape[1]
        gates = gates if gates.stride(2) == 1 else gates.contiguous()
        mask = None if call.mask is None else call.mask.to(gates.dtype).contiguous()
        if stored is not None:
            inputs, weights = [x.to(stored) for x in inputs], [w.to(stored) for w in weights]
        each = _each(inputs)

        total = call.operands.total
        hidden = [inputs[0].new_empty(total if call.keep else 0, rows, w.shape[1]) for w in weights[:-1]]
        y = inputs[0].new_empty(total, rows, weights[-1].shape[1])
        for index, some in _blocks(call.operands, rows):
            count = some.stop - some.start
            x = each[index].expand(count, *each[index].shape)
            for depth, weight in enumerate(weights[:-1]):
                out = hidden[depth][some] if call.keep else x.new_empty(count, rows, weight.shape[1])
                torch.bmm(x, weight[some].transpose(1, 2), out=out)
                using.bias_relu_(out, biases[depth][some])
                x = out
            torch.bmm(x, weights[-1][some].transpose(1, 2), out=y[some])

        def local() -> Moments:
            return *using.moments(y, mask), gates.new_tensor(float(rows)) if mask is None else mask.sum()

        activation, call.samples = activation_of(call.operands, call.last_bias(biases), local)
        out = using.mix(y, activation, gates)
        if call.keep:
            ctx.call, ctx.using = call, using
            keep(ctx, y, hidden)
            ctx.save_for_backward(gates, mask, *activation, *inputs, *weights)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        call, using = ctx.call, ctx.using
        gates, mask, *rest = ctx.saved_tensors
        activation = Activation(*rest[:4])
        inputs, weights, _ = call.split(rest[4:])
        grad = grads[0].contiguous()
        y, hidden = own(ctx)

        gate_grad, shift_grad, scale_grad = using.mix_sums(grad, y, activation, gates)
        statistics = through_statistics(activation, shift_grad, scale_grad, call.samples)
        using.mix_inner_(grad, y, activation, gates, *statistics, mask)
        down, blocks = y, list(_blocks(call.operands, y.shape[1]))
        del y
        weight_grads: list[torch.Tensor] = []
        bias_grads: list[torch.Tensor] = []
        for depth in range(len(weights) - 1, 0, -1):
            below = hidden.pop()
            weight_grads.insert(0, torch.empty_like(weights[depth]))
            bias_grads.insert(0, grad.new_empty(below.shape[0], below.shape[2]))
            for _, some in blocks:
                torch.bmm(down[some].transpose(1, 2), below[some], out=weight_grads[0][some])
                sums = [
                    using.relu_backward_(below[some, rows], torch.bmm(down[some, rows], weights[depth][some]))
                    for rows in _halves(below[some])
                ]
                bias_grads[0][some] = sum(sums[1:], sums[0])
            down = below
            del below
        weight_grads.insert(0, torch.empty_like(weights[0]))
        wanted = ctx.needs_input_grad[3 : 3 + call.inputs]
        input_grads = [torch.empty_like(x, dtype=grad.dtype) if w else None for x, w in zip(inputs, wanted, strict=True)]
        each, into, begun = _each(inputs), _each(input_grads), set()
        for index, some in blocks:
            x, to = each[index], into[index]
            torch.bmm(down[some].transpose(1, 2), x.expand(some.stop - some.start, *x.shape), out=weight_grads[0][some])
            if to is not None:
                _add_products(to, down[some], weights[0][some], index in begun)
                begun.add(index)
        for index, to in enumerate(into):
            if to is not None and index not in begun:  # no gate sees any expert that reads it
                to.zero_()
        if activation.scale is None:
            bias_grads.append(shift_grad)
        norm_grads = () if scale_grad is None else (scale_grad, shift_grad)
        return (None, None, gate_grad, *input_grads, *(g.to(grad.dtype) for g in weight_grads), *bias_grads, *norm_grads)


def _each(tensors: list[T]) -> list[T]:
    """One per input: all of them may be one tensor."""
    first = tensors[0]
    return list(first.unbind(0)) if first is not None and first.dim() == 3 else tensors


def _add_products(into: torch.Tensor, down: torch.Tensor, weights: torch.Tensor, begun: bool) -> None:
    """into (B, F) = sum over m of down (m, B, H) @ weights (m, H, F), or += if begun."""
    for part, weight in zip(down, weights, strict=True):
        if begun:
            add_product(into, part, weight)
        elif into.dtype == weight.dtype:
            torch.mm(part, weight, out=into)
        else:
            into.copy_(torch.mm(part, weight))
        begun = True
