"""Converts columns of a part of the log. Types are those that all files of the log agree on."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from home_dist.errors import DataError
from home_dist.ids.arrow_numpy import filled
from home_dist.ids.arrow_types import is_list, is_number, is_text
from home_dist.ids.keys import KeyType, NotKeys, as_keys, key_type, missing
from home_dist.prepare.asof import Ints
from home_dist.prepare.days import timestamp_ms
from home_dist.prepare.generic.log_sections import IdSection, NumberSection
from home_dist.prepare.local_clock import LocalClock

_PER_MS = {"s": 0.001, "ms": 1, "us": 1000}
_LATEST_MS = 4_102_444_800_000  # the year 2100
_ZONE = re.compile(r"(Z|z|[+-]\d{2}(:?\d{2})?)$")
_DATE_LETTERS = len("2024-01-31")
_SLICE = 1024  # texts among which a wrong one is looked for


class Types:
    """Columns of the log and its side tables, with their types. Methods raise DataError for a type that does not fit."""

    def __init__(self, log: str, types: Mapping[str, pa.DataType], odd: Mapping[str, str] | None = None):
        """odd: by column, the file whose type differs from most files'."""
        self.log, self.types, self.odd = log, dict(types), odd or {}

    def of(self, name: str) -> pa.DataType:
        if name not in self.types:
            names = ", ".join(list(self.types)[:40])
            raise DataError(f"{self.log}: column {name!r} is missing; there are: {names}. Correct the description.")
        return self.types[name]

    def is_list(self, name: str) -> bool:
        return is_list(self.of(name))

    def key(self, name: str, kind: pa.DataType | None = None) -> KeyType:
        """Type of a column's keys. kind: type of its values, if it holds lists or texts to be split."""
        wanted_type = key_type(self.of(name) if kind is None else kind)
        if wanted_type is None:
            raise self.wrong(name, "whole numbers or texts")
        return wanted_type

    def id_key(self, section: IdSection) -> KeyType:
        """Type of the keys of an [[id]], with one value per row or several."""
        if section.separator is not None and not is_text(self.of(section.column)):
            raise self.wrong(section.column, "texts, as it has a separator")
        return self.key(section.column, self.of(section.column).value_type if self.is_list(section.column) else None)

    def is_unsigned(self, name: str) -> bool:
        """Whether a column's keys are unsigned integers of 64 bits."""
        kind = self.of(name)
        return pa.types.is_uint64(kind.value_type if self.is_list(name) else kind)

    def number(self, name: str) -> None:
        if not is_number(self.of(name)):
            raise self.wrong(name, "numbers")

    def time(self, name: str) -> None:
        if not is_time(self.of(name)):
            raise self.wrong(name, "whole numbers, timestamps, dates or ISO 8601 texts")

    def wrong(self, name: str, needed: str) -> DataError:
        where = f" ({self.odd[name]})" if name in self.odd else ""
        return DataError(
            f"{self.log}: column {name!r} has type {self.of(name)}{where}, but {needed} are needed. Correct it or leave it out."
        )


@contextmanager
def named_keys(file: str, column: str, row: Ints) -> Iterator[None]:
    """Raises DataError with file, column and row for values that are no keys. row: (N,) places in the file of the values looked
    at, from 0 on."""
    try:
        yield
    except NotKeys as error:
        place = int(row[int(np.argmax(error.bad))]) + 1
        raise DataError(f"{file}: column {column!r} in row {place:,}: {error.problem}. Correct the file.") from None


def is_time(kind: pa.DataType) -> bool:
    """Whether `times` reads a column of this type."""
    return pa.types.is_timestamp(kind) or pa.types.is_date(kind) or pa.types.is_integer(kind) or is_text(kind)


def plain(kind: pa.DataType) -> pa.DataType:
    """The type without dictionary encoding, which differs from file to file; all sorts of lists become list. Views become
    texts: Arrow computes little with them."""
    if is_list(kind):
        return pa.list_(plain(kind.value_type))
    if pa.types.is_string_view(kind):
        return pa.string()
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def plain_table(table: pa.Table) -> pa.Table:
    """With plain types."""
    return table.cast(pa.schema([field.with_type(plain(field.type)) for field in table.schema]))


def keys(column: pa.Array) -> pa.Array:
    """(n,) keys as `as_keys` makes them, null where missing. The empty text is missing, too: CSV has no other sign for it.
    Raises NotKeys."""
    if is_text(column.type):
        return pc.if_else(pc.equal(column, ""), None, column).cast(pa.string())
    return as_keys(column, "integer")


