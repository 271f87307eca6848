"""STEM: every task has embeddings of its own beside shared ones (Su et al., AAAI 2024).

From the paper's abstract and its authors' public code. Each row of a table holds K + 1 vectors, one shared and one per task:
x_s (B, F') are the looked-up vectors of set s beside what has no sets (numbers, pre-trained vectors, histories, whose encoders
read the shared set). Experts of task k read x_k, shared ones x_shared. For each of L layers, over all experts e:

    z_k = sum_e softmax(W_k (x_k + x_shared))_e  f_e      where the experts of other tasks get no gradient from z_k
    z_shared = sum_e softmax(W_shared x_shared)_e  f_e    in all layers but the last

"All forward, task-specific backward": a task reads what others have learned, but neither their experts nor their embeddings
learn from it. Gates learn from all.

Differences from that code: experts end in ReLU (or HoME's normalisation), gates are linear. A row's sets lie side by side in
one table, so that ids are exchanged once. Row-wise Adagrad then keeps one step size for all sets of a row, by the mean over
their columns: where one set alone has a gradient, steps are sqrt(K + 1) times as long. `embedding.optimizer = "adagrad"` keeps
one step size per weight. Histories over tables that features read, too, look up whole rows, of which encoders read one vector.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from home_dist.config.model import ModelOfLayers, ModelOfTaskExperts
from home_dist.config.section import Count
from home_dist.experts import MaskedGates
from home_dist.models.anatomy import SHARED, Anatomy, Gate, Part, part
from home_dist.models.base import FeatureColumns, MultiTaskModel, bank_of
from home_dist.models.tasks import TaskGroups


class StemSection(ModelOfTaskExperts, ModelOfLayers):
    """Embeddings and experts of each task beside shared ones (Su et al. 2024). Tables become K + 1 times as wide."""

    kind: str = "stem"
    shared_experts: Count = 1
    """Experts on the shared embeddings, in each layer."""
    task_experts: Count = 1
    """Experts on each task's embeddings, in each layer."""
    layers: Count = 1
    """Layers of experts."""

    def table_sets(self, tasks: int) -> int:
        return tasks + 1


class StemLayer(nn.Module):
    through: torch.Tensor

    def __init__(self, config: StemSection, in_dim: int, tasks: TaskGroups, n: int):
        super().__init__()
        count = tasks.tasks
        counts = torch.tensor([config.task_experts] * count + [config.shared_experts])
        own = torch.eye(count + 1, dtype=torch.bool)
        own[:, -1], own[-1] = True, True
        self.register_buffer(
            "through", own.repeat_interleave(counts, 1)[: count if n == config.layers - 1 else None], persistent=False
        )
        self.gates = MaskedGates(in_dim, torch.ones_like(self.through), *config.gate_layers)
        self.owners = [*tasks.owners(config.task_experts), (SHARED, config.shared_experts)]
        self.bank = bank_of(config, counts.tolist(), in_dim, n, self.owners)

    def forward(self, x: Sequence[torch.Tensor], mask: torch.Tensor | None = None) -> torch.Tensor:
        """x: inputs (B, F') of each task, then the shared one. Returns the next ones (K + 1, B, D); the last layer the tasks'
        states (K, B, D)."""
        shared = x[-1]
        reads = [of_task + shared for of_task in x[:-1]]
        weights = self.gates(torch.stack(reads if len(self.through) == len(reads) else [*reads, shared]))
        return self.bank.mixed(list(x), weights, mask, through=self.through)


class Stem(MultiTaskModel):
    section = StemSection
    sets: torch.Tensor

    def __init__(self, config: StemSection, in_dim: int, tasks: TaskGroups, sets: Sequence[Sequence[int]] = ()):
        """sets: of the shared set, then of each task's, its columns of v. Without them, as where v comes from no tables, all
        sets are v."""
        super().__init__()
        self.out_dim, self.tasks = config.last_dim, tasks.tasks
        in_sets = {column for columns in sets for column in columns}
        rest = [column for column in range(in_dim) if column not in in_sets]
        columns = [[*own, *rest] for own in sets] or [rest] * (tasks.tasks + 1)
        self.register_buffer("sets", torch.tensor(columns), persistent=False)
        widths = [len(columns[0]), *(config.dim_of(n) for n in range(config.layers - 1))]
        self.layers = nn.ModuleList(StemLayer(config, w, tasks, n) for n, w in enumerate(widths))

    @classmethod
    def build(cls, config: Any, in_dim: int, tasks: TaskGroups, columns: Mapping[str, Sequence[int]]) -> MultiTaskModel:
        return cls(config, in_dim, tasks, columns.sets if isinstance(columns, FeatureColumns) else ())

    def forward(self, v: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """v: (B, F); mask: (B,). Returns (K, B, D)."""
        sets = [v.index_select(1, columns) for columns in self.sets]
        x = [*sets[1:], sets[0]]
        for n, layer in enumerate(self.layers):
            states = layer(x, mask)
            if n < len(self.layers) - 1:
                x = list(states.unbind(0))
        return states

    def anatomy(self, tasks: TaskGroups) -> Anatomy:
        layers = [layer for layer in self.layers if isinstance(layer, StemLayer)]
        names = [f"layer {n}" for n in range(len(layers))] if len(layers) > 1 else [""]
        return Anatomy(
            tuple(self._part(name, layer, tasks, n) for n, (name, layer) in enumerate(zip(names, layers, strict=True)))
        )

    def _part(self, name: str, layer: StemLayer, tasks: TaskGroups, n: int) -> Part:
        gates = [*tasks.gates(), Gate("shared")][: len(layer.through)]
        return part(
            name, layer.bank, layer.owners, gates, layer.gates, columns=tuple(self.sets[0].tolist()) if n == 0 else None
        )
