"""The interface of an objective: how tasks of one kind are learned from the towers' outputs, and what is predicted.

Letters: n tasks that are computed together, o outputs of a tower.
"""

from collections.abc import Hashable, Sequence
from typing import Any, ClassVar

import torch
from torch import nn

from home_dist.config.objective import ObjectiveSection, WithinRequest
from home_dist.errors import ConfigError
from home_dist.metrics.evaluation import Family
from home_dist.objectives.within import RequestsOfBatch, listwise, pairwise
from home_dist.schema import LabelValues, TaskSpec


class Objective(nn.Module):
    """The objective of n tasks that share a section and a shape. It has no parameters; constants are buffers that are not
    stored in checkpoints."""

    section: ClassVar[type[ObjectiveSection]]
    config: Any
    """Its section."""
    measured: ClassVar[Family] = "number"
    """Its family of metrics."""

    def __init__(self, section: Any, tasks: Sequence[TaskSpec]):
        """section: of the class `section`. Raises ConfigError if a task lacks what the objective needs."""
        super().__init__()
        self.config = section

    @classmethod
    def outputs(cls, section: Any, task: TaskSpec) -> int:
        """o, the outputs of the task's tower."""
        return 1

    @classmethod
    def predictions(cls, section: Any, task: TaskSpec) -> int:
        """Numbers that are predicted per sample: 1, or one for each class."""
        return 1

    @classmethod
    def shape(cls, section: Any, task: TaskSpec) -> Hashable:
        """Tasks of one section and shape are computed together."""
        return cls.outputs(section, task)

    @classmethod
    def link(cls, section: Any, task: TaskSpec) -> Hashable:
        """What a tower's outputs mean depends on, apart from the kind: outputs of another link are not taken over by a warm
        start."""
        return ()

    def start(self, rates: torch.Tensor) -> torch.Tensor:
        """(n, o): biases at which the towers start. rates: (n,) base rates of binary tasks, 0.5 for others."""
        raise NotImplementedError

    def losses(self, z: torch.Tensor, y: torch.Tensor, durations: torch.Tensor) -> torch.Tensor:
        """(B, n) a loss for each sample, finite also where the label is unknown, which is read as 0. z: (B, n, o) outputs;
        y: (B, n) labels; durations: (B, n), 1 for tasks without."""
        raise NotImplementedError

    def predicted(self, z: torch.Tensor, durations: torch.Tensor) -> torch.Tensor:
        """(B, n, predictions), in the label's unit, or probabilities. z: (B, n, o); durations: (B, n)."""
        raise NotImplementedError

    def scores(self, z: torch.Tensor, durations: torch.Tensor) -> torch.Tensor:
        """(B, n, predictions): what metrics read: logits instead of probabilities, which round; else predictions."""
        return self.predicted(z, durations)

    def of_requests(
        self, z: torch.Tensor, y: torch.Tensor, weights: torch.Tensor, requests: RequestsOfBatch
    ) -> torch.Tensor | None:
        """(B, n) losses over requests, to be added to `losses`; None without one. By default of the one logit z (B, n, 1), if
        the section asks for it; y, weights: (B, n)."""
        section = self.config
        if not isinstance(section, WithinRequest) or section.within is None:
            return None
        loss = pairwise if section.within == "pairwise" else listwise
        return section.within_weight * loss(z.squeeze(2), y, weights, requests)


def facts_of(tasks: Sequence[TaskSpec], kind: str, fact: str, source: str) -> list[LabelValues]:
    """The tasks' facts. Raises ConfigError for a task without `fact`. source: where it comes from."""
    facts = []
    for task in tasks:
        if task.values is None or not getattr(task.values, fact):
            raise ConfigError(
                f"task {task.name!r}: kind {kind} needs `values.{fact}`{source}, or choose another kind under "
                f"[objective.{task.name}]"
            )
        facts.append(task.values)
    return facts


def constants(module: nn.Module, **values: Any) -> None:
    """Registers float32 buffers that move with the module and are not stored in checkpoints."""
    for name, value in values.items():
        module.register_buffer(name, torch.as_tensor(value, dtype=torch.float32), persistent=False)
