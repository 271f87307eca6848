"""The definition of the expert bank's operator, in batched torch operators, as many for any number of experts."""

import itertools
from collections.abc import Sequence

import torch
from torch import nn

from home_dist.experts.kernels.dropout import Dropout
from home_dist.experts.kernels.operands import Operands, Precision
from home_dist.layers.global_norm import local_moments


def mixed(
    operands: Operands,
    inputs: Sequence[torch.Tensor],
    gates: torch.Tensor,
    mask: torch.Tensor | None,
    precision: Precision,
    dropout: Dropout | None = None,
) -> torch.Tensor:
    """inputs: (B, F) each; gates: (K, B, E); mask: (B,). Returns (K, B, D)."""
    out = outputs(operands, inputs, mask, precision)
    if dropout is not None:
        out = out * dropout.factors(out)
    return mixture(gates, out)


def mixture(weights: torch.Tensor, experts: torch.Tensor, through: torch.Tensor | None = None) -> torch.Tensor:
    """weights: (K, B, E); experts: (E, B, D). Returns (K, B, D): sum over e of weights[k, b, e] * experts[e, b]. through:
    (K, E), the gates that give gradients to experts, by default all."""
    if through is not None:
        passed = through.unsqueeze(1)
        return mixture(weights * passed, experts) + mixture(weights * ~passed, experts.detach())
    return torch.bmm(weights.permute(1, 0, 2), experts.transpose(0, 1)).transpose(0, 1)


def outputs(
    operands: Operands, inputs: Sequence[torch.Tensor], mask: torch.Tensor | None, precision: Precision, activate: bool = True
) -> torch.Tensor:
    """The experts' outputs, (E, B, D); without `activate` those of the last layer, before normalisation and activation."""
    x = _first(operands, inputs, precision)
    for depth in range(1, len(operands.weights)):
        weight, bias = operands.weights[depth].transpose(1, 2), operands.bias(depth)
        x = operands.activated(depth - 1, x, mask)
        if precision == "bf16":
            x = torch.bmm(x.bfloat16(), weight.bfloat16()).to(weight.dtype)
            x = x if bias is None else x + bias.unsqueeze(1)
        else:
            x = torch.bmm(x, weight) if bias is None else torch.baddbmm(bias.unsqueeze(1), x, weight)
    if not activate:
        return x
    return torch.relu(x) if operands.norm is None else nn.functional.silu(_normalised(operands, x, mask))


def _first(operands: Operands, inputs: Sequence[torch.Tensor], precision: Precision) -> torch.Tensor:
    """The first layer before its ReLU, (E, B, H).

    The experts of one input are one matrix product. Adjacent inputs with equally many experts are one batched product.
    """
    weights, biases = operands.weights[0], operands.bias(0)
    hidden, parts, first_expert, first_input = weights.shape[1], [], 0, 0
    for count, run in itertools.groupby(operands.experts):
        several = len(list(run))
        experts = slice(first_expert, first_expert + several * count)
        adjacent = inputs[first_input : first_input + several]
        x = torch.stack(list(adjacent)) if several > 1 else adjacent[0].unsqueeze(0)  # (n, B, F)
        weight = weights[experts].view(several, count * hidden, -1).transpose(1, 2)
        bias = None if biases is None else biases[experts].view(several, 1, -1)
        if precision == "bf16":
            wide = torch.bmm(x.bfloat16(), weight.bfloat16()).to(weight.dtype)
            wide = wide if bias is None else wide + bias
        else:
            wide = torch.bmm(x, weight) if bias is None else torch.baddbmm(bias, x, weight)
        parts.append(wide.view(several, x.shape[1], count, hidden).transpose(1, 2).reshape(several * count, x.shape[1], hidden))
        first_expert, first_input = experts.stop, first_input + several
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _normalised(operands: Operands, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    norm = operands.norm
    if norm is None:
        return x
    statistics = norm.of_batch(*local_moments(x, mask)) if norm.training else norm.running()
    scale, shift = norm.scale_and_shift(statistics)
    return torch.addcmul(shift.unsqueeze(-2), x, scale.unsqueeze(-2))
