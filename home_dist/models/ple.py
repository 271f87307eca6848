"""PLE, progressive layered extraction (Tang et al. 2020, section 4.2): CGC in layers.

In layer l + 1, task k's experts and gate read task k's state of layer l. Shared experts and the shared gate read the shared
state, a mixture of all experts of layer l by its shared gate. The last layer has no shared gate, as nothing would read its
state.
"""

import torch
from torch import nn

from home_dist.config.model import ModelOfLayers
from home_dist.config.section import Count
from home_dist.models.anatomy import Anatomy
from home_dist.models.base import MultiTaskModel
from home_dist.models.cgc import CgcLayer, CustomisedSection
from home_dist.models.tasks import TaskGroups


class PleSection(CustomisedSection, ModelOfLayers):
    """CGC in several layers (Tang et al. 2020)."""

    kind: str = "ple"
    layers: Count = 2
    """Layers of experts; with 1, PLE is CGC."""


class Ple(MultiTaskModel):
    section = PleSection

    def __init__(self, config: PleSection, in_dim: int, tasks: TaskGroups):
        super().__init__()
        self.out_dim = config.last_dim
        last = config.layers - 1
        self.layers = nn.ModuleList(
            CgcLayer(config, config.dim_of(n - 1) if n else in_dim, tasks, n, last=n == last) for n in range(config.layers)
        )

    def forward(self, v: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """v: (B, F); mask: (B,). Returns (K, B, D)."""
        states = v
        for layer in self.layers:
            states = layer(states, mask)
        return states

    def anatomy(self, tasks: TaskGroups) -> Anatomy:
        layers = [layer for layer in self.layers if isinstance(layer, CgcLayer)]
        return Anatomy(tuple(layer.part(f"layer {n}", tasks, first=n == 0) for n, layer in enumerate(layers)))
