"""Parquet batches -> the inputs of a scoring program. No labels are needed."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray

from home_dist.data.files import open_parquet, partition_value
from home_dist.errors import DataError
from home_dist.export.inputs import Input
from home_dist.files.listing import Found, find_files
from home_dist.files.stores import Store
from home_dist.schema import PretrainedInput


def parquet_files(place: str) -> tuple[Store, list[Found]]:
    """place: a file, or what `find_files` takes. Raises DataError."""
    path = Path(place)
    if path.is_file():
        return Store(), [Found(place, path.name, path.stat().st_size)]
    return find_files(place)


def read_batches(
    store: Store, file: Found, inputs: Iterable[Input], rows: int
) -> Iterator[tuple[pa.Table, dict[str, torch.Tensor]]]:
    """Batches of at most `rows` rows with all of their columns, and as inputs. Raises DataError naming file and column."""
    needed, shown = {i.column: i for i in inputs if i.column}, store.show(file.path)
    opened = open_parquet(store, file.path)
    if not opened.metadata.num_rows:
        return  # whatever its columns
    there = opened.schema_arrow.names
    missing = sorted(needed.keys() - there - file.partition.keys())
    if missing:
        raise DataError(f"{shown}: column {missing[0]!r} is missing; the program needs it.")
    partition = {c: partition_value(shown, c, v, _kind(needed[c])) for c, v in file.partition.items() if c in needed}
    try:
        for batch in opened.iter_batches(rows):
            table = pa.Table.from_batches([batch])
            for column in partition.keys() - there:
                table = table.append_column(column, pa.repeat(partition[column], len(table)))
            yield table, dict(_tensors(shown, table, inputs))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
        raise DataError(f"{shown}: it cannot be read: {str(error).splitlines()[0]}") from None


def _kind(item: Input) -> str:
    """Of what a folder's name holds."""
    if item.kind == "number":
        return "number"
    return "integer" if item.rows_of is None else item.rows_of.type


def _tensors(file: str, table: pa.Table, inputs: Iterable[Input]) -> Iterator[tuple[str, torch.Tensor]]:
    lengths: dict[str, NDArray[np.int64]] = {}
    for item in inputs:
        if item.kind == "lengths":
            continue
        array = table.column(item.column).combine_chunks()
        array = array if isinstance(array, pa.Array) else array.chunk(0)
        wrong = f"{file}: column {item.column!r}"
        if item.group is not None:
            own = np.asarray(pc.fill_null(pc.list_value_length(array), 0)).astype(np.int64)
            if item.group in lengths and not np.array_equal(own, lengths[item.group]):
                raise DataError(f"{wrong}: its lists differ in length from the others of {item.group!r}")
            lengths[item.group] = own
        yield item.name, torch.from_numpy(np.require(_values(wrong, item, array), requirements=["C", "W"]))
    for group, own in lengths.items():
        yield f"lengths.{group}", torch.from_numpy(own)


def _values(wrong: str, item: Input, array: pa.Array) -> NDArray[Any]:
    """Raises DataError, whose message begins with `wrong`."""
    if item.pretrained is not None:
        return _pretrained(wrong, item.pretrained, array)
    if item.kind == "number":
        return np.asarray(pc.fill_null(array.cast(pa.float64()), float("nan")))
    if item.rows_of is not None:  # which gives row 0 to null
        return item.rows_of(array if item.group is None else array.flatten())
    flat = array if item.kind == "ids" else array.flatten()
    if array.null_count or flat.null_count:
        raise DataError(f"{wrong}: null where a value is needed. Fill it in.")
    if item.kind == "vector":
        return np.asarray(flat.cast(pa.float64())).reshape(len(array), -1)
    if item.kind == "weights":
        weights = np.asarray(flat.cast(pa.float32()))
        if not np.isfinite(weights).all():
            raise DataError(f"{wrong}: a weight is NaN or infinite. Correct it.")
        return weights
    return np.asarray(flat.cast(pa.int64()))


def _pretrained(wrong: str, item: PretrainedInput, array: pa.Array) -> NDArray[np.float32]:
    """(n, width + 1): the vector, and whether it is missing."""
    found = np.zeros((len(array), item.width + 1), np.float32)
    if item.frozen is not None:
        positions = item.frozen.positions(array)
        there = positions >= 0
        found[there, :-1] = item.frozen.vectors[positions[there]]
    else:
        there = ~np.asarray(array.is_null())
        lengths = np.asarray(pc.fill_null(pc.list_value_length(array), item.width))
        if (lengths != item.width).any():
            raise DataError(f"{wrong}: lists of {item.width} numbers, or null, are needed.")
        vectors = np.asarray(pc.fill_null(array.flatten().cast(pa.float32()), float("nan")))
        found[there, :-1] = vectors.reshape(-1, item.width)
        if not np.isfinite(found).all():
            raise DataError(f"{wrong}: NaN, null or infinite within a vector. Write null for the whole vector.")
    found[:, -1] = ~there
    return found
