"""The operator on a CPU: matrix products as torch has them, everything else in passes that read each tensor once.

Kept for the backward are the hidden activations and the experts' outputs before their activation; the activated outputs never
exist as a whole. The backward computes anew what is pointwise, and writes gradients over what it no longer needs: beside the
gradients that it returns it allocates next to nothing.
"""

import functools
from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch.autograd.function import once_differentiable

from home_dist.experts.kernels.activation import Activation, activation_of, through_statistics
from home_dist.experts.kernels.call import Call, keep, own
from home_dist.experts.kernels.dropout import Dropout
from home_dist.experts.kernels.operands import Operands, Precision
from home_dist.experts.kernels.passes import Passes, TorchPasses
from home_dist.experts.kernels.passes_native import NativePasses
from home_dist.experts.kernels.products import Layers, Products, TorchProducts, blocks
from home_dist.experts.kernels.products_native import NativeProducts, routine
from home_dist.layers.global_norm import Moments
from home_dist.native_library import CannotBuild

T = TypeVar("T", torch.Tensor, torch.Tensor | None)

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
    dropout: Dropout | None = None,
) -> torch.Tensor:
    """inputs: (B, F) each, or all as one tensor; gates: (K, B, E); mask: (B,). Returns (K, B, D).

    `using`: other passes than this machine's best.
    """
    inputs = [inputs] if isinstance(inputs, torch.Tensor) else inputs
    kinds = {t.dtype for t in (*inputs, gates, *operands.weights)}
    if len(kinds) > 1 or not kinds <= {torch.float32, torch.float64}:
        raise TypeError(f"the cpu kernel takes fp32 or fp64 throughout, got {', '.join(sorted(map(str, kinds)))}")
    call, tensors = Call.arguments(operands, inputs, mask, precision, dropout)
    return _Mixed.apply(call, using or passes(), gates, *tensors)


def _products(using: Passes, kind: torch.dtype) -> Products:
    """kind: what activations are stored in."""
    if isinstance(using, NativePasses) and (gemm := routine(kind)) is not None:
        return NativeProducts(using, gemm)
    return TorchProducts(using)


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
        inputs, weights, biases = ([t.contiguous() for t in tensors] for tensors in (inputs, weights, biases))
        layers = Layers(_each(inputs), call.operands.experts, weights, biases)
        norm = call.operands.norm
        products = _products(using, weights[0].dtype)
        y, hidden, moments = products.forward(layers, call.keep, norm is not None and norm.of_batch, mask)

        def local() -> Moments:
            if moments is None:
                raise RuntimeError("moments of a batch that were not computed")
            return *moments, gates.new_tensor(float(rows)) if mask is None else mask.sum()

        activation, call.samples = activation_of(call.operands, call.last_bias(biases), local)
        out = using.mix(y, activation, gates, call.dropout)
        if call.keep:
            ctx.call, ctx.using, ctx.products = call, using, products
            keep(ctx, [gates, mask, *activation, *inputs, *weights, *biases], y, hidden)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        call, using, products = ctx.call, ctx.using, ctx.products
        (gates, mask, *rest), y, hidden = own(ctx)
        activation = Activation(*rest[:4])
        inputs, weights, biases = call.split(rest[4:])
        layers = Layers(_each(inputs), call.operands.experts, weights, biases)
        grad = grads[0].contiguous()

        gate_grad, shift_grad, scale_grad = using.mix_sums(grad, y, activation, gates, call.dropout)
        statistics = through_statistics(activation, shift_grad, scale_grad, call.samples)
        using.mix_inner_(grad, y, activation, gates, *statistics, mask, call.dropout)
        down = list(y.split([len(part) for part in hidden[0]] if hidden else [block.experts for block in blocks(layers)]))
        del y
        weight_grads, bias_grads = products.backward_(layers, down, hidden)
        if hidden:
            down = hidden[0]
        wanted = ctx.needs_input_grad[3 : 3 + call.inputs]
        input_grads = [torch.empty_like(x, dtype=grad.dtype) if w else None for x, w in zip(inputs, wanted, strict=True)]
        weight_grads.insert(0, products.inputs_(layers, down, _each(input_grads)))
        if activation.scale is None:
            bias_grads.append(shift_grad)
        norm_grads = () if scale_grad is None else (scale_grad, shift_grad)
        return (None, None, gate_grad, *input_grads, *(g.to(grad.dtype) for g in weight_grads), *bias_grads, *norm_grads)


def _each(tensors: list[T]) -> list[T]:
    """One per input: all of them may be one tensor."""
    first = tensors[0]
    return list(first.unbind(0)) if first is not None and first.dim() == 3 else tensors
