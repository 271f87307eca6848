"""CREAD (Sun et al., AAAI 2024): M logits z_m for "y is above threshold t_m"; the prediction is

    sum over m of sigmoid(z_m) (t_m - t_(m-1)),  t_0 = 0

The loss has three parts: the cross entropy of the M questions, the Huber loss of the prediction, and a penalty on disorder, as
y is above t_(m+1) only if it is above t_m: max(sigmoid(z_(m+1)) - sigmoid(z_m), 0). The paper adds up the first and the last
over thresholds; here they are means, so that the number of thresholds does not weigh a task. The Huber loss is of residuals in
units of the label's deviation. Predictions end at the last threshold.
"""

from collections.abc import Hashable, Sequence
from itertools import pairwise

import torch
from pydantic import Field
from torch.nn import functional as F

from home_dist.config.objective import Labels, ObjectiveSection
from home_dist.objectives.base import Objective, constants, facts_of
from home_dist.schema import TaskSpec

_NEAREST = 1e-3
"""Shares from which biases start are kept this far from 0 and 1."""


class OrdinalSection(ObjectiveSection):
    """Is the label above each of M thresholds (CREAD, Sun et al. 2024)?"""

    kind: str = "ordinal"
    restore: float = Field(default=1.0, ge=0)
    """Factor of the Huber loss of the restored value."""
    order: float = Field(default=1.0, ge=0)
    """Factor of the penalty on disorder."""
    delta: float = Field(default=1.0, gt=0)
    """Residual, in standard deviations, from which on the Huber loss is linear."""

    @property
    def labels(self) -> Labels:
        return "number >= 0"


class Ordinal(Objective):
    section = OrdinalSection
    config: OrdinalSection

    thresholds: torch.Tensor
    lengths: torch.Tensor
    scale: torch.Tensor
    above: torch.Tensor

    def __init__(self, section: OrdinalSection, tasks: Sequence[TaskSpec]):
        super().__init__(section, tasks)
        source = " in the schema: prepare fits them for [[label]] of a kind other than binary"
        facts = facts_of(tasks, section.kind, "thresholds", source)
        constants(
            self,
            thresholds=[f.thresholds for f in facts],
            lengths=[[b - a for a, b in pairwise((0.0, *f.thresholds))] for f in facts],
            scale=[f.std for f in facts],
            above=[f.above or [0.5] * len(f.thresholds) for f in facts],
        )

    @classmethod
    def outputs(cls, section: OrdinalSection, task: TaskSpec) -> int:
        return 0 if task.values is None else len(task.values.thresholds)

    @classmethod
    def link(cls, section: OrdinalSection, task: TaskSpec) -> Hashable:
        return () if task.values is None else task.values.thresholds

    def start(self, rates: torch.Tensor) -> torch.Tensor:
        return torch.logit(self.above.clamp(_NEAREST, 1 - _NEAREST))

    def losses(self, z: torch.Tensor, y: torch.Tensor, durations: torch.Tensor) -> torch.Tensor:
        answers = (y.unsqueeze(2) > self.thresholds).to(z.dtype)
        losses = F.binary_cross_entropy_with_logits(z, answers, reduction="none").mean(2)
        residual = (self.predicted(z, durations).squeeze(2) - y) / self.scale
        restored = F.huber_loss(residual, torch.zeros_like(residual), reduction="none", delta=self.config.delta)
        losses = losses + self.config.restore * restored
        if z.shape[2] > 1:
            chance = torch.sigmoid(z)
            losses = losses + self.config.order * torch.relu(chance[..., 1:] - chance[..., :-1]).mean(2)
        return losses

    def predicted(self, z: torch.Tensor, durations: torch.Tensor) -> torch.Tensor:
        return (torch.sigmoid(z) * self.lengths).sum(2, keepdim=True)
