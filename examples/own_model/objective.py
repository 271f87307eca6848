"""An objective of one's own, of a number >= 0 whose errors count by their share: Poisson regression.

loss = exp(z) - y z, whose best prediction exp(z) is the mean of y (McCullagh and Nelder 1989, chapter 6).
"""

import torch

from home_dist import Objective
from home_dist.config.objective import Labels, ObjectiveSection

_MOST = 20.0
"""Largest z: exp(z) stays finite, and so does its gradient."""


class PoissonSection(ObjectiveSection):
    """What stands in `[objective.TASK]`."""

    @property
    def labels(self) -> Labels:
        return "number >= 0"


class Poisson(Objective):
    section = PoissonSection
    measured = "number"

    def start(self, rates: torch.Tensor) -> torch.Tensor:
        """(n, 1): z = 0, which predicts 1."""
        return torch.zeros(len(rates), 1)

    def losses(self, z: torch.Tensor, y: torch.Tensor, durations: torch.Tensor) -> torch.Tensor:
        """z: (B, n, 1); y: (B, n). Returns (B, n)."""
        z = z.squeeze(2).clamp(max=_MOST)
        return torch.exp(z) - y * z

    def predicted(self, z: torch.Tensor, durations: torch.Tensor) -> torch.Tensor:
        """z: (B, n, 1). Returns (B, n, 1), in the label's unit."""
        return torch.exp(z.clamp(max=_MOST))
