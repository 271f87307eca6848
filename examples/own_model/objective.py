"""An objective of one's own for numbers >= 0: Poisson regression (McCullagh and Nelder 1989, chapter 6).

loss = exp(z) - y z / m, whose best prediction m exp(z) is the mean of y; m is the label's mean in the training part, so that a
task's loss does not depend on its unit.
"""

from collections.abc import Hashable, Sequence

import torch

from home_dist import Objective
from home_dist.config.objective import Labels, ObjectiveSection
from home_dist.objectives.base import constants, facts_of
from home_dist.schema import TaskSpec

_MOST = 20.0
"""Largest z: exp(z) stays finite, and so does its gradient."""


class PoissonSection(ObjectiveSection):
    """What stands in `[objective.TASK]`; Poisson has no keys of its own."""

    @property
    def labels(self) -> Labels:
        return "number >= 0"


class Poisson(Objective):
    section = PoissonSection
    mean: torch.Tensor

    def __init__(self, section: PoissonSection, tasks: Sequence[TaskSpec]):
        """Raises ConfigError for a task whose mean is not known."""
        super().__init__(section, tasks)
        constants(self, mean=[facts.mean for facts in facts_of(tasks, "Poisson", "mean", ", which `prepare` fits")])

    @classmethod
    def link(cls, section: PoissonSection, task: TaskSpec) -> Hashable:
        """A warm start takes towers over only from a run with the same mean."""
        return task.values and task.values.mean

    def start(self, rates: torch.Tensor) -> torch.Tensor:
        """(n, 1): z = 0, which predicts the mean."""
        return torch.zeros(len(rates), 1)

    def losses(self, z: torch.Tensor, y: torch.Tensor, durations: torch.Tensor) -> torch.Tensor:
        """z: (B, n, 1); y: (B, n). Returns (B, n)."""
        z = z.squeeze(2).clamp(max=_MOST)
        return torch.exp(z) - y / self.mean * z

    def predicted(self, z: torch.Tensor, durations: torch.Tensor) -> torch.Tensor:
        """z: (B, n, 1). Returns (B, n, 1), in the label's unit."""
        return self.mean.unsqueeze(1) * torch.exp(z.clamp(max=_MOST))