def lists(column: pa.Array, separator: str | None) -> pa.ListArray:
    """(n,) lists of keys; missing keys are left out. Raises NotKeys."""
    if separator is not None:
        column = pc.split_pattern(pc.fill_null(column, ""), separator)
    column = pc.fill_null(column, [])
    values, bounds = column.flatten(), np.asarray(column.offsets).astype(np.int64)
    try:
        flat = keys(pc.utf8_trim_whitespace(values) if separator is not None else values)
    except NotKeys as error:
        owner = np.repeat(np.arange(len(column)), np.diff(bounds))
        raise NotKeys(error.problem, np.isin(np.arange(len(column)), owner[error.bad])) from None
    ends = np.concatenate([[0], np.cumsum(~missing(flat))])[bounds - bounds[0]]
    return pa.ListArray.from_arrays(pa.array(ends, pa.int32()), flat.drop_null())


def numbers(column: pa.Array) -> NDArray[np.float64]:
    """(n,), NaN where missing."""
    if pa.types.is_decimal(column.type) or pa.types.is_boolean(column.type) or pa.types.is_null(column.type):
        column = column.cast(pa.float64())
    # Not Arrow's cast, which refuses whole numbers that float64 rounds, from 2^53 on.
    return filled(column, np.nan).astype(np.float64)


def of_number(section: NumberSection, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n,) values of a [[number]] from those of its column; NaN where it has none."""
    with np.errstate(invalid="ignore", divide="ignore"):
        values = np.where(values >= 0, np.log1p(values), np.nan) if section.log else values
    return np.where(np.isfinite(values), values, np.nan)


def times(column: pa.Array, unit: str, file: str, first: int, name: str, clock: LocalClock | None = None) -> Ints:
    """(n,) milliseconds since 1970. first: row of the file where the column begins, for messages. clock: that shows timestamps
    without a zone; by default UTC's. Raises DataError."""
    if column.null_count:
        row = first + int(np.argmax(np.asarray(column.is_null()))) + 1
        raise DataError(
            f"{file}: column {name!r} has {column.null_count:,} empty values, the first in row {row:,}; each row needs a time."
        )
    if is_text(column.type):
        column = _timestamps(column, file, first, name)
    elif pa.types.is_date(column.type):
        column = column.cast(pa.timestamp("ms"))
    if pa.types.is_timestamp(column.type):
        zoned = timestamp_ms(column)
        return zoned if column.type.tz is not None or clock is None else clock.moments(zoned)
    moments = (np.asarray(column.cast(pa.int64())) / _PER_MS[unit]).astype(np.int64)
    if len(moments) and (moments.min() < 0 or moments.max() > _LATEST_MS):
        bad = int(np.argmax((moments < 0) | (moments > _LATEST_MS)))
        raise DataError(
            f"{file}: column {name!r} holds {np.asarray(column)[bad]} in row {first + bad + 1:,}, which is no time since 1970 "
            f"in {unit}. Set time_unit to s, ms or us, or correct the file."
        )
    return moments


def as_dates(column: pa.Array) -> pa.Array | None:
    """(n,) dates, of dates or of texts such as 2024-01-31; None for a column that tells more of a time."""
    if pa.types.is_date(column.type):
        return column.cast(pa.date32())
    if not is_text(column.type) or not pc.all(pc.equal(pc.utf8_length(column), _DATE_LETTERS)).as_py():
        return None
    try:
        return column.cast(pa.date32())
    except pa.ArrowInvalid:
        return None


def _timestamps(column: pa.Array, file: str, first: int, name: str) -> pa.Array:
    """(n,) timestamps of ISO 8601 texts, which all have a zone or all have none. Raises DataError."""
    found = as_timestamps(column)
    if found is not None:
        return found
    for begin in range(0, len(column), _SLICE):
        part = column.slice(begin, _SLICE)
        bad = next((n for n in range(len(part)) if as_timestamps(part.slice(n, 1)) is None), None)
        if bad is not None:
            raise DataError(
                f"{file}: column {name!r} holds {part[bad].as_py()!r} in row {first + begin + bad + 1:,}, which is no time "
                "as in ISO 8601: 2024-01-31 18:00:00, or with a zone 2024-01-31T18:00:00+08:00."
            )
        if as_timestamps(part) is None:
            break
    has_zone = np.array([bool(_ZONE.search(text.as_py())) for text in column])
    other = int(np.argmax(has_zone != has_zone[0]))
    raise DataError(
        f"{file}: column {name!r} holds times with a zone and times without one: {column[0].as_py()!r} in row {first + 1:,}, "
        f"{column[other].as_py()!r} in row {first + other + 1:,}. Write all in one way."
    )


def as_timestamps(texts: pa.Array) -> pa.Array | None:
    """None unless all are ISO 8601, all with a zone or all without."""
    for kind in (pa.timestamp("us", "UTC"), pa.timestamp("us")):
        try:
            return texts.cast(kind)
        except pa.ArrowInvalid:
            continue
    return None
