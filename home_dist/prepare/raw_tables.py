"""Finds raw tables by name, reads them from CSV or Parquet, and checks their columns."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from home_dist.errors import DataError

Kind = Literal["integer", "number", "text", "integers"]

_TYPES: dict[Kind, pa.DataType] = {
    "integer": pa.int64(),
    "number": pa.float64(),
    "text": pa.string(),
    "integers": pa.list_(pa.int64()),
}
_WORDS = {"integer": "whole numbers", "number": "numbers", "text": "texts", "integers": "lists of whole numbers"}
_SUFFIXES = (".csv", ".csv.gz", ".parquet")


def find_files(folders: Sequence[Path], prefix: str) -> list[Path]:
    """Files named `prefix*` with one of the suffixes .csv, .csv.gz and .parquet, in the order of their names.

    Raises DataError when a table is there twice, as x.csv and x.csv.gz, say: its rows would count twice.
    """
    by_stem: dict[str, Path] = {}
    for folder in folders:
        for path in sorted(folder.glob(f"{prefix}*")):
            suffix = next((s for s in _SUFFIXES if path.name.endswith(s)), None)
            if suffix is None or not path.is_file():
                continue
            stem = path.name.removesuffix(suffix)
            if stem in by_stem:
                raise DataError(f"{path}: the same table lies in {by_stem[stem]}. Move one of the two away.")
            by_stem[stem] = path
    return [by_stem[stem] for stem in sorted(by_stem)]


def read_tables(paths: Sequence[Path], columns: Mapping[str, Kind], optional: Mapping[str, Kind] | None = None) -> pa.Table:
    """The concatenated rows of several files of one layout.

    Each file must have `columns`; an `optional` column is read if all files have it. Integers come as int64 without nulls,
    numbers as float64, texts as strings, lists as list<int64>. Raises DataError, which names file and column.
    """
    names = [_column_names(path) for path in paths]
    for path, file_columns in zip(paths, names, strict=True):
        missing = [c for c in columns if c not in file_columns]
        if missing:
            raise DataError(
                f"{path}: column {missing[0]!r} is missing; the file has: {', '.join(file_columns[:40])}. "
                "Use the published files, or add the column."
            )
    chosen = dict(columns)
    chosen.update({c: k for c, k in (optional or {}).items() if all(c in file_columns for file_columns in names)})
    parts = [_read(path, chosen) for path in paths]
    return pa.concat_tables(parts).combine_chunks()


def int_column(table: pa.Table, name: str) -> NDArray[np.int64]:
    """(rows,)"""
    return table.column(name).to_numpy()


def _column_names(path: Path) -> list[str]:
    _refuse_empty(path)
    try:
        if path.suffix == ".parquet":
            return pq.read_schema(path).names
        with pacsv.open_csv(path) as reader:
            return reader.schema.names
    except (pa.ArrowInvalid, OSError) as error:
        raise _unreadable(path, error) from None


def _refuse_empty(path: Path) -> None:
    if path.stat().st_size == 0:
        raise DataError(f"{path}: the file is empty (0 bytes). Fetch it again or move it away.")


def _unreadable(path: Path, error: Exception) -> DataError:
    reason = str(error).splitlines()[0]
    return DataError(f"{path}: cannot be read ({reason}). It may be truncated or of another format; fetch it again.")


def _read(path: Path, columns: Mapping[str, Kind]) -> pa.Table:
    types = {name: _TYPES[kind] for name, kind in columns.items()}
    try:
        if path.suffix == ".parquet":
            table = pq.read_table(path, columns=list(columns))
        else:
            options = pacsv.ConvertOptions(include_columns=list(columns), column_types=types, strings_can_be_null=True)
            table = pacsv.read_csv(path, convert_options=options)
    except (pa.ArrowInvalid, OSError) as error:
        named = _named_column(path, str(error))
        if named is None:
            raise _unreadable(path, error) from None
        reason = str(error).splitlines()[0]
        raise _wrong_kind(path, named, columns.get(named, "integer"), reason) from None
    return pa.table([_cast(path, table, name, kind) for name, kind in columns.items()], names=list(columns))


def _named_column(path: Path, message: str) -> str | None:
    """The column of an Arrow message, which names columns of CSV files by number; None if it names none."""
    number = re.search(r"CSV column #(\d+)", message)
    return _column_names(path)[int(number.group(1))] if number else None


def _wrong_kind(path: Path, name: str, kind: Kind, reason: str) -> DataError:
    return DataError(f"{path}: column {name!r} must hold {_WORDS[kind]} ({reason}). Correct the file or fetch it again.")


def _cast(path: Path, table: pa.Table, name: str, kind: Kind) -> pa.ChunkedArray:
    column = table.column(name)
    if kind in ("integer", "integers") and column.null_count:
        row = int(np.argmax(np.asarray(column.is_null())))
        raise DataError(
            f"{path}: column {name!r} has {column.null_count:,} empty values (first in row {row + 1}), "
            "but each row needs one. Fill in or drop these rows."
        )
    try:
        return column.cast(_TYPES[kind])
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise _wrong_kind(path, name, kind, str(error).splitlines()[0]) from None


def category_texts(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Category names that do not depend on the file's format: "4.0", "4" and 4 are one category."""
    return pc.replace_substring_regex(column.cast(pa.string()), r"^(-?\d+)\.0+$", r"\1")


def match_rows(wanted: NDArray[np.int64], keys: NDArray[np.int64]) -> NDArray[np.int64]:
    """(n,) first row of `keys` (rows,) that holds each wanted key (n,); -1 for keys without a row."""
    if not len(keys):
        return np.full(len(wanted), -1, np.int64)
    order = np.argsort(keys, kind="stable")
    at = np.minimum(np.searchsorted(keys, wanted, side="left", sorter=order), len(keys) - 1)
    rows = order[at]
    return np.where(keys[rows] == wanted, rows, -1)
