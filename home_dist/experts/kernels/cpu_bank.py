"""The expert bank on a CPU: matrix products, and passes that read each tensor once.

The forward keeps the hidden activations and the experts' outputs before their activation. It never holds all activated outputs:
a pass activates and mixes a few samples at a time. The backward computes everything pointwise again, and overwrites the kept
activations with their gradients: beside the gradients that it returns it allocates almost nothing. For this overwriting, the
operator is an autograd function and no custom op: see kernels/__init__.py.
"""

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch

from home_dist.experts.kernels import cpu_products, torch_products
from home_dist.experts.kernels.cpu_library import accumulator_dtype, call, check_dtypes, multiplies_bf16
from home_dist.experts.kernels.cpu_products import Layers
from home_dist.experts.kernels.dropout import Dropout
from home_dist.experts.kernels.fused import Activation, Arguments, activation_of, save, saved, statistics_grad
from home_dist.experts.kernels.once import once_differentiable
from home_dist.experts.kernels.operands import Operands, Precision
from home_dist.layers.global_norm import Moments

NO_DROPOUT = Dropout(0, 0, 0, 1.0)


def mixed(
    operands: Operands,
    inputs: Sequence[torch.Tensor] | torch.Tensor,
    gates: torch.Tensor,
    mask: torch.Tensor | None,
    precision: Precision,
    dropout: Dropout | None = None,
) -> torch.Tensor:
    """inputs: (B, F) each, or all as one tensor, also of bf16 if that is the precision; gates: (K, B, E); mask: (B,). Returns
    (K, B, D)."""
    inputs = [inputs] if isinstance(inputs, torch.Tensor) else inputs
    check_dtypes(gates, *operands.weights, inputs=inputs, bf16=precision == "bf16")
    arguments, tensors = Arguments.of(operands, inputs, mask, precision, dropout)
    return _CpuMixed.apply(arguments, gates, *tensors)


class _CpuMixed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, arguments: Arguments, gates: torch.Tensor, *tensors: torch.Tensor) -> torch.Tensor:
        inputs, weights, biases = arguments.split(tensors)
        gates = gates if gates.stride(2) == 1 else gates.contiguous()
        mask = None if arguments.mask is None else arguments.mask.to(gates.dtype).contiguous()
        ctx.input_dtype = inputs[0].dtype
        if arguments.precision == "bf16":
            inputs, weights = [x.bfloat16() for x in inputs], [w.bfloat16() for w in weights]
        inputs, weights, biases = ([t.contiguous() for t in tensors] for tensors in (inputs, weights, biases))
        layers = Layers(inputs, arguments.operands.experts, weights, biases)
        norm = arguments.operands.norm
        y, hidden, moments = _products(layers).forward(layers, arguments.keep, norm is not None and norm.training, mask)

        def local_moments() -> Moments:
            if moments is None:
                raise RuntimeError("moments of a batch that were not computed")
            return *moments, gates.new_tensor(float(layers.samples)) if mask is None else mask.sum()

        activation, arguments.samples = activation_of(arguments.operands, arguments.last_bias(biases), local_moments)
        out = mix(y, activation, gates, arguments.dropout)
        if arguments.keep:
            ctx.arguments = arguments
            save(ctx, [gates, mask, *activation, *inputs, *weights, *biases], y, hidden)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        arguments: Arguments = ctx.arguments
        (gates, mask, *rest), activations = saved(ctx)
        activation = Activation(*rest[:4])
        inputs, weights, biases = arguments.split(rest[4:])
        layers = Layers(inputs, arguments.operands.experts, weights, biases)
        products = _products(layers)
        y, hidden = activations or products.forward(layers, keep=True, moments=False, mask=None)[:2]
        del activations
        grad = grads[0].contiguous()

        gate_grad, shift_grad, scale_grad = _mix_sums(grad, y, activation, gates, arguments.dropout)
        away, along = statistics_grad(arguments, activation, shift_grad, scale_grad)
        _mix_inner_(grad, y, activation, gates, away, along, mask, arguments.dropout)
        weight_grads, bias_grads = products.backward_(layers, y, hidden)
        layer_grad = hidden[0] if hidden else [y]
        del y
        wanted = ctx.needs_input_grad[2 : 2 + arguments.inputs]
        input_grads = [torch.empty_like(x, dtype=ctx.input_dtype) if w else None for x, w in zip(inputs, wanted, strict=True)]
        weight_grads.insert(0, products.first_layer(layers, layer_grad, input_grads))
        if activation.scale is None:
            bias_grads.append(shift_grad)
        norm_grads = () if scale_grad is None else (scale_grad, shift_grad)
        return (None, gate_grad, *input_grads, *weight_grads, *bias_grads, *norm_grads)


def _products(layers: Layers) -> ModuleType:
    return torch_products if layers.dtype == torch.bfloat16 and not multiplies_bf16() else cpu_products


def mix(y: torch.Tensor, activation: Activation, gates: torch.Tensor, dropout: Dropout | None) -> torch.Tensor:
    """Activates y (E, B, D), drops outputs and mixes them with gates (K, B, E). Returns (K, B, D)."""
    out = y.new_empty(len(gates), *y.shape[1:], dtype=accumulator_dtype(y.dtype))
    pointwise = (y, activation.scale, activation.shift)
    call("mix", y.dtype, *pointwise, *_strided(gates), out, *(dropout or NO_DROPOUT), len(gates), *y.shape)
    return out


def _mix_sums(
    grad: torch.Tensor, y: torch.Tensor, activation: Activation, gates: torch.Tensor, dropout: Dropout | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Returns the gradients of gates, (K, B, E), and of the activation's shift and scale, (E, D). grad: (K, B, D)."""
    experts, _, width = y.shape
    dtype = accumulator_dtype(y.dtype)
    gate_grad, shift_grad = y.new_empty(gates.shape, dtype=dtype), y.new_empty(experts, width, dtype=dtype)
    scale_grad = None if activation.scale is None else torch.empty_like(shift_grad)
    results = (gate_grad, shift_grad, scale_grad)
    dropping = dropout or NO_DROPOUT
    call("mix_sums", y.dtype, grad, y, *activation, *_strided(gates), *results, *dropping, len(gates), *y.shape)
    return results


def _mix_inner_(
    grad: torch.Tensor,
    y: torch.Tensor,
    activation: Activation,
    gates: torch.Tensor,
    away: torch.Tensor | None,
    along: torch.Tensor | None,
    mask: torch.Tensor | None,
    dropout: Dropout | None,
) -> None:
    """Overwrites y with its gradient. away, along: see `statistics_grad`; mask: (B,), the samples in the statistics."""
    statistics, dropping = (away, along, mask), dropout or NO_DROPOUT
    call("mix_inner", y.dtype, grad, y, *activation, *statistics, *_strided(gates), *dropping, len(gates), *y.shape)


def _strided(gates: torch.Tensor) -> tuple[torch.Tensor, int, int]:
    return gates, gates.stride(0), gates.stride(1)
