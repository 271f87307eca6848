"""PEPNet: gates that read prior features scale the feature vector and the units of each task's trunk (Chang et al. 2023).

Gate NU: 2 sigmoid(W2 ReLU(W1 x + b1) + b2), in (0, 2), initially near 1.
EPNet: o = v * GateNU([domain ; stop(v)]).
PPNet: in layer l of task k's trunk h <- f(W h + b) * GateNU_l([prior ; stop(o)])_k, starting from h = o.

stop(.) stops gradients: gates train the embeddings of domain and prior features, but of no other features.

Choices: `[model]` names the domain and prior features, which are parts of v; if it names none, gates read only stop(v) or
stop(o). One Gate NU per layer serves all tasks: they share its hidden units, and its output has units for each task. All layers
of a trunk are gated, including the last; towers are not: with tower_hidden = [] a tower is one product on the gated state.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from home_dist.config.model import ModelOfBanks
from home_dist.config.section import Count
from home_dist.layers.axis_names import Axes, Names
from home_dist.models.anatomy import Anatomy
from home_dist.models.base import MultiTaskModel, trunk_anatomy, trunk_layers
from home_dist.models.tasks import TaskGroups


class PepnetSection(ModelOfBanks):
    """One trunk per task; gates that read chosen features scale the trunks' inputs and units (Chang et al. 2023)."""

    kind: str = "pepnet"
    domain_features: tuple[str, ...] = ()
    """Features that tell domains (tabs, pages) apart, for the gates of the feature vector, which always read v too."""
    prior_features: tuple[str, ...] = ()
    """Features that tell users, items and authors apart, for the gates of the trunks, which always read v too."""
    gate_hidden: Count = 32
    """Hidden units of a gate."""

    def named_features(self) -> dict[str, tuple[str, ...]]:
        return {"domain_features": self.domain_features, "prior_features": self.prior_features}


class GateUnit(nn.Module):
    def __init__(self, in_dim: int, hidden: int, out_dim: int):
        super().__init__()
        self.first, self.second = nn.Linear(in_dim, hidden), nn.Linear(hidden, out_dim)
        nn.init.kaiming_uniform_(self.first.weight, nonlinearity="relu")
        nn.init.zeros_(self.first.bias)
        nn.init.zeros_(self.second.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, F) -> (B, out)"""
        return 2 * torch.sigmoid(self.second(torch.relu(self.first(x))))


class PepNet(MultiTaskModel):
    section = PepnetSection
    domain: torch.Tensor
    prior: torch.Tensor

    def __init__(self, config: PepnetSection, in_dim: int, tasks: TaskGroups, columns: Mapping[str, Sequence[int]]):
        """columns: by feature, its columns in v."""
        super().__init__()
        self.out_dim, self.tasks = config.expert_dim, tasks.tasks
        for name, features in (("domain", config.domain_features), ("prior", config.prior_features)):
            chosen = [column for feature in features for column in columns[feature]]
            self.register_buffer(name, torch.tensor(chosen, dtype=torch.int64), persistent=False)
        self.epnet = GateUnit(in_dim + len(self.domain), config.gate_hidden, in_dim)
        widths = [*config.expert_hidden, config.expert_dim]
        self.ppnet = nn.ModuleList(GateUnit(in_dim + len(self.prior), config.gate_hidden, tasks.tasks * w) for w in widths)
        self.trunks = trunk_layers(config, tasks.tasks, in_dim)

    @classmethod
    def build(cls, config: Any, in_dim: int, tasks: TaskGroups, columns: Mapping[str, Sequence[int]]) -> MultiTaskModel:
        return cls(config, in_dim, tasks, columns)

    def forward(self, v: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """v: (B, F); mask: (B,). Returns (K, B, D)."""
        o = v * self.epnet(torch.cat([v[:, self.domain], v.detach()], 1))
        reads = torch.cat([v[:, self.prior], o.detach()], 1)
        x = o.unsqueeze(0)
        for layer, gate in zip(self.trunks, self.ppnet, strict=True):
            scale = gate(reads).view(len(v), self.tasks, -1).transpose(0, 1)
            x = layer(x.unbind(0), mask) * scale
        return x

    def axes(self, tasks: TaskGroups, columns: Names) -> dict[str, Axes]:
        def of_gate(gate: str, chosen: torch.Tensor, prefix: str, out: Names) -> dict[str, Axes]:
            extra = tuple((f"{prefix} {columns[c][0]}", columns[c][1]) for c in chosen.tolist())
            return {
                f"{gate}.first.weight": (None, (*extra, *columns)),
                f"{gate}.second.weight": (out, None),
                f"{gate}.second.bias": (out,),
            }

        axes = of_gate("epnet", self.domain, "domain", columns)
        for n, gate in enumerate(gate for gate in self.ppnet if isinstance(gate, GateUnit)):
            units = gate.second.out_features // tasks.tasks
            out = tuple((f"task {name}", unit) for name in tasks.names for unit in range(units))
            axes |= of_gate(f"ppnet.{n}", self.prior, "prior", out)
        return axes

    def anatomy(self, tasks: TaskGroups) -> Anatomy:
        return Anatomy(trunk_anatomy(self.trunks, tasks).parts, (("epnet", self.epnet),))
