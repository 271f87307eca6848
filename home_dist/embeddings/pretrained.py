"""Projects vectors of other, pre-trained models (of texts, sounds, pictures) to a width of this model."""

from collections.abc import Sequence

import torch
from torch import nn

from home_dist.schema import PretrainedInput


class Pretrained(nn.Module):
    """x (width) -> W x (dim), and 1 where x is missing. No bias: a missing vector, which is zero, stays zero."""

    def __init__(self, inputs: Sequence[PretrainedInput]):
        super().__init__()
        self.inputs = inputs
        self.projections = nn.ModuleDict({i.name: nn.Linear(i.width, i.dim, bias=False) for i in inputs})

    @property
    def widths(self) -> list[tuple[str, int]]:
        """Output width by feature, in the order of `forward`."""
        return [(i.name, i.dim + 1) for i in self.inputs]

    def forward(self, vectors: torch.Tensor) -> list[torch.Tensor]:
        """vectors: (B, sum of width + 1), per feature its vector and 1 where missing. Returns (B, dim + 1) per feature."""
        projected, at = [], 0
        for item in self.inputs:
            x, missing = vectors[:, at : at + item.width], vectors[:, at + item.width : at + item.width + 1]
            x = nn.functional.normalize(x) if item.normalise else x
            projected.append(torch.cat([self.projections[item.name](x), missing], 1))
            at += item.width + 1
        return projected
