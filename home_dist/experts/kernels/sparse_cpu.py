"""The bank of chosen experts on a CPU: pairs (sample, expert) by expert, ragged products, and passes over pairs.

Memory is by pairs: the hidden activations and the last products (P, width), which the backward overwrites with their gradients,
and the parts of the input's gradient. The C++ library computes all layers of an expert's pairs in one call, with the BLAS of
torch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from home_dist.experts.kernels.cpu_bank import NO_DROPOUT
from home_dist.experts.kernels.cpu_library import accumulator_dtype, call, check_dtypes, gemm, pointers, sizes
from home_dist.experts.kernels.dropout import Dropout
from home_dist.experts.kernels.fused import Activation, Arguments, activation_of, save, saved, statistics_grad
from home_dist.experts.kernels.once import once_differentiable
from home_dist.experts.kernels.operands import Operands, Precision
from home_dist.layers.global_norm import Moments


def mixed(
    operands: Operands,
    x: torch.Tensor,
    chosen: torch.Tensor,
    gates: torch.Tensor,
    mask: torch.Tensor | None,
    precision: Precision,
    dropout: Dropout | None = None,
) -> torch.Tensor:
    """x: (B, F); chosen: (K, B, M), experts; gates: (K, B, M), their weights; mask: (B,). Returns (K, B, D). Raises ValueError
    for an expert that is not there."""
    check_dtypes(gates, *operands.weights, inputs=[x], bf16=precision == "bf16")
    arguments, tensors = Arguments.of(operands, [x], mask, precision, dropout)
    return _CpuChosen.apply(arguments, Pairs.of(chosen, sum(operands.experts)), gates, *tensors)


@dataclass(frozen=True)
class Pairs:
    """P pairs of a sample and an expert that it chose, in the order of experts, then of samples."""

    offsets: torch.Tensor
    """(E + 1,), where each expert's pairs begin."""
    samples: torch.Tensor
    """(P,), each pair's sample."""
    starts: torch.Tensor
    """(B + 1,), where each sample's pairs begin in `pairs`."""
    pairs: torch.Tensor
    """(P,), pairs by sample."""
    places: torch.Tensor
    """(B, K, M) int32: a choice's pair, counted within its sample."""

    @staticmethod
    def of(chosen: torch.Tensor, experts: int) -> "Pairs":
        """chosen: (K, B, M). Raises ValueError for an expert that is not there."""
        gates, samples, slots = chosen.shape
        offsets, starts = chosen.new_empty(experts + 1), chosen.new_empty(samples + 1)
        pairs, of_pairs = chosen.new_empty(chosen.numel()), chosen.new_empty(chosen.numel())
        places = chosen.new_empty(samples, gates, slots, dtype=torch.int32)
        found = offsets, starts, pairs, of_pairs, places
        call("choose", torch.float32, chosen.contiguous(), *found, gates, samples, slots, experts)
        count = int(starts[-1])
        if count < 0:
            raise ValueError(f"experts are numbered from 0 to {experts - 1}: chosen are {chosen.min()} to {chosen.max()}")
        return Pairs(offsets, of_pairs[:count].clone(), starts, pairs[:count].clone(), places)

    @property
    def count(self) -> int:
        return len(self.samples)


class _CpuChosen(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, arguments: Arguments, pairs: Pairs, gates: torch.Tensor, *tensors: torch.Tensor) -> torch.Tensor:
        (x,), weights, biases = arguments.split(tensors)
        gates = gates.contiguous()
        mask = None if arguments.mask is None else arguments.mask.to(gates.dtype).contiguous()
        ctx.input_dtype = x.dtype
        if arguments.precision == "bf16":
            x, weights = x.bfloat16(), [w.bfloat16() for w in weights]
        x, weights, biases = x.contiguous(), [w.contiguous() for w in weights], [b.contiguous() for b in biases]
        y, hidden = _layers(x, weights, biases, pairs, arguments.keep)
        activation, arguments.samples = activation_of(
            arguments.operands, arguments.last_bias(biases), lambda: _moments(y, mask, pairs, len(weights[0]))
        )
        out = _mix(y, activation, gates, pairs, arguments.dropout)
        if arguments.keep:
            ctx.arguments, ctx.pairs = arguments, pairs
            save(ctx, [gates, mask, *activation, x, *weights, *biases], y, [[h] for h in hidden])
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        arguments: Arguments = ctx.arguments
        pairs: Pairs = ctx.pairs
        (gates, mask, *rest), activations = saved(ctx)
        activation = Activation(*rest[:4])
        (x,), weights, biases = arguments.split(rest[4:])
        if activations is None:
            y, hidden = _layers(x, weights, biases, pairs, keep=True)
        else:
            y, hidden = activations[0], [h for [h] in activations[1]]
        del activations
        grad = grads[0].contiguous()
        gate_grad, inner = _mix_backward(grad, y, activation, gates, pairs, arguments.dropout)
        shift_grad, scale_grad = _sums(inner, y, activation, pairs)
        away, along = statistics_grad(arguments, activation, shift_grad, scale_grad)
        _inner_(inner, y, activation, away, along, mask, pairs)
        del inner
        x_grad, weight_grads, bias_grads = _layers_backward(x, y, weights, hidden, pairs, ctx.needs_input_grad[3])
        x_grad = None if x_grad is None else x_grad.to(ctx.input_dtype)
        if activation.scale is None:
            bias_grads.append(shift_grad)
        norm_grads = () if scale_grad is None else (scale_grad, shift_grad)
        return (None, None, gate_grad, x_grad, *weight_grads, *bias_grads, *norm_grads)


