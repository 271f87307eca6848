"""How the losses of K tasks are weighed: the total is the sum over tasks of fixed_k factor_k L_k, where fixed_k is the run's
`train.task_weights` and factor_k is found in training (`train.weighting`).

L_k is the mean loss of the batch's known labels, or in the total their sum over the nominal batch size, which is the same for
tasks that are always known.
"""

from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.distributed as dist
from torch import nn

from home_dist.config.weighting import WeightingSection
from home_dist.errors import ConfigError


class TaskWeighting(nn.Module):
    """Fixed weights, and the interface of the others."""

    fixed: torch.Tensor
    looks: ClassVar[bool] = False
    """Whether it takes gradients with respect to v."""

    def __init__(self, fixed: torch.Tensor, section: WeightingSection):
        """fixed: (K,)"""
        super().__init__()
        self.section = section
        self.register_buffer("fixed", fixed, persistent=False)

    def factors(self) -> torch.Tensor:
        """(K,) what the weighting found; without gradient."""
        return torch.ones_like(self.fixed)

    def total(self, sums: torch.Tensor, weight_sums: torch.Tensor, size: int) -> torch.Tensor:
        """() from the sums (K,) of weighted losses and of label weights, and the nominal batch size.

        Divided by the nominal batch size, not by the batch's sum of weights: a sample then counts the same in a full and in a
        padded batch, on any number of ranks, and ranks need not exchange a sum first."""
        return (sums * self.fixed * self.factors()).sum() / size

    def look(self, v: torch.Tensor, sums: torch.Tensor, size: int) -> None:
        """Called in the forward of a training step. v: (B, F), the feature vector; sums: (K,), with their graph."""

    def after_step(self, sums: torch.Tensor, weight_sums: torch.Tensor) -> None:
        """Called on every rank after every step, with zeros for a refused one. May be collective."""

    def settle(self) -> None:
        """Called on every rank before its state is saved: makes the state the same on all ranks. May be collective."""


class Uncertainty(TaskWeighting):
    """Kendall et al. 2018: exp(-s_k) L_k + s_k / 2 for each known label, with s_k, a log variance, learned."""

    def __init__(self, fixed: torch.Tensor, section: WeightingSection):
        super().__init__(fixed, section)
        self.log_variance = nn.Parameter(torch.zeros_like(fixed))

    def factors(self) -> torch.Tensor:
        return torch.exp(-self.log_variance.detach())

    def total(self, sums: torch.Tensor, weight_sums: torch.Tensor, size: int) -> torch.Tensor:
        s = self.log_variance
        return (self.fixed * (torch.exp(-s) * sums + s / 2 * weight_sums)).sum() / size


class _Periodic(TaskWeighting):
    """Acts every `period` steps of the run, counted in checkpoints."""

    steps: torch.Tensor

    def __init__(self, fixed: torch.Tensor, section: WeightingSection):
        super().__init__(fixed, section)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self._done: int | None = None

    def _due(self) -> bool:
        """Whether the steps so far are a multiple of the period."""
        if self._done is None:
            self._done = int(self.steps)  # read from the device once
        return self._done % self.section.period == 0

    def _count(self) -> None:
        self._due()
        self.steps += 1
        self._done = (self._done or 0) + 1


class DynamicAverage(_Periodic):
    """DWA, Liu et al. 2019: factor_k = K softmax_k(r_k / T), r_k = L_k of the last period / L_k of the one before. Even in the
    first two periods; r_k = 1 for a task without known labels in one of them."""

    mean: torch.Tensor
    counted: torch.Tensor
    """(2, K) of the period, over all ranks, up to the last `settle`: sums of losses and of label weights."""
    own: torch.Tensor
    """The same of this rank since then."""
    shares: torch.Tensor

    def __init__(self, fixed: torch.Tensor, section: WeightingSection):
        super().__init__(fixed, section)
        tasks = len(fixed)
        self.register_buffer("mean", torch.full((tasks,), torch.nan, dtype=torch.float64))
        self.register_buffer("counted", torch.zeros(2, tasks, dtype=torch.float64))
        self.register_buffer("shares", torch.ones(tasks))
        self.register_buffer("own", torch.zeros(2, tasks, dtype=torch.float64), persistent=False)

    def factors(self) -> torch.Tensor:
        return self.shares

    @torch.no_grad()
    def settle(self) -> None:
        _all_reduce(self.own)
        self.counted += self.own
        self.own.zero_()

    @torch.no_grad()
    def after_step(self, sums: torch.Tensor, weight_sums: torch.Tensor) -> None:
        self.own += torch.stack([sums, weight_sums])
        self._count()
        if not self._due():
            return
        self.settle()
        mean = self.counted[0] / self.counted[1]
        change = (mean / self.mean).nan_to_num(nan=1.0, posinf=1.0)
        self.shares.copy_(len(change) * torch.softmax(change / self.section.temperature, 0))
        self.mean.copy_(torch.where(mean.isnan(), self.mean, mean))
        self.counted.zero_()


