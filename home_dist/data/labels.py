"""Labels and durations of rows, checked against what the objectives of their tasks take."""

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from home_dist.config.objective import Labels
from home_dist.data.arrow_arrays import joined_floats, plain_numbers
from home_dist.data.chunked import Chunks
from home_dist.data.column_reader import VALUE_NEEDED, ColumnReader, nulls
from home_dist.ids.arrow_numpy import numpy_of
from home_dist.schema import TaskSpec

_LARGEST = float(np.finfo(np.float32).max)
_RULES: dict[Labels, str] = {
    "0 or 1": "neither 0 nor 1",
    "number": "not finite in float32",
    "number >= 0": "negative or not finite in float32",
    "class": "no whole number from 0 to {last}",
}


def read_labels(reader: ColumnReader, task: TaskSpec, weights: NDArray[np.float32] | None, values: Labels = "0 or 1") -> Chunks:
    """(rows,) the task's labels. weights: (rows,) of the labels; where a weight is 0, the label is unknown and read as 0.
    values: what a label may be. Raises BadRows, which names task, file, column and row."""
    chunks = reader.chunks(task.column)
    if not any(chunk.null_count for chunk in chunks):
        as_read = reader.as_chunks([numpy_of(plain_numbers(chunk)) for chunk in chunks], chunks)
        if all(_usable(chunk, task, values) for chunk in as_read):
            return as_read
    numbers = joined_floats(chunks, np.float64)
    bad = _unusable(numbers, task, values)
    if weights is not None:
        numbers, bad = np.where(weights == 0, 0, numbers), bad & (weights != 0)
    if bad.any():
        absent = nulls(chunks)
        if (bad & absent).any():
            raise reader.fail(task.column, f"{VALUE_NEEDED}, or set its weight to 0", bad & absent, VALUE_NEEDED)
        rule = _RULES[values].format(last=(task.classes or 1) - 1)
        problem = f"label {numbers[bad][0]:g} is {rule}. Correct the label rule of task {task.name!r} in the pipeline"
        raise reader.fail(task.column, problem, bad, f"label {rule}")
    return [numbers.astype(np.float32)]


def read_teacher(reader: ColumnReader, column: str, labels: Chunks, values: Labels) -> Chunks:
    """(rows,) a teacher's predictions of a task; where it has none, the label. values: what a label may be. Raises BadRows."""
    predicted = joined_floats(reader.chunks(column), np.float64)
    absent = nulls(reader.chunks(column))
    most, least = (1, 0) if values == "0 or 1" else (_LARGEST, -_LARGEST)
    bad = ~absent & ~((predicted >= least) & (predicted <= most))
    if bad.any():
        rule = "no probability" if values == "0 or 1" else _RULES["number"]
        problem = f"a teacher's prediction {predicted[bad][0]:g} is {rule}. Write null where there is none"
        raise reader.fail(column, problem, bad, f"teacher's prediction {rule}")
    if values == "number >= 0":  # a model of such labels may predict less
        predicted = np.maximum(predicted, 0)
    return [np.where(absent, np.concatenate([np.zeros(0, np.float32), *labels]), predicted).astype(np.float32)]


def unusable_labels(reader: ColumnReader, task: TaskSpec, values: Labels) -> NDArray[np.bool_]:
    """(rows,): marks labels that are no such values, nulls among them."""
    return _unusable(joined_floats(reader.chunks(task.column), np.float64), task, values)


def read_durations(reader: ColumnReader, name: str) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """(rows,) durations, and marks of those that are none: null, not finite or not above 0. These are read as 1."""
    durations = joined_floats(reader.chunks(name), np.float32)
    bad = ~(np.isfinite(durations) & (durations > 0))
    return np.where(bad, np.float32(1), durations), bad


def refuse_durations(
    reader: ColumnReader, name: str, bad: NDArray[np.bool_], weights: Iterable[NDArray[np.float32] | None] = (None,)
) -> None:
    """Raises BadRows for a row without a duration that has a known label. weights: of the labels that need the durations; None
    where all rows know them."""
    needed = np.zeros(reader.rows, bool)
    for column in weights:
        needed |= True if column is None else column != 0
    if (bad & needed).any():
        problem = "a duration is null, not finite or not above 0. Fill it in the pipeline, or give the row's label weight 0"
        raise reader.fail(name, problem, bad & needed)


def _unusable(numbers: NDArray, task: TaskSpec, values: Labels) -> NDArray[np.bool_]:
    """(rows,): marks numbers that are no such label. NaN stands for null too."""
    match values:
        case "0 or 1":
            return (numbers != 0) & (numbers != 1)
        case "number":
            return ~(np.abs(numbers) <= _LARGEST)
        case "number >= 0":
            return ~((numbers >= 0) & (numbers <= _LARGEST))
        case "class":
            return ~((numbers >= 0) & (numbers < (task.classes or 0)) & (numbers == np.floor(numbers)))


def _usable(numbers: NDArray, task: TaskSpec, values: Labels) -> bool:
    """Whether all are such labels. Of whole numbers, the least and the greatest tell."""
    if numbers.dtype.kind == "f":
        return not _unusable(numbers, task, values).any()
    most = {"0 or 1": 1, "number": math.inf, "number >= 0": math.inf, "class": (task.classes or 0) - 1}[values]
    least = -math.inf if values == "number" else 0
    return not len(numbers) or bool(numbers.min() >= least and numbers.max() <= most)
