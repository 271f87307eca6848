"""What is fitted of a task's labels: the rate of a binary one, facts of others. Rows of weight 0 do not know the label."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from home_dist.config.objective import Labels
from home_dist.data.column_reader import ColumnReader
from home_dist.data.labels import read_durations, read_labels, refuse_durations
from home_dist.prepare.fit.draft import DraftTask
from home_dist.prepare.label_values import ClassFacts, NumberFacts
from home_dist.schema import LabelValues, TaskSpec
from home_dist.schema.spec import LabelKind

_LABELS: dict[LabelKind, Labels] = {"binary": "0 or 1", "regression": "number", "multiclass": "class"}


class LabelFit:
    def __init__(self, task: DraftTask):
        self.task = task
        self._positives, self._known = 0.0, 0.0
        self._numbers, self._classes = NumberFacts(task.duration is not None), ClassFacts(task.classes or 2)

    def add(self, reader: ColumnReader) -> None:
        """Raises DataError for labels and durations that training would refuse."""
        task = self.task
        weights = None if task.weight_column is None else reader.weights(task.weight_column)
        read = read_labels(reader, task, weights, _LABELS.get(task.kind, "number >= 0"))
        labels = np.concatenate(read).astype(np.float64)
        if task.kind == "binary":
            known = np.ones(len(labels)) if weights is None else weights.astype(np.float64)
            self._positives += float((labels * known).sum())
            self._known += float(known.sum())
            return
        knows = np.ones(len(labels), np.bool_) if weights is None else weights > 0
        if task.kind == "multiclass":
            self._classes.add(labels[knows].astype(np.int64))
            return
        durations: NDArray[np.float64] | None = None
        if task.duration is not None:
            values, bad = read_durations(reader, task.duration)
            refuse_durations(reader, task.duration, bad, (weights,))
            durations = values[knows].astype(np.float64)
        self._numbers.add(labels[knows], durations)

    def fitted(self) -> TaskSpec:
        """The task with its rate or facts; those that the draft gives stay."""
        task = TaskSpec.model_validate(self.task.model_dump(exclude={"thresholds", "duration_groups"}))
        if task.kind == "binary":
            share = self._positives / self._known if self._known else 0.0
            keeps = task.base_rate is not None or not 0 < share < 1
            return task if keeps else task.model_copy(update={"base_rate": share})
        return task if task.values is not None else task.model_copy(update={"values": self._values()})

    def _values(self) -> LabelValues | None:
        if self.task.kind == "multiclass":
            return self._classes.values()
        return self._numbers.values(self.task.thresholds, self.task.duration_groups)

    def warnings(self) -> Iterator[str]:
        where = f"warning: task {self.task.name!r}"
        if self.task.kind == "binary":
            known, which = self._known, {0.0: "negative", self._known: "positive"}.get(self._positives)
        elif self.task.kind == "multiclass":
            held = np.flatnonzero(self._classes.counts)
            known, which = len(held), f"class {held[0]}" if len(held) == 1 else None
        else:
            seen = self._numbers.seen
            known, which = seen.count, f"{seen.low:g}" if seen.low == seen.high else None
        if not known:
            yield f"{where}: no row of the training part has a known label; nothing can be learned of it"
        elif which is not None:
            yield f"{where}: all known labels of the training part are {which}: nothing is learned of it"
