"""A multi-task model of one's own: its section, its equation, its wiring.

y_k = h_k( sum_e g_k(v)_e f_e(v) + R v ), g_k(v) = softmax(W_k v): MMoE (Ma et al. 2018) with a linear path R around its
experts, which all tasks share. R begins at zero, so that training begins as MMoE's does.
"""

import torch
from torch import nn

from home_dist import ExpertBank, MaskedGates, MultiTaskModel, TaskGroups
from home_dist.config.model import ModelOfBanks
from home_dist.config.section import Count
from home_dist.models.anatomy import SHARED, Anatomy, part


class ResidualMmoeSection(ModelOfBanks):
    """What stands in `[model]` beside the keys that all models have."""

    experts: Count = 8


class ResidualMmoe(MultiTaskModel):
    section = ResidualMmoeSection

    def __init__(self, config: ResidualMmoeSection, in_dim: int, tasks: TaskGroups):
        super().__init__()
        self.out_dim = config.expert_dim
        widths = in_dim, config.expert_hidden, config.expert_dim
        self.bank = ExpertBank([config.experts], *widths, config.expert_norm, config.dropout)
        self.gates = MaskedGates(in_dim, torch.ones(tasks.tasks, config.experts, dtype=torch.bool))
        self.around = nn.Linear(in_dim, config.expert_dim, bias=False)
        nn.init.zeros_(self.around.weight)

    def forward(self, v: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """v: (B, F); mask: (B,). Returns (K, B, D)."""
        return self.bank.mixed([v], self.gates(v), mask) + self.around(v)

    def anatomy(self, tasks: TaskGroups) -> Anatomy:
        """Names the experts and gates for findings and reports."""
        return Anatomy((part("", self.bank, [(SHARED, self.bank.total)], tasks.gates(), self.gates),))
