"""Columns of a part of the log, as the steps need them; types are those that the whole log's files agree on."""

from collections.abc import Mapping
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from home_dist.errors import DataError
from home_dist.prepare.asof import Ints

_PER_MS = {"s": 0.001, "ms": 1, "us": 1000}
_LATEST_MS = 4_102_444_800_000  # the year 2100

Shape = Literal["key", "list", "number", "time"]


class Types:
    """What columns there are, of which types, in the log and its side tables. Raises DataError for what does not fit."""

    def __init__(self, log: str, types: Mapping[str, pa.DataType], odd: Mapping[str, str] | None = None):
        """odd: by column, which file has another type than most."""
        self.log, self.types, self.odd = log, dict(types), odd or {}

    def of(self, name: str) -> pa.DataType:
        if name not in self.types:
            there = ", ".join(list(self.types)[:40])
            raise DataError(f"{self.log}: column {name!r} is missing; there are: {there}. Correct the description.")
        return self.types[name]

    def is_list(self, name: str) -> bool:
        return pa.types.is_list(self.of(name)) or pa.types.is_large_list(self.of(name))

    def key(self, name: str, kind: pa.DataType | None = None) -> pa.DataType:
        """int64 or string, as the keys of a column are kept. kind: of its values, if it holds lists or texts to be split."""
        kind = self.of(name) if kind is None else kind
        if pa.types.is_integer(kind) or pa.types.is_boolean(kind):
            return pa.int64()
        if is_text(kind):
            return pa.string()
        raise self.wrong(name, "whole numbers or texts")

    def list_key(self, name: str, separator: str | None) -> pa.DataType:
        if separator is None:
            return self.key(name, self.of(name).value_type)
        if not is_text(self.of(name)):
            raise self.wrong(name, "texts, as it has a separator")
        return pa.string()

    def number(self, name: str) -> None:
        if not is_number(self.of(name)):
            raise self.wrong(name, "numbers")

    def time(self, name: str) -> None:
        if not (pa.types.is_timestamp(self.of(name)) or pa.types.is_integer(self.of(name))):
            raise self.wrong(name, "whole numbers or timestamps")

    def wrong(self, name: str, needed: str) -> DataError:
        where = f" ({self.odd[name]})" if name in self.odd else ""
        return DataError(
            f"{self.log}: column {name!r} has type {self.of(name)}{where}, but {needed} are needed. Correct it or leave it out."
        )


def is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)


def plain(kind: pa.DataType) -> pa.DataType:
    """Without dictionaries, which differ from file to file."""
    if pa.types.is_list(kind):
        return pa.list_(plain(kind.value_type))
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def keys(column: pa.Array) -> pa.Array:
    """(n,) int64, -1 where missing, or strings, empty where missing."""
    if is_text(column.type):
        return pc.fill_null(column.cast(pa.string()), "")
    return pc.fill_null(column.cast(pa.int64()), -1)


def missing(values: pa.Array) -> NDArray[np.bool_]:
    """(n,) which keys stand for a missing value: negative numbers and empty texts."""
    return np.asarray(pc.equal(values, "") if is_text(values.type) else pc.less(values, 0))


def codes(*columns: pa.Array) -> Ints:
    """(n,) a number per distinct combination of keys (n,); -1 where any of them is missing."""
    combined, absent = np.zeros(len(columns[0]), np.int64), np.zeros(len(columns[0]), np.bool_)
    for column in columns:
        encoded = column.dictionary_encode()
        combined = combined * len(encoded.dictionary) + np.asarray(encoded.indices)
        if len(columns) > 1:  # small again, so that a further column cannot overflow it
            combined = np.unique(combined, return_inverse=True)[1].astype(np.int64)
        absent |= missing(column)
    combined[absent] = -1
    return combined


def lists(column: pa.Array, separator: str | None) -> pa.ListArray:
    """(n,) lists of keys, without the missing ones."""
    if separator is not None:
        column = pc.split_pattern(pc.fill_null(column, ""), separator)
    column = pc.fill_null(column, [])
    values, bounds = column.flatten(), np.asarray(column.offsets).astype(np.int64)
    flat = keys(pc.utf8_trim_whitespace(values) if separator is not None else values)
    there = ~missing(flat)
    ends = np.concatenate([[0], np.cumsum(there)])[bounds - bounds[0]]
    return pa.ListArray.from_arrays(pa.array(ends, pa.int32()), flat.filter(pa.array(there)))


def numbers(column: pa.Array) -> NDArray[np.float64]:
    """(n,), NaN where missing."""
    return np.asarray(pc.fill_null(column.cast(pa.float64()), np.nan))


def times(column: pa.Array, unit: str, file: str, first: int, name: str, local_ms: int = 0) -> Ints:
    """(n,) milliseconds since 1970, of rows `first` and on of a file. local_ms: how far timestamps without a zone are ahead of
    UTC. Raises DataError."""
    if column.null_count:
        row = first + int(np.argmax(np.asarray(column.is_null()))) + 1
        raise DataError(
            f"{file}: column {name!r} has {column.null_count:,} empty values, the first in row {row:,}; each row needs a time."
        )
    if pa.types.is_timestamp(column.type):
        moments = np.asarray(column.cast(pa.timestamp("ms", column.type.tz), safe=False).cast(pa.int64()))
        return moments if column.type.tz is not None else moments - local_ms
    found = (np.asarray(column.cast(pa.int64())) / _PER_MS[unit]).astype(np.int64)
    if len(found) and (found.min() < 0 or found.max() > _LATEST_MS):
        bad = int(np.argmax((found < 0) | (found > _LATEST_MS)))
        raise DataError(
            f"{file}: column {name!r} holds {np.asarray(column)[bad]} in row {first + bad + 1:,}, which is no time since 1970 "
            f"in {unit}. Set time_unit to s, ms or us, or correct the file."
        )
    return found
