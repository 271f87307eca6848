"""ML-MMoE: MMoE in several layers (the baseline of Tang et al. 2020, section 5).

Every layer has E experts. In layer 1 all experts read v. In layer l + 1 expert e reads a mixture of layer l's experts, made by
its own gate. The last layer has one gate per task.

The literature leaves open what gates above the first layer read. Here all gates read v, as in MMoE: below the last layer no
task has a state that its gate could read instead, and v says most about the sample.
"""

import torch
from torch import nn

from home_dist.config.model import ModelOfLayers
from home_dist.config.section import Count
from home_dist.experts import MaskedGates
from home_dist.models.anatomy import SHARED, Anatomy, Gate, part
from home_dist.models.base import MultiTaskModel, bank_of
from home_dist.models.tasks import TaskGroups


class MlMmoeSection(ModelOfLayers):
    """MMoE in several layers."""

    kind: str = "ml_mmoe"
    experts: Count = 8
    """Experts of each layer."""
    layers: Count = 2
    """Layers of experts."""


class _MlMmoeLayer(nn.Module):
    def __init__(self, config: MlMmoeSection, in_dim: int, gate_dim: int, n: int, gates: int):
        super().__init__()
        self.bank = bank_of(config, [1] * config.experts if n else [config.experts], in_dim, n)
        self.gates = MaskedGates(gate_dim, torch.ones(gates, config.experts, dtype=torch.bool), *config.gate_layers)

    def forward(self, states: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """states: (1, B, F) in the first layer, then (E, B, D). Returns one state per gate, (gates, B, D)."""
        return self.bank.mixed(states.unbind(0), self.gates(v), mask)


class MlMmoe(MultiTaskModel):
    section = MlMmoeSection

    def __init__(self, config: MlMmoeSection, in_dim: int, tasks: TaskGroups):
        super().__init__()
        self.out_dim = config.last_dim
        gates = [config.experts] * (config.layers - 1) + [tasks.tasks]
        self.layers = nn.ModuleList(
            _MlMmoeLayer(config, config.dim_of(n - 1) if n else in_dim, in_dim, n, gates=gates[n]) for n in range(config.layers)
        )

    def forward(self, v: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """v: (B, F); mask: (B,). Returns (K, B, D)."""
        states = v.unsqueeze(0)
        for layer in self.layers:
            states = layer(states, v, mask)
        return states

    def anatomy(self, tasks: TaskGroups) -> Anatomy:
        layers = [layer for layer in self.layers if isinstance(layer, _MlMmoeLayer)]
        last = len(layers) - 1
        parts = []
        for n, layer in enumerate(layers):
            experts = layer.bank.total
            gates = tasks.gates() if n == last else [Gate(f"expert {e}") for e in range(experts)]
            parts.append(part(f"layer {n}", layer.bank, [(SHARED, experts)], gates, layer.gates, gates_read_features=True))
        return Anatomy(tuple(parts))
