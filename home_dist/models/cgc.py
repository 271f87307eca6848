"""CGC, customised gate control (Tang et al. 2020, section 4.1): each task has own experts beside shared ones.

z_k = sum of g_k,e f_e over task k's and the shared experts, with gate g_k = softmax(W_k x_k) on task k's input x_k, in CGC v.

Experts: task 0, .., task K-1, shared. Gates: task 0, .., task K-1; in PLE, all layers but the last also have a shared gate,
which sees all experts.

Two parts of HoME (Wang et al. 2024) are optional: feature gates before each task's experts and before the shared experts; and
self gates, a residual path from a gate's own experts. HoME's normalisation is `expert_norm`; its mask would need task groups.
"""

import torch

from home_dist.config.model import ModelOfTaskExperts
from home_dist.config.section import Count
from home_dist.experts import FeatureGate, MaskedGates, SelfGates
from home_dist.models.anatomy import SHARED, Anatomy, Gate, Owner, Part, part
from home_dist.models.base import MultiTaskModel, bank_of
from home_dist.models.tasks import TaskGroups


class CustomisedSection(ModelOfTaskExperts):
    """Own experts per task beside shared ones (Tang et al. 2020), with optional parts of HoME."""

    shared_experts: Count = 2
    """Shared experts of each layer."""
    task_experts: Count = 1
    """Experts of each task and layer."""
    feature_gate: bool = False
    """HoME's feature gates: each task's experts, and the shared experts, read their own scaling of the input."""
    self_gate: bool = False
    """HoME's self gates: residual paths from a task's own experts to its state, and from shared experts to the shared state."""
    feature_gates: Count = 2
    """L, low-rank gates in a feature gate."""
    feature_gate_rank: Count = 32
    """Upper bound of a low-rank gate's rank, which is F / L rounded up."""


class CgcSection(CustomisedSection):
    """One layer of own and shared experts (Tang et al. 2020)."""

    kind: str = "cgc"


class CgcLayer(MultiTaskModel):
    """One layer of CGC or PLE."""

    def __init__(self, config: CustomisedSection, in_dim: int, tasks: TaskGroups, n: int = 0, last: bool = True):
        super().__init__()
        self.out_dim, self.shared_experts, self.task_experts = config.dim_of(n), config.shared_experts, config.task_experts
        counts = torch.tensor([config.task_experts] * tasks.tasks + [config.shared_experts])
        own = torch.eye(tasks.tasks + 1, dtype=torch.bool)
        sees = own.clone()
        sees[:, -1], sees[-1, :] = True, True
        sees, own = (m.repeat_interleave(counts, 1)[: -1 if last else None] for m in (sees, own))
        self.gates = MaskedGates(in_dim, sees, *config.gate_layers)
        self.self_gates = SelfGates(in_dim, own, *config.gate_layers) if config.self_gate else None
        self.feature_gate = None
        if config.feature_gate:
            self.feature_gate = FeatureGate(tasks.tasks + 1, in_dim, config.feature_gates, config.feature_gate_rank)
        # In the first layer all experts read v, as one matrix product, unless feature gates scale v for each owner.
        self.bank = bank_of(
            config, counts.tolist() if n or config.feature_gate else [int(counts.sum())], in_dim, n, self._owners(tasks)
        )

    def forward(self, states: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """states: v (B, F) in the first layer, later the tasks' and the shared state, (K + 1, B, D); mask: (B,).

        Returns the next states, (K + 1, B, D); the last layer returns only the tasks' states, (K, B, D).
        """
        weights = self.gates.joined(self.self_gates, states if states.dim() == 2 else states[: len(self.gates.mask)])
        sees = self.gates.seen(self.self_gates)
        if self.feature_gate is not None:
            return self.bank.mixed(self.feature_gate(states), weights, mask, sees=sees)
        return self.bank.mixed([states] if states.dim() == 2 else states.unbind(0), weights, mask, sees=sees)

    def _owners(self, tasks: TaskGroups) -> list[tuple[Owner, int]]:
        return [*tasks.owners(self.task_experts), (SHARED, self.shared_experts)]

    def part(self, layer: str, tasks: TaskGroups, first: bool) -> Part:
        gates = [*tasks.gates(), Gate("shared")][: len(self.gates.mask)]
        return part(
            layer, self.bank, self._owners(tasks), gates, self.gates, self.self_gates, self.feature_gate, reads_features=first
        )


class Cgc(CgcLayer):
    section = CgcSection

    def __init__(self, config: CgcSection, in_dim: int, tasks: TaskGroups):
        super().__init__(config, in_dim, tasks)

    def anatomy(self, tasks: TaskGroups) -> Anatomy:
        return Anatomy((self.part("", tasks, first=True),))
