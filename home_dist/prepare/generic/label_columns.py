"""Labels of a chunk of the log, and durations. Raises DataError, which names label, column, file and row, for bad values."""

from collections.abc import Sequence
from typing import NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from home_dist.errors import DataError
from home_dist.ids.arrow_types import is_text
from home_dist.prepare.asof import Ints
from home_dist.prepare.generic import columns as c
from home_dist.prepare.generic.label_section import LabelSection
from home_dist.prepare.generic.log_files import Chunk
from home_dist.prepare.generic.log_plan import FILE_BITS, Plan
from home_dist.prepare.generic.names import duration_columns
from home_dist.prepare.sketch import Floats

Bools = NDArray[np.bool_]
_OR_UNKNOWN = 'Correct it, or set the label\'s bad = "unknown".'
_NAMED = 20  # classes that a message names


def in_file(row: Ints, bad: Bools) -> int:
    """Place in its file, from 1 on, of the first bad row. row: (N,) numbers of rows."""
    return (int(row[int(np.argmax(bad))]) & ((1 << FILE_BITS) - 1)) + 1


def value_column(section: LabelSection) -> str:
    """Column of a label while it is prepared."""
    return f"{'happened' if section.kind == 'binary' else 'value'}_{section.name}"


def label_columns(plan: Plan, table: pa.Table, chunk: Chunk, row: Ints) -> dict[str, pa.Array]:
    """(N,) each: of every label its value, 0 where unknown, and known_NAME; and durations, null where they are none. A label
    whose columns the log lacks is unknown."""
    columns: dict[str, pa.Array] = {}
    owners = duration_columns(plan.spec.label)
    for section in plan.spec.label:
        read = _Read(section, table, chunk, row)
        values, known = read.label()
        columns[value_column(section)] = pa.array(values)
        columns[f"known_{section.name}"] = pa.array(known.astype(np.int8))
        if section.duration is not None:
            durations = read.durations()
            columns[owners[section.name]] = pa.array(durations, mask=np.isnan(durations))
    return columns


def durations_of(section: LabelSection, column: pa.Array) -> NDArray[np.float32]:
    """(n,) durations in the label's unit, NaN where the column's is null, not finite or not above 0."""
    durations = _as_float32(c.numbers(column) * section.duration_factor)
    return np.where(np.isfinite(durations) & (durations > 0), durations, np.float32(np.nan))


