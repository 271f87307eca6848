"""AdaTT, adaptive task-to-task fusion (Li et al. 2023).

Every layer has one module per task with native experts, and one module with shared experts (AdaTT-sp has no shared module). A
module's fusion unit adds two paths, where x is the module's input:

- all experts: sum over all e of softmax(W x)_e f_e;
- the module's native experts: sum over native e of u_e f_e. The learned u is the same for all samples; a lone expert has u = 1.

A module of the next layer reads the output of its fusion unit. In the last layer the shared module has no fusion unit, as
nothing would read it. The paper leaves u's initial value open; here it is 1 / (native experts), so that the residual path has
the size of one expert.
"""

import torch
from pydantic import Field
from torch import nn

from home_dist.config.model import ModelOfLayers, ModelOfTaskExperts
from home_dist.config.section import Count
from home_dist.experts import MaskedGates
from home_dist.layers.axis_names import Axes, Names
from home_dist.models.anatomy import SHARED, Anatomy, Gate, Owner, Part, part
from home_dist.models.base import MultiTaskModel, bank_of
from home_dist.models.tasks import TaskGroups


class AdattSection(ModelOfTaskExperts, ModelOfLayers):
    """Experts of tasks and shared experts, fused in each layer with a residual path from own experts (Li et al. 2023)."""

    kind: str = "adatt"
    shared_experts: int = Field(default=1, ge=0)
    """Shared experts of each layer; 0 gives AdaTT-sp."""
    task_experts: Count = 1
    """Experts of each task and layer."""
    layers: Count = 2
    """Layers of experts."""


class _AdattLayer(nn.Module):
    """Experts: task 0, .., task K-1, shared. Fusion units in the same order."""

    native: torch.Tensor
    learned: torch.Tensor

    def __init__(self, config: AdattSection, in_dim: int, tasks: TaskGroups, n: int):
        super().__init__()
        self.shared_experts, self.task_experts = config.shared_experts, config.task_experts
        experts = [config.task_experts] * tasks.tasks + [config.shared_experts] * (config.shared_experts > 0)
        counts = torch.tensor(experts)
        native = torch.eye(len(experts)).repeat_interleave(counts, 1)
        native = native[: tasks.tasks] if n == config.layers - 1 else native
        self.register_buffer("native", native, persistent=False)
        siblings = counts.repeat_interleave(counts)
        learned = (siblings > 1) & native.any(0)
        self.register_buffer("learned", learned, persistent=False)
        self.mixing = nn.Parameter(1 / siblings[learned]) if learned.any() else None
        self.gates = MaskedGates(in_dim, torch.ones_like(native, dtype=torch.bool), *config.gate_layers)
        self.bank = bank_of(config, experts if n else [sum(experts)], in_dim, n, self._owners(tasks))

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """x: v (B, F) in the first layer, then one input per module, (modules, B, D). Returns (units, B, D)."""
        residual = self.native
        if self.mixing is not None:
            residual = residual * torch.ones_like(self.native[0]).masked_scatter(self.learned, self.mixing)
        if x.dim() == 2:
            return self.bank.mixed([x], self.gates(x) + residual.unsqueeze(1), mask)
        return self.bank.mixed(x.unbind(0), self.gates(x[: len(residual)]) + residual.unsqueeze(1), mask)

    def _owners(self, tasks: TaskGroups) -> list[tuple[Owner, int]]:
        return [*tasks.owners(self.task_experts), *[(SHARED, self.shared_experts)] * (self.shared_experts > 0)]

    def part(self, layer: str, tasks: TaskGroups) -> Part:
        gates = [*tasks.gates(), Gate("shared")][: len(self.native)]
        return part(layer, self.bank, self._owners(tasks), gates, self.gates)


class AdaTT(MultiTaskModel):
    section = AdattSection

    def __init__(self, config: AdattSection, in_dim: int, tasks: TaskGroups):
        super().__init__()
        self.out_dim = config.last_dim
        self.layers = nn.ModuleList(
            _AdattLayer(config, config.dim_of(n - 1) if n else in_dim, tasks, n) for n in range(config.layers)
        )

    def forward(self, v: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """v: (B, F); mask: (B,). Returns (K, B, D)."""
        x = v
        for layer in self.layers:
            x = layer(x, mask)
        return x

    def axes(self, tasks: TaskGroups, columns: Names) -> dict[str, Axes]:
        axes: dict[str, Axes] = {}
        for n, layer in enumerate(layer for layer in self.layers if isinstance(layer, _AdattLayer)):
            part = layer.part("", tasks)
            names = tuple((f"{owner.kind} {name}", 0) for owner, name in zip(part.owners, part.experts, strict=True))
            if layer.mixing is not None:
                axes[f"layers.{n}.mixing"] = (tuple(names[e] for e in layer.learned.nonzero().flatten().tolist()),)
        return axes

    def anatomy(self, tasks: TaskGroups) -> Anatomy:
        layers = [layer for layer in self.layers if isinstance(layer, _AdattLayer)]
        return Anatomy(tuple(layer.part(f"layer {n}", tasks) for n, layer in enumerate(layers)))
