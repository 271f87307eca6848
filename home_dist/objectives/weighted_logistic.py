"""Weighted logistic regression (Covington et al., RecSys 2016, section 4.2): cross entropy of z in which a sample with y > 0 is
a positive of weight y; the prediction is exp(z), the odds, which are sum(y) / number of negatives.

In the paper a negative of weight 1 is a sample with y = 0, `negatives = "unwatched"`: the odds are then near the expected y
only while few samples are positive. With "all", the default, each sample is a negative of weight 1, the positives too: the
odds are the mean of y itself, however many samples are positive. In a feed that plays by itself nearly all are.

y is divided by its mean in the training part (schema, `values`), and the prediction multiplied by it: the same odds, with a
loss that does not depend on the unit.
"""

from collections.abc import Hashable, Sequence
from typing import Literal

import torch
from torch.nn import functional as F

from home_dist.config.objective import Labels, WithinRequest
from home_dist.objectives.base import Objective, constants
from home_dist.schema import TaskSpec

_MOST = 60.0
"""Largest logit whose odds are predicted: exp(88) is no float32."""


class WeightedLogisticSection(WithinRequest):
    """Odds that are the expected value (Covington et al. 2016)."""

    kind: str = "weighted_logistic"
    negatives: Literal["all", "unwatched"] = "all"
    """Samples that are negatives of weight 1: all, so that predictions are calibrated; or, as published, those with a label
    of 0."""

    @property
    def labels(self) -> Labels:
        return "number >= 0"


class WeightedLogistic(Objective):
    section = WeightedLogisticSection

    scale: torch.Tensor

    def __init__(self, section: WeightedLogisticSection, tasks: Sequence[TaskSpec]):
        super().__init__(section, tasks)
        self.all = section.negatives == "all"
        constants(self, scale=[_scale(t) for t in tasks])

    @classmethod
    def link(cls, section: WeightedLogisticSection, task: TaskSpec) -> Hashable:
        return section.negatives, _scale(task)

    def start(self, rates: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(rates), 1)

    def losses(self, z: torch.Tensor, y: torch.Tensor, durations: torch.Tensor) -> torch.Tensor:
        z = z.squeeze(2)
        negative = F.softplus(z) if self.all else torch.where(y > 0, 0.0, F.softplus(z))
        return y / self.scale * F.softplus(-z) + negative

    def predicted(self, z: torch.Tensor, durations: torch.Tensor) -> torch.Tensor:
        return self.scale.unsqueeze(1) * torch.exp(z.clamp(max=_MOST))


def _scale(task: TaskSpec) -> float:
    return task.values.mean if task.values is not None and task.values.mean > 0 else 1.0
