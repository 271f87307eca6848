"""A model's scores of a split, from all ranks."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from home_dist.data import Reader
from home_dist.distributed import health
from home_dist.distributed.ranks import Ranks
from home_dist.metrics import gather_rows, sigmoid, softmax
from home_dist.metrics.evaluation import Family
from home_dist.objectives import Objectives


@dataclass(frozen=True)
class Families:
    """What tasks predict: each task's family of metrics, and its columns among the P of all tasks."""

    measured: tuple[Family, ...]
    predictions: tuple[int, ...]

    @staticmethod
    def of(objectives: Objectives) -> "Families":
        return Families(objectives.measured, objectives.predictions)

    def columns(self, task: int) -> slice:
        first = sum(self.predictions[:task])
        return slice(first, first + self.predictions[task])

    def tasks(self, family: Family) -> list[int]:
        return [k for k, measured in enumerate(self.measured) if measured == family]


@dataclass(frozen=True)
class Scored:
    """The real samples of a split from all ranks, in the order of ranks; the same on every rank."""

    scores: np.ndarray
    """(N, P) float64: logits of binary tasks and of classes, predictions in the label's unit of others. Metrics use logits
    because probabilities round: in float32 all logits above 17 become the same one."""
    labels: np.ndarray
    weights: np.ndarray
    """(N, K)"""
    groups: np.ndarray
    """(N,)"""
    slices: np.ndarray
    """(N, S): ids or buckets of the S features of `[metrics] slices`."""
    families: Families
    requests: np.ndarray | None = None
    """(N,) keys of the samples' requests (`[data] request`)."""

    @property
    def predictions(self) -> np.ndarray:
        """(N, P) float64: probabilities, or predictions in the label's unit."""
        predicted = self.scores.copy()
        for k, family in enumerate(self.families.measured):
            columns = self.families.columns(k)
            if family == "binary":
                predicted[:, columns] = sigmoid(self.scores[:, columns])
            elif family == "class":
                predicted[:, columns] = softmax(self.scores[:, columns])
        return predicted

    def of(self, tasks: Sequence[int]) -> "Scored":
        """Of some tasks."""
        columns = [c for k in tasks for c in range(*self.families.columns(k).indices(self.scores.shape[1]))]
        of = self.families
        families = Families(tuple(of.measured[k] for k in tasks), tuple(of.predictions[k] for k in tasks))
        return replace(
            self,
            scores=self.scores[:, columns],
            labels=self.labels[:, tasks],
            weights=self.weights[:, tasks],
            families=families,
        )


@torch.no_grad()
def scored(model: nn.Module, reader: Reader, ranks: Ranks, families: Families, columns: Sequence[int] = ()) -> Scored:
    """Scores one epoch of `reader` in evaluation mode. Collective. columns: of Batch.small, kept as slices."""
    training = model.training
    model.eval()
    parts: list[list[torch.Tensor]] = [[] for _ in range(6)]
    for batch in reader.epoch(0):
        real = batch.mask.bool()
        _, output = model(batch.to(ranks.device))
        kept = [output.scores.cpu(), batch.labels, batch.weights, batch.groups, batch.small[:, list(columns)], batch.requests]
        for part, column in zip(parts, kept, strict=True):
            part.append(column[real] if len(column) else column)
    model.train(training)
    health.meet()
    scores, labels, weights, groups, slices, requests = (torch.cat(part) for part in parts)
    rows = [scores, labels, weights, groups, slices, *([requests] if reader.reads_requests else [])]
    gathered = [x.numpy() for x in gather_rows(*rows)]
    return Scored(
        scores=gathered[0].astype(np.float64),
        labels=gathered[1],
        weights=gathered[2],
        groups=gathered[3],
        slices=gathered[4],
        families=families,
        requests=gathered[5] if reader.reads_requests else None,
    )


def without_broken(samples: Scored, tasks: Sequence[str]) -> tuple[Scored, list[str]]:
    """Gives weight 0 to tasks with NaN scores; returns a note for each. Their metrics are then undefined, as for a task without
    samples, but a long run in which one task has diverged still gets the metrics of the others."""
    nan = np.isnan(samples.scores)
    of_tasks = [nan[:, samples.families.columns(k)].any(1) for k in range(len(tasks))]
    broken = np.stack(of_tasks, 1) & (samples.weights > 0)
    notes = [
        f"task {task!r}: {count:,} of {rows:,} scores are NaN, so that its metrics are not defined. The model has diverged: "
        "lower train.lr, or look for NaN in dense features."
        for task, count, rows in zip(tasks, broken.sum(0).tolist(), (samples.weights > 0).sum(0).tolist(), strict=True)
        if count
    ]
    return replace(samples, weights=np.where(broken.any(0), 0, samples.weights)), notes
