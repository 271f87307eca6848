"""MMoE and OMoE (Ma et al. 2018, section 4): y_k = h_k( sum_e g_k(v)_e f_e(v) ), g_k(v) = softmax(W_k v).

MMoE has a gate per task, OMoE one for all tasks. Gates have no bias and no hidden layer, as in the paper.
"""

from typing import ClassVar

import torch

from home_dist.config.model import ModelOfExperts, ModelSection
from home_dist.config.section import Count
from home_dist.experts import MaskedGates
from home_dist.models.anatomy import SHARED, Anatomy, Gate, part
from home_dist.models.base import MultiTaskModel, bank_of
from home_dist.models.tasks import TaskGroups


class OmoeSection(ModelOfExperts):
    """One gate over experts, shared by all tasks (Ma et al. 2018)."""

    kind: str = "omoe"
    experts: Count = 8
    """Number of experts."""


class MmoeSection(ModelOfExperts):
    """One gate per task over shared experts (Ma et al. 2018)."""

    kind: str = "mmoe"
    experts: Count = 8
    """Number of experts, which all tasks share."""


class Mmoe(MultiTaskModel):
    section: ClassVar[type[ModelSection]] = MmoeSection
    gate_per_task: ClassVar[bool] = True

    def __init__(self, config: MmoeSection | OmoeSection, in_dim: int, tasks: TaskGroups):
        super().__init__()
        self.out_dim, self.tasks = config.expert_dim, tasks.tasks
        gates = tasks.tasks if self.gate_per_task else 1
        self.bank = bank_of(config, [config.experts], in_dim)
        self.gates = MaskedGates(in_dim, torch.ones(gates, config.experts, dtype=torch.bool), *config.gate_layers)

    def forward(self, v: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """v: (B, F); mask: (B,). Returns (K, B, D)."""
        return self.bank.mixed([v], self.gates(v), mask).expand(self.tasks, -1, -1)

    def anatomy(self, tasks: TaskGroups) -> Anatomy:
        gates = tasks.gates() if len(self.gates.mask) == tasks.tasks else [Gate("all tasks")]
        return Anatomy((part("", self.bank, [(SHARED, self.bank.total)], gates, self.gates),))


class Omoe(Mmoe):
    section = OmoeSection
    gate_per_task = False
