"""The objectives of all tasks of a run. Tasks of one kind, section and shape are computed together.

Letters: K tasks, O outputs of all towers, P predictions of all tasks: one per task, or one for each class.
"""

import hashlib
from collections.abc import Hashable, Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from home_dist.config import RunConfig
from home_dist.config.objective import OBJECTIVES, WithinRequest
from home_dist.layers.own_class import check_result, check_takes
from home_dist.metrics.evaluation import Family
from home_dist.objectives.base import Objective
from home_dist.objectives.within import RequestsOfBatch
from home_dist.schema import TaskSpec


class Objectives(nn.Module):
    """Logits (B, O) and labels (B, K) -> losses (B, K), scores and predictions (B, P). Columns are in the tasks' order."""

    pupils: torch.Tensor | None
    """(T,) the tasks that have a teacher."""

    def __init__(self, tasks: Sequence[TaskSpec], config: RunConfig):
        """Raises ConfigError if a task lacks what its objective needs."""
        super().__init__()
        sections = [config.objective_of(t.name, t.kind) for t in tasks]
        classes: list[type[Objective]] = [OBJECTIVES.find(s.kind) for s in sections]
        of_tasks = list(zip(classes, sections, tasks, strict=True))
        self.kinds = tuple(s.kind for s in sections)
        self.measured: tuple[Family, ...] = tuple(c.measured for c in classes)
        """(K,) each task's family of metrics."""
        self.links = tuple(_short(s.kind, c.link(s, t)) for c, s, t in of_tasks)
        """(K,) the kind and, in short, what else the meaning of a task's outputs depends on."""
        self.outputs = tuple(c.outputs(s, t) for c, s, t in of_tasks)
        """(K,) outputs of each task's tower."""
        self.predictions = tuple(c.predictions(s, t) for c, s, t in of_tasks)
        """(K,) predictions of each task."""
        self.names = tuple(
            name
            for task, count in zip(tasks, self.predictions, strict=True)
            for name in ([task.name] if count == 1 else [f"{task.name}_{c}" for c in range(count)])
        )
        """(P,) names of the predictions."""
        self.within = any(isinstance(s, WithinRequest) and s.within is not None for s in sections)
        """Whether a loss reads requests."""
        alike: dict[object, list[int]] = {}
        for k, (cls, section, task) in enumerate(of_tasks):
            alike.setdefault((cls, section.model_dump_json(), cls.shape(section, task)), []).append(k)
        distillation = config.train.distillation
        taught = {} if distillation is None else distillation.columns(t.name for t in tasks)
        self.teacher_weight = 0.0 if distillation is None else distillation.weight
        pupils = [k for k, t in enumerate(tasks) if t.name in taught]
        self.register_buffer("pupils", torch.tensor(pupils) if pupils else None, persistent=False)
        reads = [t.duration if s.reads_duration else None for _, s, t in of_tasks]
        durations = list(dict.fromkeys(column for column in reads if column is not None))
        self.first = _starts(self.outputs)
        """(K,) each task's first column of the logits."""
        self._groups: list[_Group] = []
        for members in alike.values():
            cls, section, _ = of_tasks[members[0]]
            logits = [self.first[k] + o for k in members for o in range(self.outputs[k])]
            columns = [durations.index(c) for c in (reads[k] for k in members) if c is not None]
            check_takes(cls, "__init__", cls, section, [tasks[k] for k in members])
            made = cls(section, [tasks[k] for k in members])
            self._groups.append(_Group(made, members, logits, columns, self.predictions[members[0]]))
        self._modules_of_groups = nn.ModuleList(self._groups)
        order = [k for members in alike.values() for k in members]
        self._losses, self._scores = _InOrder(order, [1] * len(tasks)), _InOrder(order, self.predictions)

    def start(self, rates: torch.Tensor) -> list[torch.Tensor]:
        """By task: biases (outputs,) at which its tower starts. rates: (K,) base rates, 0.5 for tasks that are not binary."""
        starts: dict[int, torch.Tensor] = {}
        for group in self._groups:
            starts |= zip(group.tasks, group.start(rates), strict=True)
        return [starts[k] for k in range(len(self.outputs))]

    def taught(self, labels: torch.Tensor, teachers: torch.Tensor) -> torch.Tensor:
        """(B, K): what losses are of: labels, which of tasks with a teacher move to its predictions by `distillation.weight`.
        labels: (B, K); teachers: (B, T), or without columns."""
        if self.pupils is None or not teachers.numel():
            return labels
        moved = torch.lerp(labels.index_select(1, self.pupils), teachers, self.teacher_weight)
        return labels.index_copy(1, self.pupils, moved)

    def losses(
        self,
        logits: torch.Tensor,
        labels: torch.Tensor,
        weights: torch.Tensor,
        durations: torch.Tensor,
        requests: torch.Tensor | None = None,
        on_host: NDArray[np.int64] | None = None,
        taught: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """(B, K), not yet weighted. logits: (B, O); labels, weights: (B, K); durations: (B, columns of layout.durations);
        taught: (B, K) as `taught` gives it, which losses within requests do not read; by default the labels;
        requests: (B,) keys, for losses within requests, which are left out without them; on_host: the same, of keys on a
        GPU."""
        within = RequestsOfBatch.of(requests, on_host) if self.within and requests is not None and len(requests) else None
        parts = []
        for group in self._groups:
            z, y = group.outputs(logits), group.labels(labels)
            learned = y if taught is None else group.labels(taught)
            loss = group.losses(z, learned, group.durations(durations))
            extra = None if within is None else group.objective.of_requests(z, y, group.labels(weights), within)
            parts.append(loss if extra is None else loss + extra)
        return self._losses(parts)

    def scores(self, logits: torch.Tensor, durations: torch.Tensor) -> torch.Tensor:
        """(B, P): what metrics read: logits of binary tasks and of classes, else predictions. Arguments as of `losses`."""
        return self._scores([g.result("scores", logits, durations).flatten(1) for g in self._groups])

    def predicted(self, logits: torch.Tensor, durations: torch.Tensor) -> torch.Tensor:
        """(B, P): probabilities, or numbers in the label's unit. Arguments as of `losses`."""
        return self._scores([g.result("predicted", logits, durations).flatten(1) for g in self._groups])


class _Group(nn.Module):
    """n tasks of one objective, and their columns."""

    def __init__(self, objective: Objective, tasks: list[int], logits: list[int], durations: list[int], predictions: int):
        """logits: (n o) columns of their outputs; durations: (n,) columns of their durations, or none; predictions: of each."""
        super().__init__()
        self.objective, self.tasks, self.predictions = objective, tasks, predictions
        self._labels, self._logits = _Chosen(tasks), _Chosen(logits)
        self._durations = _Chosen(durations) if durations else None

    def outputs(self, logits: torch.Tensor) -> torch.Tensor:
        """(B, O) -> (B, n, o)"""
        return self._logits(logits).unflatten(1, (len(self.tasks), -1))

    def labels(self, labels: torch.Tensor) -> torch.Tensor:
        """(B, K) -> (B, n)"""
        return self._labels(labels)

    def start(self, rates: torch.Tensor) -> torch.Tensor:
        """(n, o), as Objective.start. rates: (K,), of all tasks. This method and the next two raise ConfigError for a result of
        another shape, from a class of one's own."""
        biases = self.objective.start(rates[self.tasks])
        check_result(self.objective, "start", biases, {"n": len(self.tasks), "o": self._logits.count // len(self.tasks)})
        return biases

    def losses(self, z: torch.Tensor, y: torch.Tensor, durations: torch.Tensor) -> torch.Tensor:
        """(B, n), as Objective.losses."""
        losses = self.objective.losses(z, y, durations)
        check_result(self.objective, "losses", losses, {"B": len(y), "n": len(self.tasks)})
        return losses

    def result(self, method: Literal["scores", "predicted"], logits: torch.Tensor, durations: torch.Tensor) -> torch.Tensor:
        """(B, n, predictions), as this method of Objective. logits: (B, O); durations: (B, columns)."""
        result = getattr(self.objective, method)(self.outputs(logits), self.durations(durations))
        check_result(self.objective, method, result, {"B": len(logits), "n": len(self.tasks), "predictions": self.predictions})
        return result

    def durations(self, durations: torch.Tensor) -> torch.Tensor:
        """(B, columns) -> (B, n); 1 for objectives that do not read them."""
        if self._durations is None:
            return durations.new_ones(len(durations), len(self.tasks))
        return self._durations(durations)


class _Chosen(nn.Module):
    """Some columns of a tensor (B, columns), as a view where they follow each other."""

    columns: torch.Tensor | None

    def __init__(self, columns: Sequence[int]):
        super().__init__()
        self.first, self.count = columns[0], len(columns)
        follow = list(columns) == list(range(self.first, self.first + self.count))
        self.register_buffer("columns", None if follow else torch.tensor(columns), persistent=False)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        if self.columns is None:
            return values[:, self.first : self.first + self.count]
        return values.index_select(1, self.columns)


class _InOrder(nn.Module):
    """Parts (B, columns), task after task in some order -> (B, columns of all tasks) in the tasks' order."""

    def __init__(self, order: Sequence[int], widths: Sequence[int]):
        """order: the tasks as the parts hold them; widths: (K,) columns of each task."""
        super().__init__()
        starts = _starts(widths)
        columns = [starts[k] + c for k in order for c in range(widths[k])]
        self.choose = _Chosen(sorted(range(len(columns)), key=columns.__getitem__))

    def forward(self, parts: list[torch.Tensor]) -> torch.Tensor:
        return self.choose(torch.cat(parts, 1)) if len(parts) > 1 else parts[0]


def _short(kind: str, link: Hashable) -> str:
    return f"{kind} {hashlib.sha256(repr(link).encode()).hexdigest()[:4]}" if link != () else kind


def _starts(widths: Sequence[int]) -> list[int]:
    return [sum(widths[:k]) for k in range(len(widths))]
