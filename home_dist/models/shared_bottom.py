"""Shared-Bottom (Caruana 1997): one trunk, K towers: y_k = h_k(f(v))."""

import torch

from home_dist.config.model import ModelOfBanks
from home_dist.models.anatomy import SHARED, Anatomy, part
from home_dist.models.base import MultiTaskModel, bank_of
from home_dist.models.tasks import TaskGroups


class SharedBottomSection(ModelOfBanks):
    """One trunk for all tasks (Caruana 1997)."""

    kind: str = "shared_bottom"


class SharedBottom(MultiTaskModel):
    section = SharedBottomSection

    def __init__(self, config: SharedBottomSection, in_dim: int, tasks: TaskGroups):
        super().__init__()
        self.out_dim, self.tasks = config.expert_dim, tasks.tasks
        self.trunk = bank_of(config, [1], in_dim)

    def forward(self, v: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """v: (B, F); mask: (B,). Returns (K, B, D)."""
        return self.trunk([v], mask).expand(self.tasks, -1, -1)

    def anatomy(self, tasks: TaskGroups) -> Anatomy:
        return Anatomy((part("", self.trunk, [(SHARED, 1)]),))