def _layers(
    x: torch.Tensor, weights: Sequence[torch.Tensor], biases: Sequence[torch.Tensor], pairs: Pairs, keep: bool
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Returns y (P, D), the last layer's output without bias, and the hidden activations (P, H) by layer, if kept."""
    widths = [x.shape[1], *(w.shape[1] for w in weights)]
    y = x.new_empty(pairs.count, widths[-1])
    hidden = [x.new_empty(pairs.count, width) for width in widths[1:-1]] if keep else []
    kept = pointers(hidden) if keep else None
    shape = sizes(widths), len(weights), len(weights[0])
    own = gemm(x.dtype), x, pointers(weights), pointers(biases), kept, y, pairs.offsets, pairs.samples
    call("sparse_bank", x.dtype, *own, *shape)
    return y, hidden


def _layers_backward(
    x: torch.Tensor,
    y: torch.Tensor,
    weights: Sequence[torch.Tensor],
    hidden: Sequence[torch.Tensor],
    pairs: Pairs,
    wants_x: bool,
) -> tuple[torch.Tensor | None, list[torch.Tensor], list[torch.Tensor]]:
    """y: (P, D), its gradient. Overwrites the hidden activations. Returns the gradients of x, of weights and of the biases of
    all layers but the last."""
    widths = [x.shape[1], *(w.shape[1] for w in weights)]
    dtype = accumulator_dtype(x.dtype)
    weight_grads = [torch.empty_like(w, dtype=dtype) for w in weights]
    bias_grads = [x.new_empty(w.shape[:2], dtype=dtype) for w in weights[:-1]]
    parts = x.new_empty(pairs.count, widths[0]) if wants_x else None
    results = pointers(weight_grads), pointers(bias_grads), parts
    shape = sizes(widths), len(weights), len(weights[0])
    own = gemm(x.dtype), x, y, pointers(weights), pointers(hidden), *results, pairs.offsets, pairs.samples
    call("sparse_bank_backward", x.dtype, *own, *shape)
    return None if parts is None else _summed(parts, x, pairs), weight_grads, bias_grads


def _summed(parts: torch.Tensor, x: torch.Tensor, pairs: Pairs) -> torch.Tensor:
    """The gradient of x (B, F), the sum of its pairs' parts (P, F)."""
    out = torch.empty_like(x, dtype=accumulator_dtype(x.dtype))
    call("sum_pairs", parts.dtype, parts, out, pairs.starts, pairs.pairs, *x.shape)
    return out


def _moments(y: torch.Tensor, mask: torch.Tensor | None, pairs: Pairs, experts: int) -> Moments:
    """Each expert's mean and sum of squares around it (E, D), and its number of samples (E, 1)."""
    dtype = accumulator_dtype(y.dtype)
    mean, squares = (y.new_empty(experts, y.shape[1], dtype=dtype) for _ in range(2))
    count = y.new_empty(experts, 1, dtype=dtype)
    call("pairs_moments", y.dtype, y, mask, mean, squares, count, pairs.offsets, pairs.samples, experts, y.shape[1])
    return mean, squares, count


def _shape(gates: torch.Tensor, y: torch.Tensor, pairs: Pairs) -> tuple[int, ...]:
    count, samples, slots = gates.shape
    return count, slots, len(pairs.offsets) - 1, samples, y.shape[1]


def _mix(y: torch.Tensor, activation: Activation, gates: torch.Tensor, pairs: Pairs, dropout: Dropout | None) -> torch.Tensor:
    """Activates y (P, D), drops outputs and mixes them with gates (K, B, M). Returns (K, B, D)."""
    out = gates.new_empty(*gates.shape[:2], y.shape[1])
    of_samples = pairs.offsets, pairs.starts, pairs.pairs, pairs.places
    pointwise = y, activation.scale, activation.shift
    call("mix_pairs", y.dtype, *pointwise, gates, out, *of_samples, *(dropout or NO_DROPOUT), *_shape(gates, y, pairs))
    return out


def _mix_backward(
    grad: torch.Tensor, y: torch.Tensor, activation: Activation, gates: torch.Tensor, pairs: Pairs, dropout: Dropout | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """grad: (K, B, D). Returns the gradients of gates (K, B, M) and of the activation's argument (P, D)."""
    gate_grad, inner = torch.empty_like(gates), torch.empty_like(y, dtype=gates.dtype)
    of_samples = pairs.offsets, pairs.starts, pairs.pairs, pairs.places
    pointwise = y, activation.scale, activation.shift
    results = gates, gate_grad, inner
    shape = _shape(gates, y, pairs)
    call("mix_pairs_backward", y.dtype, grad, *pointwise, *results, *of_samples, *(dropout or NO_DROPOUT), *shape)
    return gate_grad, inner


def _sums(
    inner: torch.Tensor, y: torch.Tensor, activation: Activation, pairs: Pairs
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Gradients (E, D) of the activation's shift, and of its scale before `rstd`, if it has one."""
    shift_grad = torch.empty_like(activation.shift)
    scale_grad = None if activation.scale is None else torch.empty_like(shift_grad)
    own = inner, y, activation.mean, activation.rstd, shift_grad, scale_grad
    call("pairs_sums", y.dtype, *own, pairs.offsets, len(shift_grad), y.shape[1])
    return shift_grad, scale_grad


def _inner_(
    inner: torch.Tensor,
    y: torch.Tensor,
    activation: Activation,
    away: torch.Tensor | None,
    along: torch.Tensor | None,
    mask: torch.Tensor | None,
    pairs: Pairs,
) -> None:
    """Overwrites y with its gradient. away, along: see `statistics_grad`; mask: (B,), the samples in the statistics."""
    own = inner, y, activation.scale, activation.mean, activation.rstd, away, along, mask
    call("pairs_inner", y.dtype, *own, pairs.offsets, pairs.samples, len(activation.shift), y.shape[1])
