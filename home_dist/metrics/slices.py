"""Metrics of slices of a split, for example the samples of one tab or of one class of users."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from home_dist.metrics.evaluation import TaskMetrics, as_tables, evaluate_tasks


@dataclass(frozen=True)
class Slice:
    feature: str
    value: int
    """The feature's id or bucket."""
    samples: int
    tasks: list[TaskMetrics]

    def to_json(self) -> dict[str, Any]:
        tasks = [m.to_json() for m in self.tasks]
        return {"feature": self.feature, "value": self.value, "samples": self.samples, "tasks": tasks}


def evaluate_slices(
    features: Sequence[str],
    values: ArrayLike,
    task_names: Sequence[str],
    labels: ArrayLike,
    weights: ArrayLike,
    scores: ArrayLike,
    groups: ArrayLike | None = None,
    at_least: int = 1,
    logits: bool = False,
) -> Iterator[Slice]:
    """Evaluates each value of each feature that at least `at_least` samples have.

    values: (N, features), integers; the other arguments as for evaluate_tasks.
    """
    y, w, p, names = as_tables(task_names, labels, weights, scores, groups)
    columns = np.asarray(values)
    if columns.shape != (len(y), len(features)):
        raise ValueError(f"values {columns.shape} must be ({len(y)}, {len(features)}): one column per feature")

    def evaluate(rows: NDArray[np.intp]) -> list[TaskMetrics]:
        users = None if names is None else names[rows]
        return evaluate_tasks(task_names, y[rows], w[rows], p[rows], users, logits)

    yield from slices_of(features, columns, evaluate, at_least)


def slices_of(
    features: Sequence[str],
    values: NDArray[np.generic],
    evaluate: Callable[[NDArray[np.intp]], list[TaskMetrics]],
    at_least: int = 1,
) -> Iterator[Slice]:
    """As `evaluate_slices`; evaluate: called with the numbers (n,) of a slice's rows."""
    for feature, column in zip(features, values.T, strict=True):
        for value, rows in _rows_by_value(column):
            if len(rows) >= at_least:
                yield Slice(feature, value, len(rows), evaluate(rows))


def _rows_by_value(column: NDArray[np.generic]) -> Iterator[tuple[int, NDArray[np.intp]]]:
    if not column.size:
        return
    order = np.argsort(column, kind="stable")
    values, first = np.unique(column[order], return_index=True)
    for value, rows in zip(values, np.split(order, first[1:]), strict=True):
        yield int(value), rows
