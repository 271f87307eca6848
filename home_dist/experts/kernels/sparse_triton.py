"""The bank of chosen experts on a GPU: ragged grouped products of the chosen pairs, forward and backward, as many launches for
any number of experts, and no question to the device how many pairs an expert has. Import it only if Triton is installed.

Between the products and the mixture, torch's operators normalise, activate and drop (P, D).
"""

from typing import Any

import torch
import triton
from torch import nn

from home_dist.experts.kernels.choice import WIDTH_MULTIPLE
from home_dist.experts.kernels.dropout import Dropout
from home_dist.experts.kernels.once import once_differentiable
from home_dist.experts.kernels.operands import Operands, Precision
from home_dist.experts.kernels.triton_pairs import (
    DevicePairs,
    block_of,
    gate_grad_kernel,
    mix_kernel,
    product,
    sum_runs_kernel,
    sum_samples_kernel,
    weight_grad,
)
from home_dist.experts.kernels.triton_products import BIAS_RELU, NONE, RELU_BACKWARD, padded
from home_dist.layers.global_norm import Moments


def mixed(
    operands: Operands,
    x: torch.Tensor,
    chosen: torch.Tensor,
    gates: torch.Tensor,
    mask: torch.Tensor | None,
    precision: Precision,
    dropout: Dropout | None = None,
    per_sample: int | None = None,
) -> torch.Tensor:
    """x: (B, F); chosen: (K, B, M), experts; gates: (K, B, M), their weights; mask: (B,); per_sample: distinct experts of a
    sample, at most. Returns (K, B, D)."""
    dtypes = {t.dtype for t in (x, gates, *operands.weights)}
    if dtypes != {torch.float32}:
        raise TypeError(f"the triton kernel takes fp32 throughout, got {', '.join(sorted(map(str, dtypes)))}")
    unfit = [w.shape[1] for w in operands.weights if w.shape[1] % WIDTH_MULTIPLE]
    if unfit:
        raise ValueError(f"the triton kernel takes widths that are multiples of {WIDTH_MULTIPLE}, got {unfit}; see select()")
    pairs = DevicePairs.of(chosen, sum(operands.experts), per_sample)
    weights = [padded(operands.weights[0]), *operands.weights[1:]]
    hidden_biases = operands.biases[: len(weights) - 1]
    y = _Layers.apply(pairs, precision == "bf16", padded(x), *weights, *hidden_biases)
    out = _activated(operands, y, pairs, mask)
    if dropout is not None:
        out = out * _factors(dropout, pairs, len(x), out)
    return _Mix.apply(out, gates, pairs)


def _activated(operands: Operands, y: torch.Tensor, pairs: DevicePairs, mask: torch.Tensor | None) -> torch.Tensor:
    """y (P, D) -> the outputs of pairs."""
    expert = pairs.experts.clamp(max=sum(operands.experts) - 1)
    norm = operands.norm
    if norm is None:
        return torch.relu(y + operands.biases[-1].index_select(0, expert))
    statistics = norm.of_batch(*_moments(y, pairs, expert, mask)) if norm.training else norm.running()
    scale, shift = norm.scale_and_shift(statistics)
    return nn.functional.silu(torch.addcmul(shift.index_select(0, expert), y, scale.index_select(0, expert)))


def _moments(y: torch.Tensor, pairs: DevicePairs, expert: torch.Tensor, mask: torch.Tensor | None) -> Moments:
    """Each expert's mean and sum of squares around it (E, D), and its number of samples (E, 1)."""
    weight = (pairs.experts == expert).to(y.dtype)
    if mask is not None:
        weight = weight * mask.to(y.dtype).index_select(0, pairs.samples)
    weight = weight.unsqueeze(1)

    def sums(values: torch.Tensor) -> torch.Tensor:
        return torch.segment_reduce(values, "sum", offsets=pairs.offsets.long(), axis=0, initial=0, unsafe=True)[:-1]

    count = sums(weight)
    mean = sums(y * weight) / count.clamp(min=1)
    off = (y - mean.index_select(0, expert)) * weight
    return mean, sums(off.square()), count


