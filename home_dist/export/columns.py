"""Parquet batches -> inputs of a scoring program, decoded as in training. No labels are needed."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from home_dist.data.column_reader import ColumnReader, read_uses
from home_dist.data.files import check_columns, needed_inputs
from home_dist.data.labels import read_durations, refuse_durations
from home_dist.data.order import RowGroup
from home_dist.data.raw_rows import RawRows
from home_dist.errors import DataError
from home_dist.export.program_inputs import Input, inputs_of, singles
from home_dist.files.listing import Found, find_files
from home_dist.files.stores import Store
from home_dist.schema import DenseFeature, InputLayout, PretrainedInput


def parquet_files(place: str) -> tuple[Store, list[Found]]:
    """The Parquet files of a place: a file, or any place that `find_files` accepts. Raises DataError."""
    path = Path(place)
    if path.is_file():
        return Store(), [Found(place, path.name, path.stat().st_size)]
    return find_files(place)


def read_batches(
    store: Store, file: Found, layout: InputLayout, rows: int
) -> Iterator[tuple[pa.Table, dict[str, torch.Tensor]]]:
    """Batches of at most `rows` rows, each as a table of all columns and as inputs. Raises DataError, which names file, column
    and row."""
    for reader in read_uses(store, file, needed_inputs(layout), rows, "program", more=True):
        [raw] = reader.raw
        yield raw.table, tensors(reader, layout)


def batches_of(table: pa.Table, layout: InputLayout, rows: int, place: str = "the table") -> Iterator[dict[str, torch.Tensor]]:
    """Inputs of a program for at most `rows` rows of a table at a time. place: the table, for messages. Raises DataError, which
    names all columns that are missing, or column and row of a wrong value."""
    uses = needed_inputs(layout)
    missing = [column for column in uses if column not in table.column_names]
    if missing:
        there = ", ".join(sorted(table.column_names)[:20]) or "none"
        raise DataError(f"{place}: columns that the model reads are missing: {', '.join(missing)}. It has: {there}")
    check_columns(place, table.schema, uses, "model")
    whole = table.select(list(uses)).combine_chunks()
    for first in range(0, len(whole), rows):
        part = whole.slice(first, rows)
        group = RowGroup(0, 0, len(part), first)
        yield tensors(ColumnReader([RawRows(part, place, group, counted_in=place)]), layout)


def tensors(reader: ColumnReader, layout: InputLayout) -> dict[str, torch.Tensor]:
    """Inputs of a program for these rows, by name. Raises DataError for values that training would refuse."""
    arrays: dict[str, NDArray[Any]] = {}
    wanted = inputs_of(layout)
    inputs = singles(wanted)
    for group, members in _by_group(inputs).items():
        lists = reader.lists(tuple(i.item for i in members if i.item is not None and i.kind == "list"))
        taken = lists.take(np.arange(reader.rows), np.int64)
        arrays[f"lengths.{group}"] = np.diff(taken.offsets)
        arrays |= zip((i.name for i in members if i.kind == "list"), taken.values, strict=True)
    for name, item in inputs.items():
        if item.kind == "ids" and item.item is not None:
            arrays[name] = np.concatenate(reader.ids(item.item), dtype=np.int64, casting="same_kind")
        elif item.kind == "number" and item.feature is not None:
            values, absent = reader.numbers(item.column)
            values = values.astype(np.float64)  # before NaN takes the place of nulls: numpy would leave float32 as it is
            arrays[name] = values if absent is None else np.where(absent, np.nan, values)
        elif item.kind == "weights" and item.item is not None:
            weights = reader.lists((item.item,)).take(np.arange(reader.rows), np.int64).weights
            arrays[name] = np.zeros(0, np.float32) if weights is None else weights
        elif item.kind == "vector" and isinstance(item.feature, DenseFeature):
            arrays[name] = reader.wide(item.feature)
        elif item.duration is not None:
            arrays[name], bad = read_durations(reader, item.duration)
            refuse_durations(reader, item.duration, bad)
        elif item.pretrained is not None:
            arrays[name] = _pretrained(reader, item.pretrained)
    reader.dense(layout.dense, layout.clip)  # only for its checks: the program itself standardises
    for name, item in wanted.items():
        if item.parts:
            arrays[name] = np.stack([arrays.pop(part.name) for part in item.parts], 1)
    return {name: torch.from_numpy(np.require(array, requirements=["C", "W"])) for name, array in arrays.items()}


def _by_group(inputs: dict[str, Input]) -> dict[str, list[Input]]:
    groups: dict[str, list[Input]] = {}
    for item in inputs.values():
        if item.group is not None:
            groups.setdefault(item.group, []).append(item)
    return groups


def _pretrained(reader: ColumnReader, item: PretrainedInput) -> NDArray[np.float32]:
    """(n, width + 1): the vector, and 1 where it is missing."""
    vectors = reader.vectors(item)
    values = np.zeros((reader.rows, item.width + 1), np.float32)
    if item.frozen is None:
        values[:, :-1] = vectors.values
    else:
        values[~vectors.missing, :-1] = item.frozen.vectors[vectors.values[~vectors.missing]]
    values[:, -1] = vectors.missing
    return values
