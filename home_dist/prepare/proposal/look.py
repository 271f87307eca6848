"""A look at a log: some rows of its first, middle and last file, and what they tell of each column."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.orc as paorc
import pyarrow.parquet as pq

from home_dist.errors import DataError
from home_dist.files.remote import SourceFile
from home_dist.ids.arrow_types import is_list, is_number, is_text
from home_dist.prepare.engine.mirror import source
from home_dist.prepare.formats.delimited import OTHER_DELIMITERS, first_line, first_rows
from home_dist.prepare.formats.format_section import FormatSection
from home_dist.prepare.formats.json_lines import first_objects
from home_dist.prepare.formats.unreadable import unreadable_file
from home_dist.prepare.generic.columns import as_timestamps, plain_table
from home_dist.prepare.generic.folder_columns import FolderValue, as_value, folder_types
from home_dist.prepare.generic.log_files import Beside

_ROWS = 200_000
"""Of each file, at most."""
_SHOWN = 3
_LONGEST = 24  # characters of a value that is shown
_EPOCHS = {"s": 1, "ms": 1000, "us": 1_000_000}
_YEAR_2000, _YEAR_2100 = 946_684_800, 4_102_444_800
_SEPARATORS = ("|", ",", ";", " ")


@dataclass(frozen=True)
class SeenColumn:
    """A column, as far as it was looked at."""

    name: str
    values: pa.ChunkedArray

    @cached_property
    def kind(self) -> pa.DataType:
        return self.values.type

    @cached_property
    def known(self) -> pa.ChunkedArray:
        return self.values.drop_null()

    @cached_property
    def distinct(self) -> int:
        """0 for values that cannot be compared."""
        return 0 if self.is_nested else int(pc.count_distinct(self.known).as_py())

    @property
    def is_nested(self) -> bool:
        return pa.types.is_nested(self.kind)

    @property
    def is_list_of_events(self) -> bool:
        return is_list(self.kind) and pa.types.is_struct(self.kind.value_type)

    @property
    def is_list_of_keys(self) -> bool:
        return is_list(self.kind) and (is_text(self.kind.value_type) or pa.types.is_integer(self.kind.value_type))

    @cached_property
    def is_binary(self) -> bool:
        """Of 0 and 1 alone."""
        if pa.types.is_boolean(self.kind):
            return True
        if not is_number(self.kind) or not len(self.known) or self.distinct > 2:
            return False
        return {float(v) for v in pc.unique(self.known).to_pylist()} <= {0.0, 1.0}

    @cached_property
    def numbers(self) -> np.ndarray:
        return np.asarray(self.known.cast(pa.float64(), safe=False))  # ids of 64 bits are rounded

    @cached_property
    def time_unit(self) -> str | None:
        """Of a column that may hold times: "" where its type tells; None: of no time."""
        if pa.types.is_timestamp(self.kind) or pa.types.is_date(self.kind):
            return ""
        if not len(self.known):
            return None
        if is_text(self.kind) and as_timestamps(self.known.slice(0, 1000)) is not None:
            return ""
        if pa.types.is_integer(self.kind):
            low, high = float(self.numbers.min()), float(self.numbers.max())
            return next((u for u, per in _EPOCHS.items() if low / per >= _YEAR_2000 and high / per <= _YEAR_2100), None)
        return None

    @cached_property
    def separator(self) -> str | None:
        """Between the values of a text that holds several: where splitting leaves fewer distinct ones."""
        if not is_text(self.kind) or not len(self.known):
            return None
        for separator in _SEPARATORS:
            holding = pc.sum(pc.match_substring(self.known, separator)).as_py() or 0
            if holding < len(self.known) / 5:
                continue
            parts = pc.unique(pc.list_flatten(pc.split_pattern(self.known, separator)))
            if len(parts.filter(pc.not_equal(parts, ""))) < self.distinct:
                return separator
        return None

    def told(self, rows: int) -> str:
        """In words: distinct values, how many are missing, some of them."""
        missing = (rows - len(self.known)) / rows if rows else 0.0
        shown = [_short(v) for v in pc.unique(self.known.slice(0, 1000)).to_pylist()[:_SHOWN]] if not self.is_nested else []
        parts = [f"{self.distinct:,} values" if not self.is_nested else str(self.kind)]
        parts += [f"{missing:.0%} missing"] if missing else []
        parts += [f"such as {', '.join(shown)}"] if shown else []
        return re.sub(r"[\x00-\x1f\x7f]", " ", ", ".join(parts))


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."


@dataclass(frozen=True)
class LogLook:
    rows: int
    columns: list[SeenColumn]
    format: FormatSection


def look_at(files: Sequence[SourceFile], beside: Beside, section: FormatSection) -> LogLook:
    """beside: columns that are not in the files. Raises DataError, ConfigError."""
    places = sorted({0, len(files) // 2, len(files) - 1})
    chosen = [files[place] for place in places]
    if section.kind_of(str(files[0])) == "csv":
        section = _with_delimiter(files[0], section)
    types = folder_types(beside.values, [str(f) for f in files], beside.types)
    tables = [_with_folders(_first(files[n], section), beside.values[n], types) for n in places]
    try:
        whole = pa.concat_tables([plain_table(t) for t in tables], promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise DataError(f"{chosen[0]} and others: columns differ in type: {str(error).splitlines()[0]}") from None
    if not len(whole):
        raise DataError(f"{chosen[0]}: holds no rows. Name files that do.")
    return LogLook(len(whole), [SeenColumn(name, whole[name]) for name in whole.column_names], section)


def _with_folders(table: pa.Table, values: Mapping[str, FolderValue], types: Mapping[str, pa.DataType]) -> pa.Table:
    for name, kind in types.items():
        if name not in table.column_names:
            value = values.get(name)
            column = pa.nulls(len(table), kind) if value is None else pa.repeat(as_value(value, kind), len(table))
            table = table.append_column(name, column)
    return table


def _with_delimiter(file: SourceFile, section: FormatSection) -> FormatSection:
    """With the delimiter that stands in the first line, if its usual one does not."""
    line = first_line(file, section)
    if section.delimiter_of(str(file)) in line:
        return section
    return next((FormatSection(delimiter=d) for d in OTHER_DELIMITERS if d in line), section)


def _first(file: SourceFile, section: FormatSection) -> pa.Table:
    kind = section.kind_of(str(file))
    try:
        if kind == "csv":
            return first_rows(file, section).slice(0, _ROWS)
        if kind == "json":
            return first_objects(file).slice(0, _ROWS)
        if kind == "orc":
            opened = paorc.ORCFile(source(file))
            return pa.Table.from_batches([opened.read_stripe(0)] if opened.nstripes else [], opened.schema).slice(0, _ROWS)
        parquet = pq.ParquetFile(source(file))
        return pa.Table.from_batches(list(islice(parquet.iter_batches(_ROWS), 1)), parquet.schema_arrow)
    except (pa.ArrowInvalid, OSError) as error:
        raise unreadable_file(file, error) from None
