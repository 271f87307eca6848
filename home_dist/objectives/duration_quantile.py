"""D2Q, duration-deconfounded quantiles (Zhan et al., KDD 2022): how long a video was watched, among videos of like duration.

Training rows are cut into groups of like duration. The loss is the squared error of sigmoid(z) against the rank of y, from 0 to
1, among its group's rows; the prediction is the group's quantile function at sigmoid(z). Groups and their quantiles are fitted
by `prepare` (schema, `values`). Equal values share the middle of their ranks.
"""

from collections.abc import Hashable, Sequence

import torch

from home_dist.config.objective import Labels, ObjectiveSection
from home_dist.objectives.base import Objective, constants, facts_of
from home_dist.schema import TaskSpec


class DurationQuantileSection(ObjectiveSection):
    """Squared error of the label's rank among rows of like duration (D2Q, Zhan et al. 2022)."""

    kind: str = "duration_quantile"
    reads_duration = True

    @property
    def labels(self) -> Labels:
        return "number >= 0"


class DurationQuantile(Objective):
    section = DurationQuantileSection

    boundaries: torch.Tensor
    quantiles: torch.Tensor

    def __init__(self, section: DurationQuantileSection, tasks: Sequence[TaskSpec]):
        super().__init__(section, tasks)
        source = ", for which prepare needs the label's `duration`: name it under [[label]] and prepare the data"
        facts = facts_of(tasks, section.kind, "quantiles", source)
        # (n, groups - 1) and (n, groups, points)
        constants(self, boundaries=[f.duration_boundaries for f in facts], quantiles=[f.quantiles for f in facts])

    @classmethod
    def shape(cls, section: DurationQuantileSection, task: TaskSpec) -> Hashable:
        quantiles = () if task.values is None else task.values.quantiles
        return len(quantiles), len(quantiles[0]) if quantiles else 0

    @classmethod
    def link(cls, section: DurationQuantileSection, task: TaskSpec) -> Hashable:
        return () if task.values is None else (task.values.duration_boundaries, task.values.quantiles)

    def start(self, rates: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(rates), 1)

    def losses(self, z: torch.Tensor, y: torch.Tensor, durations: torch.Tensor) -> torch.Tensor:
        return (torch.sigmoid(z.squeeze(2)) - self.rank(y, durations)).square()

    def predicted(self, z: torch.Tensor, durations: torch.Tensor) -> torch.Tensor:
        places = torch.sigmoid(z.squeeze(2)) * (self.quantiles.shape[2] - 1)
        below = places.floor().clamp(max=self.quantiles.shape[2] - 2)
        values = self._of_group(durations).gather(2, torch.stack([below, below + 1], 2).long())
        return torch.lerp(values[..., 0], values[..., 1], places - below).unsqueeze(2)

    def rank(self, y: torch.Tensor, durations: torch.Tensor) -> torch.Tensor:
        """(B, n): rank, 0 to 1, of labels (B, n) in the groups of their durations (B, n)."""
        quantiles, y = self._of_group(durations), y.unsqueeze(2).contiguous()
        last = quantiles.shape[2] - 1
        first, end = (torch.searchsorted(quantiles, y, right=right) for right in (False, True))
        low, high = (first - 1).clamp(0, last), first.clamp(0, last)
        below, above = quantiles.gather(2, low), quantiles.gather(2, high)
        share = torch.where(above > below, (y - below) / (above - below).clamp(min=1e-30), 0.0)
        between = low + share.clamp(0, 1)
        middle = (first + end - 1) / 2
        return (torch.where(end > first, middle, between).clamp(0, last) / last).squeeze(2)

    def _of_group(self, durations: torch.Tensor) -> torch.Tensor:
        """(B, n, points): quantiles of each sample's group."""
        limits = self.boundaries.unsqueeze(0).expand(len(durations), -1, -1).contiguous()
        group = torch.searchsorted(limits, durations.unsqueeze(2).contiguous(), right=True).squeeze(2)  # (B, n)
        return self.quantiles[torch.arange(self.quantiles.shape[0], device=group.device), group]