class _Read:
    """A label's columns in a chunk."""

    def __init__(self, section: LabelSection, table: pa.Table, chunk: Chunk, row: Ints):
        self.section, self.table, self.chunk, self.row = section, table, chunk, row

    def label(self) -> tuple[NDArray, Bools]:
        """(N,) values, 0 where unknown; (N,) whether they are known."""
        section = self.section
        needed = {section.column, section.known or section.column, section.duration or section.column}
        column = pa.nulls(len(self.table))
        if needed <= set(self.table.column_names):
            column = self._column(section.column)
            if is_text(column.type) and "" not in section.class_values:  # CSV has no other sign for null
                column = pc.if_else(pc.equal(column, ""), None, column)
        known = ~np.asarray(column.is_null())
        if section.known is not None and known.any():
            known &= c.numbers(self._column(section.known)) > 0
        if section.kind == "binary":
            return self._binary(column, known)
        values, bad = self._class(column, known) if section.kind == "multiclass" else self._number(column, known)
        if section.duration is not None and section.duration in self.table.column_names:
            bad |= self._without_duration(known & ~bad)
        known = known & ~bad
        return np.where(known, values, 0).astype(values.dtype), known

    def durations(self) -> NDArray[np.float32]:
        """(N,) NaN where the duration is null, not finite or not above 0."""
        name = self.section.duration
        if name is None or name not in self.table.column_names:
            return np.full(len(self.table), np.nan, np.float32)
        return durations_of(self.section, self._column(name))

    def _column(self, name: str) -> pa.Array:
        return self.table.column(name).combine_chunks()

    def _binary(self, column: pa.Array, known: Bools) -> tuple[NDArray[np.int8], Bools]:
        section, values = self.section, c.numbers(column)
        known = known & ~np.isnan(values)
        if section.at_least is not None:
            return ((values >= section.at_least) & known).astype(np.int8), known
        bad = known & (values != 0) & (values != 1)
        if bad.any():
            self._fail(bad, f"{values[bad][0]:g}", "0 or 1", "For a threshold, set the label's at_least.")
        return ((values == 1) & known).astype(np.int8), known

    def _number(self, column: pa.Array, known: Bools) -> tuple[NDArray[np.float32], Bools]:
        """(N,) values; (N,) which of the known ones cannot be the label."""
        section, raw = self.section, c.numbers(column)
        values = _as_float32(raw * section.scale)
        bad = ~np.isfinite(values)
        if section.kind != "regression":
            bad |= ~(values >= 0)
        bad &= known
        if bad.any() and section.bad == "fail":
            self._fail(bad, f"{raw[bad][0]:g}", "a finite number" + (" >= 0" if section.kind != "regression" else ""))
        return values if section.cap is None else np.minimum(values, np.float32(section.cap)), bad

    def _class(self, column: pa.Array, known: Bools) -> tuple[NDArray[np.integer], Bools]:
        """As `_number`."""
        wanted = self.section.class_values
        if isinstance(wanted[0], str):
            place = np.asarray(pc.fill_null(pc.index_in(column.cast(pa.string()), value_set=pa.array(wanted)), -1))
        else:
            numbers, values = c.numbers(column), np.asarray(wanted, np.float64)
            order = np.argsort(values)
            at = order[np.minimum(np.searchsorted(values, numbers, sorter=order), len(values) - 1)]
            place = np.where(values[at] == numbers, at, -1)
        bad = known & (place < 0)
        if bad.any() and self.section.bad == "fail":
            self._fail(bad, repr(column[int(np.argmax(bad))].as_py()), _one_of(self.section))
        return place.astype(np.int8 if len(wanted) <= 128 else np.int16), bad

    def _without_duration(self, known: Bools) -> Bools:
        bad = known & np.isnan(self.durations())
        if bad.any() and self.section.bad == "fail":
            value = self._column(self.section.duration or "")[int(np.argmax(bad))].as_py()
            raise DataError(
                f"{self.chunk.file.named}: column {self.section.duration!r}, the duration of label {self.section.name!r}, "
                f"holds {'null' if value is None else value} in row {in_file(self.row, bad):,}; a number above 0 is needed. "
                f"{_OR_UNKNOWN}"
            )
        return bad

    def _fail(self, bad: Bools, value: str, needed: str, what_to_do: str = _OR_UNKNOWN) -> NoReturn:
        raise DataError(
            f"{self.chunk.file.named}: column {self.section.column!r} of label {self.section.name!r} holds {value} in row "
            f"{in_file(self.row, bad):,}; {needed} is needed. {what_to_do}"
        )


def _one_of(section: LabelSection) -> str:
    if isinstance(section.classes, int):
        return f"a whole number from 0 to {section.classes - 1}"
    listed: Sequence[object] = section.class_values
    more = f" and {len(listed) - _NAMED} more" if len(listed) > _NAMED else ""
    return f"one of {', '.join(map(repr, listed[:_NAMED]))}{more}"


def _as_float32(values: Floats) -> NDArray[np.float32]:
    with np.errstate(over="ignore", invalid="ignore"):
        return values.astype(np.float32)


def check_types(types: c.Types, labels: Sequence[LabelSection], labels_needed: bool) -> None:
    """Raises DataError for a label's column that is missing or of a wrong type. labels_needed: they must be there."""
    for section in labels:
        of_texts = bool(section.class_values) and isinstance(section.class_values[0], str)
        for name in (section.column, section.known, section.duration):
            if name is None or not (labels_needed or name in types.types):
                continue
            if name != section.column or not of_texts:
                types.number(name)
            elif not (is_text(types.of(name)) or pa.types.is_null(types.of(name))):
                raise types.wrong(name, f"texts, as the classes of label {section.name!r} are,")
