"""L2-Constrained: one trunk per task, and a penalty that holds their weights together (Duong et al. 2015).

Added to the loss: alpha * sum over pairs i < j of || theta_i - theta_j ||^2, where theta_k are parameters of task k's trunk.
Duong et al. tie two tasks, and only layers that mean the same in both. Here all layers do, as all tasks read one feature
vector. Every pair of tasks counts the same, whatever the task groups.
"""

import torch
from pydantic import Field

from home_dist.config.model import ModelOfBanks
from home_dist.models.anatomy import Anatomy
from home_dist.models.base import MultiTaskModel, bank_of, trunk_anatomy
from home_dist.models.tasks import TaskGroups


class L2ConstrainedSection(ModelOfBanks):
    """One trunk per task, with a penalty on the distances between the trunks' weights (Duong et al. 2015)."""

    kind: str = "l2_constrained"
    alpha: float = Field(default=1e-4, ge=0)
    """Factor of the penalty."""


class L2Constrained(MultiTaskModel):
    section = L2ConstrainedSection

    def __init__(self, config: L2ConstrainedSection, in_dim: int, tasks: TaskGroups):
        super().__init__()
        self.out_dim, self.alpha = config.expert_dim, config.alpha
        self.trunks = bank_of(config, [tasks.tasks], in_dim)

    def forward(self, v: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """v: (B, F); mask: (B,). Returns (K, B, D)."""
        return self.trunks([v], mask)

    def anatomy(self, tasks: TaskGroups) -> Anatomy:
        return trunk_anatomy([self.trunks], tasks)

    def auxiliary(self) -> dict[str, torch.Tensor]:
        # The K (K - 1) / 2 pairs' squared distances add up to K times the squared distances from the mean.
        spread = [(p - p.mean(0)).square().sum() * len(p) for p in self.trunks.parameters()]
        return {"l2_constraint": self.alpha * torch.stack(spread).sum()}
