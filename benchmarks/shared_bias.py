"""HoME whose sparse tasks share a part of their logits, a trial of recipe.py.

z_k = h_k(s_k) + b(mean of s_j over the sparse tasks j) for sparse tasks k; z_k = h_k(s_k) for the others. s_k: the state of
task k; h_k: its tower; b: one more tower, which learns from the positives of all sparse tasks together. It begins at zero, so
that training begins as HoME's of the same seed does.
"""

import torch
from torch import nn

from home_dist.models.home import Home, HomeSection
from home_dist.models.tasks import TaskGroups


class SharedBiasSection(HomeSection):
    sparse: tuple[str, ...] = ("like", "follow", "comment", "forward", "profile_enter")
    """Tasks that share b."""

    def named_tasks(self) -> dict[str, tuple[str, ...]]:
        return super().named_tasks() | {"sparse": self.sparse}


class SharedBias(Home):
    section = SharedBiasSection
    shares: torch.Tensor
    common: torch.Tensor | None = None

    def __init__(self, config: SharedBiasSection, in_dim: int, tasks: TaskGroups):
        super().__init__(config, in_dim, tasks)
        shares = torch.tensor([float(name in config.sparse) for name in tasks.names])
        self.register_buffer("shares", shares, persistent=False)
        width = config.tower_hidden[0]
        with torch.random.fork_rng(devices=[]):  # the towers, which are made later, begin as HoME's
            self.shared = nn.Sequential(nn.Linear(self.out_dim, width), nn.ReLU(), nn.Linear(width, 1, bias=False))
        nn.init.zeros_(self.shared[-1].weight)

    def forward(self, v: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """v: (B, F); mask: (B,). Returns (K, B, D)."""
        states = super().forward(v, mask)
        self.common = self.shared(torch.einsum("k,kbd->bd", self.shares / self.shares.sum().clamp(min=1), states))
        return states

    def joint(self, logits: torch.Tensor) -> torch.Tensor:
        common, self.common = self.common, None  # copies of a model hold no gradients
        return logits + common * self.shares
