"""HoME's feature gate: each expert group reads its own scaling of the features (Wang et al. 2024)."""

import math
from typing import Literal

import torch
from torch import nn

from home_dist.experts.kernels import KernelUser, cpu_feature_gate


class FeatureGate(KernelUser):
    """v * sum_l softmax(W v)_l FeaLoRA_l(v), with FeaLoRA(v) = 2 sigmoid(v B A), for each of G groups.

    B (F, d) and A (d, F) have rank d = F / L, rounded up, at most max_rank. A starts small, so that factors start near 1. With
    sigmoid="outside" the sigmoid follows the weighted sum: 2 sigmoid(sum_l softmax(W v)_l (v B_l A_l)).
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
        """x: (B, F), one input for all groups, or (G, B, F). Returns the gated inputs, (G, B, F), on a CPU in the kernel's
        precision."""
        if self.kernel.backend == "triton":
            from home_dist.experts.kernels import triton_feature_gate

            low, share = self._low(x)
            up = self.up.view(self.groups, self.gates, self.rank, -1)
            return triton_feature_gate.gated(x, low, up, share, self.sigmoid == "inside", self.kernel.precision)
        if self.kernel.backend == "cpu":
            return cpu_feature_gate.gated(x, self.down, self.up, self.choice, self.sigmoid == "inside", self.kernel.precision)
        return x * self.scale(x)

    def scale(self, x: torch.Tensor) -> torch.Tensor:
        """The factors, (G, B, F)."""
        low, share = self._low(x)
        wide = self._product(low.flatten(0, 1), self.up).unflatten(0, (self.groups, self.gates))
        share = share.unsqueeze(-1)
        if self.sigmoid == "inside":
            return 2 * (share * torch.sigmoid(wide)).sum(1)
        return 2 * torch.sigmoid((share * wide).sum(1))

    def _low(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The low-rank gates' first product, (G, L, B, d), and their softmax weights, (G, L, B)."""
        samples = x.shape[-2]
        if x.dim() == 2:
            low = self._product(x, self.down.flatten(0, 1).t()).view(samples, self.groups, self.gates, self.rank)
            share = nn.functional.linear(x, self.choice.flatten(0, 1)).view(samples, self.groups, self.gates)
            return low.permute(1, 2, 0, 3), share.softmax(-1).permute(1, 2, 0)
        low = self._product(x, self.down.transpose(1, 2)).view(self.groups, samples, self.gates, self.rank)
        share = torch.bmm(x, self.choice.transpose(1, 2)).softmax(-1)
        return low.transpose(1, 2), share.transpose(1, 2)

    def _product(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        if self.kernel.precision == "bf16":
            return torch.matmul(a.bfloat16(), b.bfloat16()).to(a.dtype)
        return torch.matmul(a, b)
