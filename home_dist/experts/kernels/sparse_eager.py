"""The definition of the bank of chosen experts: all experts' outputs, of which a choice takes some.

Each expert's batch statistics are those of the samples that chose it. It is computed densely: memory and time grow with E. It
is what other backends are compared with, what exported programs hold, and what insight looks at.
"""

from dataclasses import replace

import torch
from torch import nn

from home_dist.experts.kernels.dropout import Dropout
from home_dist.experts.kernels.eager import outputs
from home_dist.experts.kernels.operands import Operands, Precision
from home_dist.layers.global_norm import local_moments


def mixed(
    operands: Operands,
    x: torch.Tensor,
    chosen: torch.Tensor,
    gates: torch.Tensor,
    mask: torch.Tensor | None,
    precision: Precision,
    dropout: Dropout | None = None,
) -> torch.Tensor:
    """x: (B, F); chosen: (K, B, M), experts; gates: (K, B, M), their weights; mask: (B,). Returns (K, B, D)."""
    experts = sum(operands.experts)
    out = chosen_outputs(operands, x, used(chosen, experts), mask, precision)
    if dropout is not None:
        out = out * dropout.factors(out)
    own = out[chosen, torch.arange(len(x), device=x.device).unsqueeze(1)]  # (K, B, M, D)
    return (gates.unsqueeze(-1) * own).sum(2)


def dense(gates: torch.Tensor, chosen: torch.Tensor, experts: int) -> torch.Tensor:
    """Weights of chosen experts (K, B, M) -> of all experts (K, B, E), 0 for those that were not chosen."""
    return gates.new_zeros(*gates.shape[:2], experts).scatter_add(2, chosen, gates)


def hits(chosen: torch.Tensor, experts: int) -> torch.Tensor:
    """(K, B, E), whether a task of a sample chose the expert."""
    return torch.zeros(*chosen.shape[:2], experts, dtype=torch.bool, device=chosen.device).scatter(2, chosen, True)


def used(chosen: torch.Tensor, experts: int) -> torch.Tensor:
    """(E, B), whether a sample uses the expert for any of its tasks."""
    return hits(chosen, experts).any(0).t()


def chosen_outputs(
    operands: Operands, x: torch.Tensor, use: torch.Tensor, mask: torch.Tensor | None, precision: Precision
) -> torch.Tensor:
    """Outputs of all experts (E, B, D), normalised by the samples that use the expert. use: (E, B)."""
    norm = operands.norm
    if norm is None:
        return outputs(operands, [x], mask, precision)
    y = outputs(replace(operands, norm=None), [x], mask, precision, activate=False)
    statistics = norm.running()
    if norm.training:
        counts = use.to(y.dtype) if mask is None else use.to(y.dtype) * mask.to(y.dtype)
        statistics = norm.of_batch(*local_moments(y.masked_fill(~use.unsqueeze(-1), 0), counts))
    scale, shift = norm.scale_and_shift(statistics)
    return nn.functional.silu(torch.addcmul(shift.unsqueeze(-2), y, scale.unsqueeze(-2)))
