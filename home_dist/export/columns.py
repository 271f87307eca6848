"""Parquet batches -> the inputs of a scoring program. No labels are needed."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from home_dist.errors import DataError


def parquet_files(path: Path) -> list[Path]:
    """Raises DataError."""
    files = sorted(path.rglob("*.parquet")) if path.is_dir() else [path] if path.is_file() else []
    if not files:
        raise DataError(f"{path}: no Parquet file is there. Name a file, or a folder with *.parquet files.")
    return files


def columns_of(inputs: dict[str, str | None]) -> list[str]:
    return sorted({name.partition(".")[2] for name in inputs if not name.startswith("lengths.")})


def read_batches(file: Path, inputs: dict[str, str | None], rows: int) -> Iterator[tuple[pa.Table, dict[str, torch.Tensor]]]:
    """Batches of at most `rows` rows with all of their columns, and as inputs. Raises DataError naming file and column."""
    try:
        opened = pq.ParquetFile(file)
        missing = sorted(set(columns_of(inputs)) - set(opened.schema_arrow.names))
        if missing:
            raise DataError(f"{file}: column {missing[0]!r} is missing; the program needs it.")
        for batch in opened.iter_batches(rows):
            table = pa.Table.from_batches([batch])
            yield table, dict(_tensors(file, table, inputs))
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{file}: it cannot be read: {str(error).splitlines()[0]}") from None


def _tensors(file: Path, table: pa.Table, inputs: dict[str, str | None]) -> Iterator[tuple[str, torch.Tensor]]:
    lengths: dict[str, np.ndarray[Any, Any]] = {}
    for name, group in inputs.items():
        kind, _, column = name.partition(".")
        if kind == "lengths":
            continue
        array = table.column(column).combine_chunks()
        array = array if isinstance(array, pa.Array) else array.chunk(0)
        if array.null_count and kind != "number":
            raise DataError(f"{file}: column {column!r}: null where a value is needed. Fill it in.")
        if kind == "ids":
            yield name, torch.from_numpy(np.array(array.cast(pa.int64())))
        elif kind == "number":
            values = pc.fill_null(array.cast(pa.float64()), float("nan"))
            yield name, torch.from_numpy(np.array(values))
        elif kind == "vector":
            flat = np.array(array.flatten().cast(pa.float64()))
            yield name, torch.from_numpy(flat.reshape(len(array), -1))
        else:
            own = np.array(pc.list_value_length(array).cast(pa.int64()))
            if group in lengths and not np.array_equal(own, lengths[group]):
                raise DataError(f"{file}: column {column!r}: its lists differ in length from the others of {group!r}")
            if group is not None:
                lengths[group] = own
            yield name, torch.from_numpy(np.array(array.flatten().cast(pa.int64())))
    for group, own in lengths.items():
        yield f"lengths.{group}", torch.from_numpy(own)
