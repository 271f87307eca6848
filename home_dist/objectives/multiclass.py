"""One of C classes: softmax cross entropy of C logits; the prediction is each class's probability."""

from collections.abc import Sequence

import torch
from torch.nn import functional as F

from home_dist.config.objective import Labels, ObjectiveSection
from home_dist.config.section import Rate
from home_dist.errors import ConfigError
from home_dist.objectives.base import Objective, constants
from home_dist.schema import TaskSpec

_SMALLEST = 1e-4
"""Shares from which biases start are at least this."""


class MulticlassSection(ObjectiveSection):
    """Softmax cross entropy; labels are 0 .. C - 1."""

    kind: str = "multiclass"
    label_smoothing: Rate = 0.0
    """s: a label is its class with 1 - s, and each of the C classes with s / C."""

    @property
    def labels(self) -> Labels:
        return "class"


class Multiclass(Objective):
    section = MulticlassSection
    measured = "class"

    shares: torch.Tensor

    def __init__(self, section: MulticlassSection, tasks: Sequence[TaskSpec]):
        super().__init__(section, tasks)
        self.smoothing = section.label_smoothing
        lacking = next((t.name for t in tasks if t.classes is None), None)
        if lacking is not None:
            raise ConfigError(f"task {lacking!r}: kind multiclass needs `classes`, the number of classes, in the schema")
        equal = [[1.0] * (t.classes or 1) for t in tasks]
        constants(
            self, shares=[t.values.shares if t.values and t.values.shares else e for t, e in zip(tasks, equal, strict=True)]
        )

    @classmethod
    def outputs(cls, section: MulticlassSection, task: TaskSpec) -> int:
        return task.classes or 0

    @classmethod
    def predictions(cls, section: MulticlassSection, task: TaskSpec) -> int:
        return task.classes or 0

    def start(self, rates: torch.Tensor) -> torch.Tensor:
        logs = self.shares.clamp(min=_SMALLEST).log()
        return logs - logs.mean(1, keepdim=True)

    def losses(self, z: torch.Tensor, y: torch.Tensor, durations: torch.Tensor) -> torch.Tensor:
        if z.device.type != "cpu":  # with several tasks at once, a GPU refuses it where algorithms have to be deterministic
            flat = F.cross_entropy(z.flatten(0, 1), y.long().flatten(), reduction="none", label_smoothing=self.smoothing)
            return flat.view_as(y)
        return F.cross_entropy(z.transpose(1, 2), y.long(), reduction="none", label_smoothing=self.smoothing)

    def predicted(self, z: torch.Tensor, durations: torch.Tensor) -> torch.Tensor:
        return torch.softmax(z, 2)

    def scores(self, z: torch.Tensor, durations: torch.Tensor) -> torch.Tensor:
        return z
