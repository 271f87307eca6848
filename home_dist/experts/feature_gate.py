"""HoME's feature gate: each expert group reads features scaled to its needs (Wang et al. 2024)."""

import math
from typing import Literal

import torch
from torch import nn


class FeatureGate(nn.Module):
    """v * sum_l softmax(W v)_l FeaLoRA_l(v), with FeaLoRA(v) = 2 sigmoid(v B A), for each of G groups.

    B (F, d) and A (d, F) have rank d = F / L, rounded up and capped. A starts small, so that gates start near 1 and features
    are scaled, not shrunk. With sigmoid="outside" the weighted sum is taken first: 2 sigmoid(sum_l softmax(W v)_l (v B_l A_l)).
    """

    def __init__(self, groups: int, in_dim: int, gates: int, max_rank: int, sigmoid: Literal["inside", "outside"] = "inside"):
        super().__init__()
        self.groups, self.gates, self.sigmoid = groups, gates, sigmoid
        self.rank = min(math.ceil(in_dim / gates), max_rank)
        bound = 1 / math.sqrt(in_dim)
        self.down = nn.Parameter(torch.empty(groups, gates * self.rank, in_dim).uniform_(-bound, bound))
        self.up = nn.Parameter(torch.empty(groups * gates, self.rank, in_dim).normal_(0, 0.1 / math.sqrt(self.rank)))
        self.choice = nn.Parameter(torch.empty(groups, gates, in_dim).uniform_(-bound, bound))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (B, F), one input for all groups, or (G, B, F). Returns the gated inputs, (G, B, F)."""
        return x * self.scale(x)

    def scale(self, x: torch.Tensor) -> torch.Tensor:
        """The factors, (G, B, F)."""
        if x.dim() == 2:
            samples = x.shape[0]
            low = nn.functional.linear(x, self.down.flatten(0, 1)).view(samples, self.groups * self.gates, self.rank)
            low = low.transpose(0, 1)
            share = nn.functional.linear(x, self.choice.flatten(0, 1)).view(samples, self.groups, self.gates)
            share = share.softmax(-1).transpose(0, 1)
        else:
            samples = x.shape[1]
            low = torch.bmm(x, self.down.transpose(1, 2)).view(self.groups, samples, self.gates, self.rank)
            low = low.transpose(1, 2).flatten(0, 1)
            share = torch.bmm(x, self.choice.transpose(1, 2)).softmax(-1)
        wide = torch.bmm(low, self.up).view(self.groups, self.gates, samples, -1)
        share = share.permute(0, 2, 1).unsqueeze(-1)  # (G, L, B, 1)
        if self.sigmoid == "inside":
            return 2 * (share * torch.sigmoid(wide)).sum(1)
        return 2 * torch.sigmoid((share * wide).sum(1))
