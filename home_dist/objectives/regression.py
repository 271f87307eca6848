"""A number: a loss of z against t(y), where t is the identity or log(1 + y); the prediction is the inverse of t at z.

The tower's output u is standardised: z = mean + std u, with the mean and deviation of t(y) in the training part (schema,
`values`; 0 and 1 without). The loss is of (z - t(y)) / std, so that a task's loss does not depend on its unit, and a regression
can stand beside binary tasks.

squared: r^2, whose best prediction is the mean of t(y). huber: r^2 / 2 up to |r| = delta, then delta (|r| - delta / 2) (Huber
1964). quantile: q max(-r, 0) + (1 - q) max(r, 0) for r = z - t(y), whose best prediction is the q-th quantile (Koenker and
Bassett 1978). With log1p, "squared" predicts a value near the median of a skewed label, which lies below its mean.
"""

from collections.abc import Hashable, Sequence
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch.nn import functional as F

from home_dist.config.objective import Labels, WithinRequest
from home_dist.config.section import refuse_idle
from home_dist.objectives.base import Objective, constants
from home_dist.schema import LabelValues, TaskSpec

_MOST = 80.0
"""Largest log(1 + y) that is predicted: exp(88) is no float32."""


class RegressionSection(WithinRequest):
    """A loss of a number, as it is or as log(1 + y)."""

    kind: str = "regression"
    loss: Literal["squared", "huber", "quantile"] = "squared"
    """Loss of the (transformed) number."""
    transform: Literal["identity", "log1p"] = "identity"
    """t: what the model learns of a label y, as it is or as log(1 + y)."""
    delta: float = Field(default=1.0, gt=0)
    """Of the Huber loss: residual, in standard deviations, from which on the loss is linear."""
    quantile: float = Field(default=0.5, gt=0, lt=1)
    """Of the quantile loss: 0.5 predicts medians."""

    @property
    def labels(self) -> Labels:
        # A listwise loss of negative labels has no least value.
        return "number >= 0" if self.transform == "log1p" or self.within == "listwise" else "number"

    @property
    def can_be_taught(self) -> bool:
        return True

    @model_validator(mode="after")
    def _each_key_has_an_effect(self) -> "RegressionSection":
        refuse_idle(self, {"delta": self.loss == "huber", "quantile": self.loss == "quantile"}, f"loss = {self.loss!r}")
        return self


class Regression(Objective):
    section = RegressionSection
    config: RegressionSection

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, section: RegressionSection, tasks: Sequence[TaskSpec]):
        super().__init__(section, tasks)
        self.log = section.transform == "log1p"
        facts = [t.values or LabelValues() for t in tasks]
        constants(
            self,
            mean=[f.log_mean if self.log else f.mean for f in facts],
            std=[f.log_std if self.log else f.std for f in facts],
        )

    @classmethod
    def link(cls, section: RegressionSection, task: TaskSpec) -> Hashable:
        facts = task.values or LabelValues()
        log = section.transform == "log1p"
        return log, *((facts.log_mean, facts.log_std) if log else (facts.mean, facts.std))

    def start(self, rates: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(rates), 1)

    def losses(self, z: torch.Tensor, y: torch.Tensor, durations: torch.Tensor) -> torch.Tensor:
        residual = z.squeeze(2) - ((torch.log1p(y) if self.log else y) - self.mean) / self.std
        if self.config.loss == "squared":
            return residual.square()
        if self.config.loss == "huber":
            return F.huber_loss(residual, torch.zeros_like(residual), reduction="none", delta=self.config.delta)
        return torch.maximum(-self.config.quantile * residual, (1 - self.config.quantile) * residual)

    def predicted(self, z: torch.Tensor, durations: torch.Tensor) -> torch.Tensor:
        value = self.mean.unsqueeze(1) + self.std.unsqueeze(1) * z
        return torch.expm1(value.clamp(max=_MOST)) if self.log else value
