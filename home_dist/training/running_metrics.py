"""Running metrics of training samples, as the model scored them before it learnt from them. They show early what an evaluation
shows late, and cost next to nothing. Those of binary tasks are TorchRec's; the others are sums."""

import math
from functools import cached_property
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

from home_dist.evaluation.scores import Families
from home_dist.network import StepOutput
from home_dist.objectives import Objectives

if TYPE_CHECKING:  # see running_binary: imported when there is something to count
    from home_dist.training.running_binary import BinaryMetrics

_BINARY = ("auc", "normalized_entropy", "calibration")
METRICS = (*_BINARY, "mae", "accuracy")
"""By the metric names of evaluations. Each is defined for some families of tasks."""

_HELD_STEPS = 32
"""Steps per update: a metric module's update costs the same for one step and for many."""


class Running:
    """Metrics of the steps since the last `close` or `restart`, from the first `samples` samples of each step. Every rank has
    one and closes it at the same steps.

    For watching only: TorchRec counts a positive and a negative of equal score by chance, not half. Evaluations are exact.
    """

    def __init__(self, objectives: Objectives, samples: int, world_size: int, rank: int, device: torch.device):
        self._samples = samples
        families = Families.of(objectives)
        self._tasks = len(families.measured)
        self._held = list[StepOutput]()
        self._binary, self._numbers, self._classes = (families.tasks(f) for f in ("binary", "number", "class"))
        self._columns = [families.columns(k) for k in range(self._tasks)]
        self._device = device
        self._place = world_size, rank, device
        self._sums = self._zeros()

    @cached_property
    def _of_binary(self) -> "BinaryMetrics":
        from home_dist.training.running_binary import BinaryMetrics

        return BinaryMetrics(self._binary, self._samples, *self._place)

    def prepare(self) -> None:
        """Imports what the first count would import: so that it is not taken for training time."""
        if self._binary:
            self._of_binary  # noqa: B018

    def _zeros(self) -> torch.Tensor:
        """(4, K): of binary tasks the weights of positives and of negatives; of the others weights, errors (absolute, or 1 for
        a wrong class), predictions and labels."""
        return torch.zeros(4, self._tasks, dtype=torch.float64, device=self._device)

    def add(self, output: StepOutput) -> None:
        self._held.append(output)
        if len(self._held) == _HELD_STEPS:
            self._count()

    def restart(self) -> None:
        """Drops the steps so far. Called at a checkpoint, so that a resumed run reports the same as an uninterrupted one, and
        checkpoints need not hold AUC's samples."""
        self._held, self._sums = [], self._zeros()
        if "_of_binary" in self.__dict__:
            self._of_binary.reset()

    def close(self) -> dict[str, list[float]]:
        """By metric, one value per task; NaN where it is not defined, as for a task without positives. Collective."""
        self._count()
        sums = self._sums
        dist.all_reduce(sums)
        values: dict[str, list[float]] = {name: [math.nan] * self._tasks for name in METRICS}
        for name, of_tasks in (self._of_binary.compute() if self._binary else {}).items():
            for k, value in of_tasks.items():
                if bool((sums[:2, k] > 0).all()):
                    values[name][k] = value
        for k, (weight, wrong, predicted, label) in enumerate(sums.t().tolist()):
            if k in self._numbers and weight:
                values["mae"][k] = wrong / weight
                values["calibration"][k] = predicted / label if label else math.nan
            elif k in self._classes and weight:
                values["accuracy"][k] = 1 - wrong / weight
        self.restart()
        always = _BINARY if self._binary else ()
        return {name: by_task for name, by_task in values.items() if name in always or not all(map(math.isnan, by_task))}

    @torch.no_grad()
    def _count(self) -> None:
        if not self._held:
            return
        outputs, self._held = self._held, []
        few = slice(0, self._samples)  # a random choice, as the reader shuffles samples
        scores, labels, weights = (
            torch.cat([getattr(o, name)[few] for o in outputs]) for name in ("scores", "labels", "weights")
        )
        for k in self._numbers + self._classes:
            values, y, w = scores[:, self._columns[k]].double(), labels[:, k].double(), weights[:, k].double()
            predicted = values[:, 0] if k in self._numbers else values.argmax(1).double()
            wrong = (predicted - y).abs() if k in self._numbers else (predicted != y).double()
            self._sums[:, k] += torch.stack([w.sum(), (w * wrong).sum(), (w * predicted).sum(), (w * y).sum()])
        if self._binary:
            of_tasks = [torch.stack([x[:, k] for k in self._binary]) for x in (labels, weights)]
            self._count_binary(of_tasks[0], of_tasks[1], scores)

    def _count_binary(self, labels: torch.Tensor, weights: torch.Tensor, scores: torch.Tensor) -> None:
        """labels, weights: (tasks, N); scores: (N, P)."""
        logits = torch.stack([scores[:, self._columns[k].start] for k in self._binary])
        positive = weights * labels
        self._sums[:2, self._binary] += torch.stack([positive.sum(1), (weights - positive).sum(1)])
        self._of_binary.update(labels, weights, logits)
