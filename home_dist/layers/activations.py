"""Activations of attention units."""

import torch
from torch import nn

from home_dist.layers.global_norm import GlobalBatchNorm

_EPS = 1e-8
"""As in the paper. A larger one would distort the variance of small inputs, such as untrained embeddings."""


class Dice(nn.Module):
    """p(x) x + (1 - p(x)) a x with p = sigmoid(BatchNorm(x)), no affine part, `a` per unit from 0 (Zhou et al. 2018, eq. 3).

    x: (N, units), normalised over the events of the global batch.
    """

    def __init__(self, units: int):
        super().__init__()
        self.norm = GlobalBatchNorm((units,), affine=False, eps=_EPS)
        self.slope = nn.Parameter(torch.zeros(units))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        share = torch.sigmoid(self.norm(x))
        return x * (share + (1 - share) * self.slope)


def activation(kind: str, units: int) -> nn.Module:
    """One of "dice", "prelu", "swish", "relu", over (N, units)."""
    match kind:
        case "dice":
            return Dice(units)
        case "prelu":
            return nn.PReLU(units)
        case "swish":
            return nn.SiLU()
        case "relu":
            return nn.ReLU()
    raise ValueError(f"activation {kind!r} is not one of dice, prelu, swish, relu")
