"""The expert bank on a GPU: grouped products and the mixture's passes, as many launches for any number of experts.

The forward keeps the hidden activations and the experts' outputs before their activation. The backward overwrites them with
their gradients: the operator is an autograd function and no custom op, see kernels/__init__.py. Import it only if Triton is
installed.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from home_dist.experts.kernels.choice import WIDTH_MULTIPLE
from home_dist.experts.kernels.dropout import Dropout
from home_dist.experts.kernels.fused import Activation, Arguments, Hidden, activation_of, save, saved, statistics_grad
from home_dist.experts.kernels.mixture_tiles import Sees
from home_dist.experts.kernels.once import once_differentiable
from home_dist.experts.kernels.operands import Operands, Precision
from home_dist.experts.kernels.triton_mixture import mix, mix_inner_, mix_sums
from home_dist.experts.kernels.triton_products import (
    BIAS_RELU,
    MOMENTS,
    NONE,
    RELU_BACKWARD,
    TileSums,
    indices_of,
    joined_moments,
    padded,
    product,
)


def mixed(
    operands: Operands,
    inputs: Sequence[torch.Tensor],
    gates: torch.Tensor,
    mask: torch.Tensor | None,
    precision: Precision,
    dropout: Dropout | None = None,
    sees: Sees | None = None,
) -> torch.Tensor:
    """inputs: (B, F) each; gates: (K, B, E); mask: (B,); sees: where gates may differ from 0, by default everywhere. Returns
    (K, B, D)."""
    dtypes = {t.dtype for t in (*inputs, gates, *operands.weights)}
    if dtypes != {torch.float32}:
        raise TypeError(f"the triton kernel takes fp32 throughout, got {', '.join(sorted(map(str, dtypes)))}")
    unfit = [w.shape[1] for w in operands.weights if w.shape[1] % WIDTH_MULTIPLE]
    if unfit:
        raise ValueError(f"the triton kernel takes widths that are multiples of {WIDTH_MULTIPLE}, got {unfit}; see select()")
    # Several inputs become one tensor, for one launch.
    together = padded(inputs[0].unsqueeze(0) if len(inputs) == 1 else torch.stack(list(inputs)))
    operands = replace(operands, weights=[padded(operands.weights[0]), *operands.weights[1:]])
    arguments, tensors = Arguments.of(operands, [together], mask, precision, dropout)
    return _TritonMixed.apply(arguments, sees, gates, *tensors)


class _TritonMixed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, arguments: Arguments, sees: Sees | None, gates: torch.Tensor, *tensors: torch.Tensor) -> torch.Tensor:
        (inputs,), weights, biases = arguments.split(tensors)
        inputs, weights = inputs.contiguous(), [w.contiguous() for w in weights]
        mask = None if arguments.mask is None else arguments.mask.to(torch.float32).contiguous()
        y, hidden, moments = _layers(arguments, inputs, weights, biases, mask)
        activation, arguments.samples = activation_of(
            arguments.operands, arguments.last_bias(biases), lambda: joined_moments(moments, y.shape[1], mask)
        )
        out = mix(y, activation, gates, arguments.dropout, sees)
        if arguments.keep:
            ctx.arguments, ctx.sees = arguments, sees
            save(ctx, [gates, mask, *activation, inputs, *weights, *biases], y, hidden)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        arguments: Arguments = ctx.arguments
        (gates, mask, *rest), activations = saved(ctx)
        activation = Activation(*rest[:4])
        (inputs,), weights, biases = arguments.split(rest[4:])
        y, hidden = activations or _layers(arguments, inputs, weights, biases, mask)[:2]
        del activations
        indices, bf16 = indices_of(arguments.operands.experts, inputs.device), arguments.precision == "bf16"
        grad = grads[0].contiguous()

        of_batch, dropout, sees = arguments.samples is not None, arguments.dropout, ctx.sees
        # Without statistics of the batch, y's gradient needs no sums: one pass for all.
        gate_grad, shift_grad, scale_grad = mix_sums(grad, y, activation, gates, dropout, sees, in_place=not of_batch)
        if of_batch:
            away, along = statistics_grad(arguments, activation, shift_grad, scale_grad)
            mix_inner_(grad, y, activation, gates, away, along, mask, dropout, sees)
        layer_grad = y
        del y
        weight_grads: list[torch.Tensor] = []
        bias_grads: list[torch.Tensor] = []
        each = indices.each
        for depth in range(len(weights) - 1, 0, -1):
            [below] = hidden.pop()
            weight_grads.insert(0, product(layer_grad.transpose(1, 2), below, each, indices, NONE, bf16, full=True)[0])
            _, sums = product(layer_grad, weights[depth], each, indices, RELU_BACKWARD, bf16, below=below)
            bias_grads.insert(0, sums.values.sum(1))
            layer_grad = below
            del below
        transposed = layer_grad.transpose(1, 2)
        weight_grads.insert(0, product(transposed, inputs, each, indices, NONE, bf16, b_of=indices.input_of, full=True)[0])
        input_grad = None
        if ctx.needs_input_grad[3]:
            input_grad = product(layer_grad, weights[0], each, indices, NONE, bf16, starts=indices.of_inputs, full=True)[0]
        if activation.scale is None:
            bias_grads.append(shift_grad)
        norm_grads = () if scale_grad is None else (scale_grad, shift_grad)
        return (None, None, gate_grad, input_grad, *weight_grads, *bias_grads, *norm_grads)


def _layers(
    arguments: Arguments,
    inputs: torch.Tensor,
    weights: Sequence[torch.Tensor],
    biases: Sequence[torch.Tensor],
    mask: torch.Tensor | None,
) -> tuple[torch.Tensor, Hidden, TileSums]:
    """inputs: (n, B, F). Returns y, (E, B, D), the hidden activations, and the moments of y by tile of samples, if there is a
    normalisation."""
    indices, bf16 = indices_of(arguments.operands.experts, inputs.device), arguments.precision == "bf16"
    hidden: Hidden = []
    x, source = inputs, indices.input_of
    for weight, bias in zip(weights[:-1], biases, strict=False):
        x = product(x, weight.transpose(1, 2), source, indices, BIAS_RELU, bf16, bias=bias)[0]
        hidden.append([x])
        source = indices.each
    epilogue = MOMENTS if arguments.operands.norm is not None else NONE
    y, moments = product(x, weights[-1].transpose(1, 2), source, indices, epilogue, bf16, mask=mask)
    return y, hidden, moments
