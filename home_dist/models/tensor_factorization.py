"""Tensor-Factorization: in each layer the weights of the K trunks form one low-rank tensor (in, out, K), in Tucker form (Yang
and Hospedales 2016).

W[i, o, k] = sum_abc core[a, b, c] U_in[i, a] U_out[o, b] U_task[k, c], and task k's layer is ReLU(x_k W[:, :, k] + b_k).
W is never computed: products with U_in, with the core contracted for task k, and with U_out cost less for small ranks.

Open in the paper: biases; here each task has its own, like its tower. The paper starts from networks trained per task. Here
factors start random, which needs no pre-training, and are scaled such that each product keeps the size of activations (Kaiming
initialisation for W as a whole). A rank larger than its dimension is cut to the dimension.
"""

import itertools
import math

import torch
from torch import nn

from home_dist.config.model import ModelSection
from home_dist.config.section import Count
from home_dist.layers.axis_names import Axes, Names
from home_dist.models.base import MultiTaskModel, names_of_tasks
from home_dist.models.tasks import TaskGroups


class TensorFactorizationSection(ModelSection):
    """One trunk per task; all trunks' weights of a layer are one tensor in Tucker form (Yang and Hospedales 2016)."""

    kind: str = "tensor_factorization"
    rank_in: Count = 32
    """Tucker rank along a layer's inputs."""
    rank_out: Count = 32
    """Tucker rank along a layer's outputs."""
    rank_tasks: Count = 4
    """Tucker rank along the tasks. Each rank is cut to the size of its dimension."""


class _TuckerLayer(nn.Module):
    def __init__(self, config: TensorFactorizationSection, in_dim: int, out_dim: int, tasks: int):
        super().__init__()
        a, b, c = min(config.rank_in, in_dim), min(config.rank_out, out_dim), min(config.rank_tasks, tasks)
        self.factor_in = nn.Parameter(torch.empty(in_dim, a).normal_(0, 1 / math.sqrt(in_dim)))
        self.factor_out = nn.Parameter(torch.empty(out_dim, b).normal_(0, 1 / math.sqrt(b)))
        self.factor_task = nn.Parameter(torch.empty(tasks, c).normal_(0, 1 / math.sqrt(c)))
        self.core = nn.Parameter(torch.empty(a, b, c).normal_(0, math.sqrt(2 / a)))
        self.bias = nn.Parameter(torch.zeros(tasks, out_dim))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (B, F), one input for all tasks, or (K, B, F). Returns (K, B, H)."""
        cores = torch.einsum("abc,kc->kab", self.core, self.factor_task)
        low = torch.matmul(torch.matmul(x, self.factor_in), cores)  # (K, B, b)
        return torch.relu(nn.functional.linear(low, self.factor_out) + self.bias.unsqueeze(1))


class TensorFactorization(MultiTaskModel):
    section = TensorFactorizationSection

    def __init__(self, config: TensorFactorizationSection, in_dim: int, tasks: TaskGroups):
        super().__init__()
        self.out_dim, self.dropout = config.expert_dim, config.dropout
        widths = [in_dim, *config.expert_hidden, config.expert_dim]
        self.layers = nn.ModuleList(_TuckerLayer(config, i, o, tasks.tasks) for i, o in itertools.pairwise(widths))

    def forward(self, v: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """v: (B, F); mask: unused, as no layer has statistics over samples. Returns (K, B, D)."""
        x = v
        for layer in self.layers:
            x = layer(x)
        return nn.functional.dropout(x, self.dropout, self.training)

    def axes(self, tasks: TaskGroups, columns: Names) -> dict[str, Axes]:
        names = names_of_tasks(tasks)
        axes: dict[str, Axes] = {"layers.0.factor_in": (columns, None)}
        for n in range(len(self.layers)):
            axes |= {f"layers.{n}.factor_task": (names, None), f"layers.{n}.bias": (names, None)}
        return axes
