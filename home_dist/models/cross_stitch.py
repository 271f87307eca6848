"""Cross-Stitch: one trunk per task, and a learned linear mixture of all trunks after each layer (Misra et al. 2016, section 3).

x_i <- sum_j A_ij x_j, with a matrix A (K, K) per layer or per unit of a layer. The paper stitches two networks. For K tasks, A
starts with `stitch_self` on its diagonal and equal values beside it, such that rows add up to 1: activations keep their size,
as with the paper's convex initial values. The last layer is stitched like the others. A has no weight decay.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import nn

from home_dist.config.model import ModelOfBanks
from home_dist.layers.axis_names import Axes, Names
from home_dist.models.anatomy import Anatomy
from home_dist.models.base import MultiTaskModel, names_of_tasks, trunk_anatomy, trunk_layers
from home_dist.models.tasks import TaskGroups


class CrossStitchSection(ModelOfBanks):
    """One trunk per task, mixed linearly after each layer (Misra et al. 2016)."""

    kind: str = "cross_stitch"
    stitch: Literal["layer", "unit"] = "layer"
    """One mixing matrix per layer, or one per unit of each layer."""
    stitch_self: float = Field(default=0.9, ge=0, le=1)
    """Initial weight of a task's own trunk; the other trunks share the rest."""


class CrossStitch(MultiTaskModel):
    section = CrossStitchSection

    def __init__(self, config: CrossStitchSection, in_dim: int, tasks: TaskGroups):
        super().__init__()
        self.out_dim = config.expert_dim
        self.trunks = trunk_layers(config, tasks.tasks, in_dim)
        self.mixing = nn.ParameterList()
        for width in [*config.expert_hidden, config.expert_dim]:
            start = _start(tasks.tasks, config.stitch_self)
            self.mixing.append(nn.Parameter(start if config.stitch == "layer" else start.repeat(width, 1, 1)))

    def forward(self, v: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """v: (B, F); mask: (B,). Returns (K, B, D)."""
        x = v.unsqueeze(0)
        for layer, mixing in zip(self.trunks, self.mixing, strict=True):
            x = _stitched(layer(x.unbind(0), mask), mixing)
        return x

    def axes(self, tasks: TaskGroups, columns: Names) -> dict[str, Axes]:
        names = names_of_tasks(tasks)
        return {f"mixing.{n}": (*[None] * (m.dim() - 2), names, names) for n, m in enumerate(self.mixing)}

    def anatomy(self, tasks: TaskGroups) -> Anatomy:
        return trunk_anatomy(self.trunks, tasks)


def _start(tasks: int, own: float) -> torch.Tensor:
    if tasks == 1:
        return torch.ones(1, 1)
    start = torch.full((tasks, tasks), (1 - own) / (tasks - 1))
    return start.fill_diagonal_(own)


def _stitched(x: torch.Tensor, mixing: torch.Tensor) -> torch.Tensor:
    """x: (K, B, H); mixing: (K, K), or (H, K, K) per unit. Returns (K, B, H)."""
    if mixing.dim() == 2:
        return (mixing @ x.flatten(1)).view_as(x)
    return torch.bmm(mixing, x.permute(2, 0, 1)).permute(1, 2, 0)
