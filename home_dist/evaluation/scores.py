"""A model's scores of a split: each rank keeps those of the rows that it read."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from home_dist.data import Batch, Reader
from home_dist.distributed import health
from home_dist.distributed.ranks import Ranks
from home_dist.metrics import ALONE, OverRanks, sigmoid, softmax
from home_dist.metrics.evaluation import Family
from home_dist.objectives import Objectives

_AHEAD = 2
"""Batches whose scores may still be on their way from the device."""
_GROWTH = 1.25
_COLUMNS = ("scores", "labels", "weights", "groups")


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
    """The real samples of a split that this rank has read."""

    scores: NDArray[Any]
    """(N, P), as the model computes them: logits of binary tasks and of classes, predictions in the label's unit of others.
    Metrics use logits because probabilities round: in float32 all logits above 17 become the same one."""
    labels: NDArray[Any]
    weights: NDArray[Any]
    """(N, K)"""
    groups: NDArray[Any]
    """(N,)"""
    slices: NDArray[Any]
    """(N, S): ids or buckets of the S features of `[metrics] slices`."""
    families: Families
    requests: NDArray[Any] | None = None
    """(N,) keys of the samples' requests (`[data] request`)."""

    @property
    def predictions(self) -> NDArray[np.float64]:
        """(N, P): probabilities, or predictions in the label's unit."""
        return self.predicted(slice(None))

    def predicted(self, rows: slice) -> NDArray[np.float64]:
        """Predictions of some rows."""
        predicted = self.scores[rows].astype(np.float64)
        for k, family in enumerate(self.families.measured):
            columns = self.families.columns(k)
            if family == "binary":
                predicted[:, columns] = sigmoid(predicted[:, columns])
            elif family == "class":
                predicted[:, columns] = softmax(predicted[:, columns])
        return predicted

    def rows(self, rows: NDArray[np.intp]) -> "Scored":
        """Of some rows; without requests and slices, which only a whole split needs."""
        some = {name: getattr(self, name)[rows] for name in _COLUMNS}
        return replace(self, **some, slices=np.empty((len(rows), 0), np.int64), requests=None)


@torch.no_grad()
def scored(
    model: nn.Module,
    reader: Reader,
    ranks: Ranks,
    families: Families,
    columns: Sequence[int] = (),
    count: Callable[[Batch], None] | None = None,
) -> Scored:
    """Scores one epoch of `reader` in evaluation mode. Collective. columns: of Batch.small, kept as slices; count: gets each
    batch, on the host."""
    training = model.training
    model.eval()
    kept, chosen = _Kept(families, len(columns), reader.reads_requests), list(columns)
    on_their_way: deque[tuple[_Copy, Batch]] = deque()
    for batch in reader.epoch(0):
        if count is not None:
            count(batch)
        _, output = model(batch.to(ranks.device))
        on_their_way.append((_Copy(output.scores), batch))
        if len(on_their_way) > _AHEAD:
            kept.add(*on_their_way.popleft(), chosen)
    for copy, batch in on_their_way:
        kept.add(copy, batch, chosen)
    model.train(training)
    health.meet()
    return kept.scored()


class _Copy:
    """Scores on their way to host memory, so that the host can launch the next forward meanwhile."""

    def __init__(self, scores: torch.Tensor):
        self._host = scores.to("cpu", non_blocking=True)
        self._arrived = torch.cuda.Event() if scores.is_cuda else None
        if self._arrived is not None:
            self._arrived.record()

    def wait(self) -> torch.Tensor:
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._host


class _Kept:
    """Real samples, batch by batch, in arrays that grow in place, so that none is ever held twice."""

    def __init__(self, families: Families, slices: int, requests: bool):
        tasks, nothing = len(families.measured), np.empty(0, np.int64)
        scores, labels, weights = (np.empty((0, width), np.float32) for width in (sum(families.predictions), tasks, tasks))
        self._all = Scored(
            scores, labels, weights, nothing, np.empty((0, slices), np.int64), families, nothing.copy() if requests else None
        )
        self._rows = 0

    def add(self, scores: _Copy, batch: Batch, chosen: list[int]) -> None:
        real = batch.mask.bool()
        columns = {"scores": scores.wait(), "labels": batch.labels, "weights": batch.weights, "groups": batch.groups}
        columns["slices"] = batch.small[:, chosen]
        if self._all.requests is not None:
            columns["requests"] = batch.requests
        part = {name: column[real].numpy() for name, column in columns.items()}
        if not self._rows:  # the first batch tells the types
            empty = {name: np.empty((0, *column.shape[1:]), column.dtype) for name, column in part.items()}
            self._all = replace(self._all, **empty)  # type: ignore[arg-type]
        rows = self._rows + len(part["groups"])
        if rows > len(self._all.groups):
            self._resize(max(rows, self._rows * _GROWTH))
        for name, column in part.items():
            getattr(self._all, name)[self._rows : rows] = column
        self._rows = rows

    def _resize(self, rows: float) -> None:
        for array in (getattr(self._all, name) for name in (*_COLUMNS, "slices", "requests")):
            if array is not None:
                array.resize((int(rows), *array.shape[1:]), refcheck=False)

    def scored(self) -> Scored:
        self._resize(self._rows)
        return self._all


def without_broken(samples: Scored, tasks: Sequence[str], over: OverRanks = ALONE) -> tuple[Scored, list[str]]:
    """Gives weight 0 to tasks with NaN scores on any rank; returns a note for each. Their metrics are then undefined, as for a
    task without samples, but a long run in which one task has diverged still gets the metrics of the others. Collective."""
    labelled = [samples.weights[:, k] > 0 for k in range(len(tasks))]
    nan = [np.isnan(samples.scores[:, samples.families.columns(k)]).any(1) for k in range(len(tasks))]
    broken = [int((n & known).sum()) for n, known in zip(nan, labelled, strict=True)]
    counts = over.sums(*broken, *(int(known.sum()) for known in labelled))
    notes = [
        f"task {task!r}: {int(count):,} of {int(rows):,} scores are NaN, so that its metrics are not defined. The model has "
        "diverged: lower train.lr, or look for NaN in dense features."
        for task, count, rows in zip(tasks, counts[: len(tasks)], counts[len(tasks) :], strict=True)
        if count
    ]
    if not notes:
        return samples, notes
    return replace(samples, weights=np.where(np.array(counts[: len(tasks)]) > 0, 0, samples.weights)), notes
