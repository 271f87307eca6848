"""The log and its side tables as columns of one length, in order of time."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from home_dist.errors import DataError
from home_dist.prepare.asof import Ints
from home_dist.prepare.generic.spec import LogSpec
from home_dist.prepare.vocabulary import Keys, missing

_PER_MS = {"s": 0.001, "ms": 1, "us": 1000}


class Columns:
    """Columns by name, each (N,) rows; those of side tables as if the log had them."""

    def __init__(self, table: pa.Table, name: str):
        self.table, self.name = table, name

    def __len__(self) -> int:
        return self.table.num_rows

    def column(self, name: str) -> pa.Array:
        if name not in self.table.column_names:
            there = ", ".join(self.table.column_names[:40])
            raise DataError(f"{self.name}: column {name!r} is missing; there are: {there}. Correct the description.")
        return self.table.column(name).combine_chunks()

    def keys(self, name: str) -> Keys:
        """Whole numbers, -1 where missing, or texts, empty where missing."""
        column = self.column(name)
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        if pa.types.is_integer(column.type) or pa.types.is_boolean(column.type):
            return np.asarray(pc.fill_null(column.cast(pa.int64()), -1))
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            return np.asarray(pc.fill_null(column, "").to_pylist(), dtype=np.str_)
        raise self.wrong(name, column.type, "whole numbers or texts")

    def codes(self, name: str) -> Ints:
        """A number per distinct value, -1 where missing."""
        keys = self.keys(name)
        numbers = np.unique(keys, return_inverse=True)[1].astype(np.int64)
        numbers[missing(keys)] = -1
        return numbers

    def numbers(self, name: str) -> NDArray[np.float64]:
        """NaN where missing."""
        column = self.column(name)
        if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type) or pa.types.is_boolean(column.type)):
            raise self.wrong(name, column.type, "numbers")
        return np.asarray(pc.fill_null(column.cast(pa.float64()), np.nan))

    def lists(self, name: str, separator: str | None) -> tuple[Keys, Ints]:
        """Values of all rows one after another, and bounds of the rows (N + 1,)."""
        column = self.column(name)
        if separator is not None:
            if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
                raise self.wrong(name, column.type, "texts, as it has a separator")
            column = pc.split_pattern(pc.fill_null(column, ""), separator)
        column = pc.fill_null(column, [])
        values, bounds = column.flatten(), np.asarray(column.offsets).astype(np.int64)
        flat = Columns(pa.table({name: pc.utf8_trim_whitespace(values) if separator is not None else values}), self.name)
        keys = flat.keys(name)
        there = ~missing(keys)
        return keys[there], np.concatenate([[0], np.cumsum(there)])[bounds - bounds[0]]

    def is_list(self, name: str) -> bool:
        return pa.types.is_list(self.column(name).type) or pa.types.is_large_list(self.column(name).type)

    def wrong(self, name: str, found: pa.DataType, needed: str) -> DataError:
        return DataError(f"{self.name}: column {name!r} has type {found}, but {needed} are needed. Correct it or leave it out.")


def read_log(spec: LogSpec, folder: Path) -> tuple[Columns, Ints]:
    """The log joined with its side tables, in order of time, and the times (N,) in milliseconds. Raises DataError."""
    table = _read(_files(folder, spec.log))
    if not table.num_rows:
        raise DataError(f"{spec.log}: the log holds no rows.")
    log = Columns(table, spec.log)
    for side in spec.side:
        joined = Columns(_read(_files(folder, side.files)), side.files)
        own, wanted = joined.keys(side.key), log.keys(side.key)
        if own.dtype.kind != wanted.dtype.kind:
            raise DataError(
                f"{side.files}: column {side.key!r} has type {joined.column(side.key).type}, in the log it has type "
                f"{log.column(side.key).type}. Both must be whole numbers, or both texts."
            )
        values, counts = np.unique(own, return_counts=True)
        if len(values) and counts.max() > 1:
            raise DataError(
                f"{side.files}: {side.key} = {values[counts.argmax()]} stands {counts.max()} times; once is needed."
            )
        order = np.argsort(own, kind="stable")
        at = np.minimum(np.searchsorted(own, wanted, sorter=order), max(0, len(own) - 1))
        rows = pa.array(order[at], mask=own[order[at]] != wanted) if len(own) else pa.nulls(len(log), pa.int64())
        taken = joined.table.take(rows)
        for name in taken.column_names:
            if name == side.key:
                continue
            if name in table.column_names:
                raise DataError(f"{side.files}: column {name!r} is in the log or another side table too. Rename one of them.")
            table = table.append_column(name, taken.column(name))
        log = Columns(table, spec.log)
    times = _times(log, spec)
    order = np.lexsort((log.codes(spec.user), times))
    return Columns(table.take(order), spec.log), times[order]


def _times(log: Columns, spec: LogSpec) -> Ints:
    column = log.column(spec.time)
    if column.null_count:
        raise DataError(f"{spec.log}: column {spec.time!r} has {column.null_count:,} empty values; each row needs a time.")
    if pa.types.is_timestamp(column.type):
        return np.asarray(column.cast(pa.timestamp("ms"), safe=False).cast(pa.int64()))
    if not pa.types.is_integer(column.type):
        raise log.wrong(spec.time, column.type, "whole numbers or timestamps")
    times = (np.asarray(column.cast(pa.int64())) / _PER_MS[spec.time_unit]).astype(np.int64)
    if times.min() < 0 or times.max() > 4_102_444_800_000:  # the year 2100
        raise DataError(
            f"{spec.log}: column {spec.time!r} holds {np.asarray(column)[times.argmax()]}, which is no time since 1970 in "
            f"{spec.time_unit}. Set time_unit to s, ms or us."
        )
    return times


def _files(folder: Path, pattern: str) -> list[Path]:
    path = Path(pattern)
    found = sorted(path.parent.glob(path.name) if path.is_absolute() else folder.glob(pattern))
    if not found:
        raise DataError(f"{folder / pattern}: no such file. Correct the path in the description.")
    return found


def _read(paths: Iterable[Path]) -> pa.Table:
    tables = []
    for path in paths:
        try:
            if path.stat().st_size == 0:
                raise DataError(f"{path}: the file is empty (0 bytes). Fetch it again or move it away.")
            tables.append(pq.read_table(path) if path.suffix == ".parquet" else pacsv.read_csv(path))
        except (pa.ArrowInvalid, OSError) as error:
            reason = str(error).splitlines()[0]
            raise DataError(f"{path}: cannot be read ({reason}). It may be truncated or of another format.") from None
    try:
        return pa.concat_tables(tables, promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise DataError(f"{', '.join(map(str, paths))}: the files' columns differ: {str(error).splitlines()[0]}") from None
