"""The log's columns as a request gives them: checked, and read as a preparation reads a log's."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from home_dist.errors import DataError
from home_dist.ids.arrow_types import is_list, is_number, is_text
from home_dist.ids.keys import KeyType, NotKeys, fits_key
from home_dist.prepare.asof import Ints
from home_dist.prepare.days import day_name
from home_dist.prepare.generic import columns as c
from home_dist.prepare.generic.given_events import check_events, event_types, lists_of_rows
from home_dist.prepare.generic.log_files import TYPES, Chunk, File
from home_dist.prepare.generic.log_sections import HistorySection, IdSection
from home_dist.prepare.generic.log_spec import LogSpec
from home_dist.prepare.generic.state import StateRecord

Given = Mapping[str, pa.Array]
"""Columns of the log, (n,) each, by name."""
REQUEST = Chunk(File(0, Path("request"), 0, "request", 0, 0), 0, 0)
"""Where the rows of a request stand, for messages."""
_WORDS = {"integer": "whole numbers", "text": "texts"}


class UnfitColumn(DataError):
    """A column of a request that is missing, or of another type or value than the log's."""

    def __init__(self, problem: str, column: str):
        super().__init__(f"column {column!r} {problem}")
        self.column = column


@dataclass(frozen=True)
class GivenReader:
    """Methods raise UnfitColumn."""

    spec: LogSpec
    record: StateRecord

    @property
    def begins_ms(self) -> int:
        """The first moment whose past can be told: that of the state's last day. Later events of that day are in no request's
        past, as they had not happened."""
        return self.spec.start_ms(self.record.end_day - 1)

    @property
    def ends_ms(self) -> int:
        """The end of the state's last day."""
        return self.spec.start_ms(self.record.end_day)

    def keys(self, given: Given, name: str) -> pa.Array:
        column, kind = given[name], self.record.key_types[name]
        if not fits_key(column.type, kind):
            raise UnfitColumn(f"has type {column.type}, but {_WORDS[kind]} are needed", name)
        if pa.types.is_null(column.type):
            return column.cast(TYPES[kind])
        return _read(name, lambda: c.keys(column))

    def ids(self, given: Given, section: IdSection) -> pa.Array:
        """(n,) keys of an [[id]], or lists of them."""
        name = section.column
        if section.separator is None and name not in self.record.lists:
            return self.keys(given, name)
        column, kind = given[name], self.record.key_types[name]
        whole = TYPES[kind] if section.separator is not None else pa.list_(TYPES[kind])
        if pa.types.is_null(column.type) or column.type == pa.list_(pa.null()):
            column = column.cast(whole)
        if not _fits(column.type, section, kind):
            needed = f"texts with {section.separator!r} between values" if section.separator else f"lists of {_WORDS[kind]}"
            raise UnfitColumn(f"has type {column.type}, but {needed} are needed", name)
        return _read(name, lambda: c.lists(column, section.separator))

    def numbers(self, given: Given, name: str) -> pa.Array:
        kind = given[name].type
        if not is_number(kind) and not pa.types.is_null(kind):
            raise UnfitColumn(f"has type {kind}, but numbers are needed", name)
        return given[name]

    def time(self, given: Given) -> Ints:
        """(n,) milliseconds since 1970."""
        name = self.spec.moment
        kind = given[name].type
        if not c.is_time(kind):
            raise UnfitColumn(f"has type {kind}, but whole numbers ({self.spec.time_unit}) or times are needed", name)
        try:
            return c.times(given[name], self.spec.time_unit, "request", 0, name, self.spec.unzoned)
        except DataError as error:
            raise UnfitColumn(f"holds what is no time: {error}", name) from None

    def lists(self, given: Given, number: int) -> tuple[dict[str, pa.Array], Ints]:
        """(lists of the events that a column gives for [[history]] `number`, by part; (n,) times of the rows)"""
        history = self.spec.history[number]
        column = str(history.given.column)
        values = given[column]
        time = np.zeros(len(values), np.int64) if self.spec.time is None else self.time(given)
        keys = {field: self.record.key_types[field] for field in history.fields}
        if pa.types.is_null(values.type) or (is_list(values.type) and pa.types.is_null(values.type.value_type)):
            values = pa.array(values.to_pylist(), self._events_type(history))  # of a user without events, say
        try:
            check_events(history, event_types(history, {column: values.type}, "request"), keys, "request")
            lists = lists_of_rows(self.spec, number, pa.table({column: values}), REQUEST, np.arange(len(values)), time)
        except DataError as error:
            raise UnfitColumn(f"holds no events: {error}", column) from None
        return {name.partition("_")[2]: found for name, found in lists.items()}, time

    def _events_type(self, history: HistorySection) -> pa.DataType:
        events = history.given
        kinds = {} if events.time is None else {events.time: pa.int64()}
        kinds |= {events.source_of(field): TYPES[self.record.key_types[field]] for field in history.fields}
        return pa.list_(pa.struct(kinds | dict.fromkeys(events.outcomes, pa.int8())))

    def later(self, given: Given) -> Ints:
        """The times, all of which lie where the past can be told."""
        moments = self.time(given)
        if len(moments) and moments.min() < self.begins_ms:
            day = day_name(self.record.end_day - 1)
            raise UnfitColumn(f"lies before {day}, the last day that the state knows: give a later time", self.spec.moment)
        return moments


def _fits(kind: pa.DataType, section: IdSection, wanted: KeyType) -> bool:
    if section.separator is not None:
        return is_text(kind)
    return is_list(kind) and fits_key(kind.value_type, wanted)


def _read(name: str, read: Callable[[], pa.Array]) -> pa.Array:
    try:
        return read()
    except NotKeys as error:
        raise UnfitColumn(f"holds no keys: {error.problem}", name) from None
