"""Single-task: K independent trunks on one feature vector, the baseline that sharing has to beat.

y_k = h_k(f_k(v)). All tasks share embeddings and sequence encoders. For own embeddings, train one run per task (`data.tasks`):
then tasks share nothing, and no run holds a table K times.
"""

import torch

from home_dist.config.model import ModelOfBanks
from home_dist.models.anatomy import Anatomy
from home_dist.models.base import MultiTaskModel, bank_of, trunk_anatomy
from home_dist.models.tasks import TaskGroups


class SingleTaskSection(ModelOfBanks):
    """One trunk and tower per task over shared embeddings. For own embeddings, see data.tasks."""

    kind: str = "single_task"


class SingleTask(MultiTaskModel):
    section = SingleTaskSection

    def __init__(self, config: SingleTaskSection, in_dim: int, tasks: TaskGroups):
        super().__init__()
        self.out_dim = config.expert_dim
        self.trunks = bank_of(config, [tasks.tasks], in_dim)

    def forward(self, v: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """v: (B, F); mask: (B,). Returns (K, B, D)."""
        return self.trunks([v], mask)

    def anatomy(self, tasks: TaskGroups) -> Anatomy:
        return trunk_anatomy([self.trunks], tasks)