def _factors(dropout: Dropout, pairs: DevicePairs, samples: int, out: torch.Tensor) -> torch.Tensor:
    """Of pairs' outputs, as those of all experts (E, B, D) would have them."""
    first = (pairs.experts.long() * samples + pairs.samples.long()) * out.shape[1]
    positions = first.unsqueeze(1) + torch.arange(out.shape[1], device=out.device)
    return dropout.kept(positions).to(out.dtype) * dropout.factor


class _Layers(torch.autograd.Function):
    """The linear layers: x (B, F) -> (P, D), the last one's output without bias."""

    @staticmethod
    def forward(ctx: Any, pairs: DevicePairs, bf16: bool, x: torch.Tensor, *tensors: torch.Tensor) -> torch.Tensor:
        layers = (len(tensors) + 1) // 2
        x, weights = x.contiguous(), [w.contiguous() for w in tensors[:layers]]
        below, hidden = x, []
        for depth, (weight, bias) in enumerate(zip(weights[:-1], tensors[layers:], strict=True)):
            below = product(below, weight, pairs, BIAS_RELU, bf16, gathered=not depth, bias=bias.contiguous())
            hidden.append(below)
        y = product(below, weights[-1], pairs, NONE, bf16, gathered=layers == 1)
        ctx.pairs, ctx.bf16, ctx.layers = pairs, bf16, layers
        ctx.save_for_backward(x, *weights, *hidden)
        return y.float()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        pairs, bf16, layers = ctx.pairs, ctx.bf16, ctx.layers
        x, *rest = ctx.saved_tensors
        weights, hidden = rest[:layers], rest[layers:]
        experts, down = len(weights[0]), grads[0].contiguous()
        weight_grads: list[torch.Tensor] = []
        bias_grads: list[torch.Tensor] = []
        for depth in range(layers - 1, -1, -1):
            below, has_bias = hidden[depth - 1] if depth else x, depth < layers - 1
            grad, sums = weight_grad(down, below, experts, pairs, bf16, gathered=not depth, sums=has_bias)
            weight_grads.insert(0, grad)
            if has_bias:
                bias_grads.insert(0, sums)
            if depth:
                down = product(down, weights[depth], pairs, RELU_BACKWARD, bf16, transposed=False, out=below.clone())
        x_grad = None
        if ctx.needs_input_grad[2]:
            parts = product(down, weights[0], pairs, NONE, bf16, transposed=False, full=True)
            x_grad, (tasks, samples, slots) = torch.empty_like(x), pairs.pair_of.shape
            block = block_of(x.shape[1])
            sum_samples_kernel[(samples, triton.cdiv(x.shape[1], block))](
                parts, pairs.pair_of, pairs.is_first, x_grad, slots, samples, tasks, x.shape[1], BD=block
            )
        return (None, None, x_grad, *weight_grads, *bias_grads)


class _Mix(torch.autograd.Function):
    """Outputs of pairs (P, D) and gates (K, B, M) -> (K, B, D)."""

    @staticmethod
    def forward(ctx: Any, y: torch.Tensor, gates: torch.Tensor, pairs: DevicePairs) -> torch.Tensor:
        y, gates = y.contiguous(), gates.contiguous()
        tasks, samples, slots = gates.shape
        out, block = y.new_empty(tasks, samples, y.shape[1]), block_of(y.shape[1])
        grid = (tasks * samples, triton.cdiv(y.shape[1], block))
        mix_kernel[grid](y, gates, pairs.pair_of, out, slots, y.shape[1], BD=block)
        ctx.pairs = pairs
        ctx.save_for_backward(y, gates)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        pairs: DevicePairs = ctx.pairs
        y, gates = ctx.saved_tensors
        grad, width, slots = grads[0].contiguous(), y.shape[1], gates.shape[2]
        gate_grad, y_grad, block = torch.empty_like(gates), torch.empty_like(y), block_of(width)
        gate_grad_kernel[(gates.numel(),)](grad, y, pairs.pair_of, gate_grad, slots, width, BD=triton.next_power_of_2(width))
        grid = (len(y), triton.cdiv(width, block))
        sum_runs_kernel[grid](grad, gates, pairs.order, pairs.starts, y_grad, slots, width, BD=block)
        return y_grad, gate_grad, None
