"""The definition, in plain batched torch operators. The number of operators does not depend on that of experts."""

from collections.abc import Sequence

import torch
from torch import nn

from home_dist.experts.gates import mixture
from home_dist.experts.kernels.operands import Operands, Precision
from home_dist.layers.global_norm import local_moments


def mixed(
    operands: Operands, inputs: Sequence[torch.Tensor], gates: torch.Tensor, mask: torch.Tensor | None, precision: Precision
) -> torch.Tensor:
    """inputs: (B, F) each; gates: (K, B, E); mask: (B,). Returns (K, B, D)."""
    return mixture(gates, outputs(operands, inputs, mask, precision))


def outputs(
    operands: Operands, inputs: Sequence[torch.Tensor], mask: torch.Tensor | None, precision: Precision
) -> torch.Tensor:
    """The experts' outputs, (E, B, D)."""
    x = _first(operands, inputs, precision)
    for depth in range(1, len(operands.weights)):
        weight, bias = operands.weights[depth].transpose(1, 2), _bias(operands, depth)
        x = torch.relu(x)
        if precision == "bf16":
            x = torch.bmm(x.bfloat16(), weight.bfloat16()).to(weight.dtype)
            x = x if bias is None else x + bias.unsqueeze(1)
        else:
            x = torch.bmm(x, weight) if bias is None else torch.baddbmm(bias.unsqueeze(1), x, weight)
    return torch.relu(x) if operands.norm is None else nn.functional.silu(_normalised(operands, x, mask))


def _first(operands: Operands, inputs: Sequence[torch.Tensor], precision: Precision) -> torch.Tensor:
    """The first layer: the experts of one input are one matrix product. Returns (E, B, H)."""
    weights, biases = operands.weights[0], _bias(operands, 0)
    parts, at = [], 0
    for count, x in zip(operands.experts, inputs, strict=True):
        weight = weights[at : at + count].flatten(0, 1)
        bias = None if biases is None else biases[at : at + count].flatten()
        if precision == "bf16":
            wide = nn.functional.linear(x.bfloat16(), weight.bfloat16()).to(weight.dtype)
            wide = wide if bias is None else wide + bias
        else:
            wide = nn.functional.linear(x, weight, bias)
        parts.append(wide.view(x.shape[0], count, weights.shape[1]).transpose(0, 1))
        at += count
    return torch.cat(parts)


def _bias(operands: Operands, depth: int) -> torch.Tensor | None:
    return operands.biases[depth] if depth < len(operands.biases) else None


def _normalised(operands: Operands, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    norm = operands.norm
    if norm is None:
        return x
    statistics = norm.of_ranks(*local_moments(x, mask)) if norm.of_batch else norm.running()
    scale = torch.rsqrt(statistics.variance + norm.module.eps) * norm.weight
    shift = norm.bias - statistics.mean * scale
    return torch.addcmul(shift.unsqueeze(-2), x, scale.unsqueeze(-2))
