"""HoME: hierarchy of multi-gate experts (Wang et al. 2024).

The paper's full text was not at hand; the equations come from its abstract and public accounts. Two open choices are
configuration: the input of the meta layer's gates (`gate_input`), and whether the feature gate's sigmoid stands inside or
outside of the sum over low-rank gates (`feature_gate_sigmoid`). By default gates have no bias and one layer, self gates too.

C groups, K tasks. Experts of the meta layer, in order: shared, group 0, .., group C-1. Gates: group 0, .., group C-1, shared.
Experts of the task layer: shared, groups, task 0, .., task K-1. Gates: tasks.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import nn

from home_dist.config.model import ModelOfLayers, ModelOfTaskExperts
from home_dist.config.section import Count
from home_dist.experts import FeatureGate, MaskedGates, SelfGates
from home_dist.models.anatomy import SHARED, Anatomy, Gate, Owner, Part, part
from home_dist.models.base import MultiTaskModel, bank_of
from home_dist.models.tasks import TaskGroups


class HomeSection(ModelOfTaskExperts, ModelOfLayers):
    """HoME (Wang et al. 2024). Each of its four parts can be switched off."""

    kind: str = "home"
    shared_experts: Count = 2
    """Experts that all tasks share, in each of the two layers."""
    group_experts: Count = 2
    """Experts of each task group, in each of the two layers."""
    task_experts: Count = 1
    """Experts of each task, in the task layer."""
    expert_norm: bool = True
    """Experts end in Swish(BatchNorm(.)); otherwise classic experts with ReLU."""
    hierarchy_mask: bool = True
    """Gates see shared and own experts only; otherwise all experts."""
    feature_gate: bool = True
    """Whether each expert group reads its own view of the features, scaled by low-rank gates."""
    self_gate: bool = True
    """Whether each gate adds a residual path from its own experts."""
    feature_gates: Count = 2
    """L, low-rank gates in a feature gate."""
    feature_gate_rank: Count = 32
    """Upper bound of a low-rank gate's rank, which is F / L rounded up."""
    feature_gate_sigmoid: Literal["inside", "outside"] = "inside"
    """Whether the sigmoid is applied to each low-rank gate or to their weighted sum."""
    gate_input: Literal["plain", "gated"] = "plain"
    """Whether the meta layer's gates read v or the feature-gated v of their group."""

    def depth(self) -> int:
        return 2  # meta and task


class _HomeLayer(nn.Module):
    """Expert groups behind feature gates, and gates with a residual path from their own experts."""

    def __init__(
        self,
        config: HomeSection,
        layer: int,
        experts: Sequence[int],
        in_dim: int,
        gate_dim: int,
        sees: torch.Tensor,
        own: torch.Tensor,
        owners: Sequence[Owner],
    ):
        """experts: number of experts per expert group; sees, own: (gates, groups), the groups that a gate sees and owns."""
        super().__init__()
        counts = torch.tensor(experts)
        sees, own = (m.repeat_interleave(counts, 1) for m in (sees, own))
        if not config.hierarchy_mask:
            sees = torch.ones_like(sees)
        self.feature_gate = None
        if config.feature_gate:
            rank = config.feature_gate_rank
            self.feature_gate = FeatureGate(len(experts), in_dim, config.feature_gates, rank, config.feature_gate_sigmoid)
        self.bank = bank_of(config, experts, in_dim, layer, list(zip(owners, experts, strict=True)))
        self.gates = MaskedGates(gate_dim, sees, *config.gate_layers)
        self.self_gates = SelfGates(gate_dim, own, *config.gate_layers) if config.self_gate else None

    def gated(self, x: torch.Tensor) -> torch.Tensor:
        """Scales x, (B, F) for all groups or (G, B, F), by the feature gate, if there is one. Returns (G, B, F)."""
        if self.feature_gate is not None:
            return self.feature_gate(x)
        return x.expand(len(self.bank.experts), *x.shape) if x.dim() == 2 else x

    def forward(self, gated: torch.Tensor, gate_input: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """gated: (G, B, F); gate_input: (B, F') or (gates, B, F'). Returns (gates, B, D)."""
        weights = self.gates.joined(self.self_gates, gate_input)
        return self.bank.mixed(gated, weights, mask, sees=self.gates.seen(self.self_gates))

    def part(self, name: str, owners: Sequence[Owner], gates: Sequence[Gate], reads_features: bool) -> Part:
        counted = list(zip(owners, self.bank.experts, strict=True))
        return part(name, self.bank, counted, gates, self.gates, self.self_gates, self.feature_gate, reads_features)


class Home(MultiTaskModel):
    """v (B, F) -> (K, B, D), one state per task."""

    section = HomeSection
    group_of: torch.Tensor

    def __init__(self, config: HomeSection, in_dim: int, tasks: TaskGroups):
        super().__init__()
        groups, count = tasks.groups, tasks.tasks
        self.register_buffer("group_of", torch.tensor(tasks.group_of), persistent=False)
        self.gate_reads_gated = config.gate_input == "gated"
        self.out_dim = config.last_dim

        own_group = torch.eye(groups, dtype=torch.bool)
        shared = torch.ones(groups, 1, dtype=torch.bool)
        sees_all = torch.ones(1, 1 + groups, dtype=torch.bool)
        only_shared = torch.zeros(1, 1 + groups, dtype=torch.bool)
        only_shared[0, 0] = True
        self.meta = _HomeLayer(
            config,
            0,
            experts=[config.shared_experts] + [config.group_experts] * groups,
            in_dim=in_dim,
            gate_dim=in_dim,
            sees=torch.cat([torch.cat([shared, own_group], 1), sees_all]),
            own=torch.cat([torch.cat([~shared, own_group], 1), only_shared]),
            owners=[SHARED, *tasks.group_owners()],
        )

        in_group = own_group[list(tasks.group_of)]
        own_task = torch.eye(count, dtype=torch.bool)
        shared = torch.ones(count, 1, dtype=torch.bool)
        self.task = _HomeLayer(
            config,
            1,
            experts=[config.shared_experts] + [config.group_experts] * groups + [config.task_experts] * count,
            in_dim=config.dim_of(0),
            gate_dim=2 * config.dim_of(0),
            sees=torch.cat([shared, in_group, own_task], 1),
            own=torch.cat([~shared, torch.zeros_like(in_group), own_task], 1),
            owners=[SHARED, *tasks.group_owners(), *(owner for owner, _ in tasks.owners())],
        )

    def forward(self, v: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """v: (B, F); mask: (B,), real samples. Returns (K, B, D)."""
        gated = self.meta.gated(v)  # (1 + C, B, F): shared, then groups
        gate_input = torch.cat([gated[1:], gated[:1]]).to(v.dtype) if self.gate_reads_gated else v
        states = self.meta(gated, gate_input, mask)
        groups, shared = states[:-1], states[-1:]

        group_states = groups.index_select(0, self.group_of)  # each task's
        gated = self.task.gated(torch.cat([shared, groups, group_states]))
        return self.task(gated, torch.cat([group_states, shared.expand_as(group_states)], 2), mask)

    def anatomy(self, tasks: TaskGroups) -> Anatomy:
        groups = tasks.group_owners()
        task_owners = [owner for owner, _ in tasks.owners()]
        states = [*(Gate(group.name) for group in groups), Gate("shared")]
        meta = self.meta.part("meta", [SHARED, *groups], states, reads_features=True)
        return Anatomy((meta, self.task.part("task", [SHARED, *groups, *task_owners], tasks.gates(), reads_features=False)))