class GradNorm(_Periodic):
    """Chen et al. 2018, on the gradient with respect to v: G_k = |d(factor_k L_k) / dv| should be mean(G)
    (l_k / mean(l))^alpha, where l_k = L_k / L_k at the first look. factor_k follows the gradient of |G_k - that| by Adam;
    factors sum to K."""

    looks = True
    first: torch.Tensor
    scales: torch.Tensor
    moments: torch.Tensor
    looked: torch.Tensor

    def __init__(self, fixed: torch.Tensor, section: WeightingSection):
        super().__init__(fixed, section)
        tasks = len(fixed)
        self.register_buffer("first", torch.full((tasks,), torch.nan, dtype=torch.float64))
        self.register_buffer("scales", torch.ones(tasks))
        self.register_buffer("moments", torch.zeros(2, tasks, dtype=torch.float64))
        self.register_buffer("looked", torch.zeros((), dtype=torch.int64))
        self._seen: torch.Tensor | None = None

    def factors(self) -> torch.Tensor:
        return self.scales

    def look(self, v: torch.Tensor, sums: torch.Tensor, size: int) -> None:
        if not self._due():
            return
        squares = [
            torch.autograd.grad(loss, v, retain_graph=True)[0].double().square().sum() for loss in (sums * self.fixed).unbind()
        ]
        self._seen = torch.stack(squares)

    @torch.no_grad()
    def after_step(self, sums: torch.Tensor, weight_sums: torch.Tensor) -> None:
        self._count()
        if self._seen is None:
            return
        squares, self._seen = self._seen, None
        seen = torch.cat([squares, sums.double() * self.fixed, weight_sums.double() * self.fixed])
        _all_reduce(seen)
        squares, losses, known = seen.view(3, -1)
        loss = losses / known
        usable = (known > 0) & loss.isfinite() & squares.isfinite() & (squares > 0)
        if not bool(usable.any()):
            return  # a refused step
        self.first.copy_(torch.where(self.first.isnan() & usable, loss, self.first))
        norms, rate = squares.sqrt(), loss / self.first
        own = self.scales.double() * norms
        target = own[usable].mean() * (rate / rate[usable].mean()).clamp(min=1e-8) ** self.section.alpha
        slope = torch.where(usable, torch.sign(own - target) * norms / norms[usable].mean(), 0.0)
        self.looked += 1
        self.moments[0].lerp_(slope, 0.1)
        self.moments[1].lerp_(slope.square(), 0.001)
        bias = 1 - 0.9 ** self.looked.double(), 1 - 0.999 ** self.looked.double()
        step = self.moments[0] / bias[0] / ((self.moments[1] / bias[1]).sqrt() + 1e-8)
        weights = (self.scales.double() - self.section.lr * step).clamp(min=1e-3)
        self.scales.copy_(weights * len(weights) / weights.sum())


_KINDS: dict[str, type[TaskWeighting]] = {
    "fixed": TaskWeighting,
    "uncertainty": Uncertainty,
    "dwa": DynamicAverage,
    "gradnorm": GradNorm,
}


def build_weighting(section: WeightingSection, tasks: Sequence[str], fixed: dict[str, float]) -> TaskWeighting:
    """fixed: `train.task_weights`. Raises ConfigError for weights that say nothing."""
    weights = torch.tensor([fixed.get(name, 1.0) for name in tasks])
    if not bool(weights.any()):
        raise ConfigError("train.task_weights: all are 0, so that nothing would be learned. Give one task a weight above 0.")
    if section.kind != "fixed" and len(tasks) < 2:
        raise ConfigError(
            f"train.weighting: {section.kind} weighs tasks against each other, but the run has one, {tasks[0]!r}. Leave it out."
        )
    if section.kind == "gradnorm" and not bool(weights.all()):
        idle = tasks[int((weights == 0).nonzero()[0])]
        raise ConfigError(
            f"train.weighting: gradnorm compares gradients, but task {idle!r} has weight 0. Leave it out of data.tasks."
        )
    return _KINDS[section.kind](weights, section)


def _all_reduce(values: torch.Tensor) -> None:
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(values)
