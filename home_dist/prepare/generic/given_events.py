"""Events of a [[history]] that another table, or a column of the log, gives: read, checked, and sent to users' partitions.

A flat table has a row per event. Lists of structs are flattened: their events belong to their row.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from home_dist.errors import DataError
from home_dist.ids.arrow_types import is_list, is_number
from home_dist.ids.keys import KeyType, key_type, missing
from home_dist.prepare.asof import Ints, last_positions
from home_dist.prepare.engine.spill import write_parts
from home_dist.prepare.generic import columns as c
from home_dist.prepare.generic.events_section import EventsSection
from home_dist.prepare.generic.log_files import Chunk, read_chunk
from home_dist.prepare.generic.log_plan import Plan, parts_of_users, user_hashes
from home_dist.prepare.generic.log_sections import HistorySection
from home_dist.prepare.generic.log_spec import LogSpec

EVENTS = "events.arrow"
_SLICE = 1024  # events among which a wrong one is looked for


def event_types(history: HistorySection, types: Mapping[str, pa.DataType], where: str) -> dict[str, pa.DataType]:
    """The types of what is read of events, by name. types: of the columns of the table that holds them. Raises DataError."""
    events, named = history.given, types
    if events.column is not None:
        kind = types.get(events.column)
        if kind is None or not is_list(kind) or not pa.types.is_struct(kind.value_type):
            told = "is missing" if kind is None else f"has type {kind}"
            raise DataError(
                f"{where}: column {events.column!r} of history {history.name!r} {told}; a list of structs is needed."
            )
        named = {part.name: c.plain(part.type) for part in kind.value_type}
    for name in events.needed(history.fields):
        if name not in named:
            what = "column" if events.column is None else f"field of column {events.column!r}:"
            raise DataError(f"{where}: history {history.name!r}: {what} {name!r} is missing; there are: {', '.join(named)}.")
    return {name: named[name] for name in events.needed(history.fields)}


def check_events(history: HistorySection, types: Mapping[str, pa.DataType], keys: Mapping[str, KeyType], where: str) -> None:
    """types: as `event_types` tells them; keys: by field, the type of the [[id]]'s keys. Raises DataError."""
    events = history.given
    for field in history.fields:
        kind = types[events.source_of(field)]
        if key_type(kind) != keys[field] and not pa.types.is_null(kind):
            wanted = {"integer": "whole numbers", "text": "texts"}[keys[field]]
            raise DataError(
                f"{where}: history {history.name!r}: {events.source_of(field)!r} has type {kind}, but [[id]] {field!r} holds "
                f"{wanted}."
            )
    for name in events.outcomes:
        if not is_number(types[name]):
            raise DataError(
                f"{where}: history {history.name!r}: outcome {name!r} has type {types[name]}, but 0 and 1 are needed."
            )
    if events.time is not None and not c.is_time(types[events.time]):
        raise DataError(
            f"{where}: history {history.name!r}: time {events.time!r} has type {types[events.time]}, which is no time."
        )


def scan_events(plan: Plan, number: int, chunk: Chunk, types: dict[str, pa.DataType], folder: Path) -> None:
    """Sends the events of a chunk of the other table of [[history]] `number` to their users' partitions."""
    history, spec = plan.spec.history[number], plan.spec
    events = history.given
    table = read_chunk(chunk, types)
    user = events.user or ""
    with c.named_keys(chunk.file.named, user, chunk.first + np.arange(len(table))):
        users = c.keys(table.column(user).combine_chunks())
    columns, owner = _flat(events, table, history)
    users = users.take(pa.array(owner))
    is_known = pa.array(~missing(users))
    users, owner = users.filter(is_known), owner[np.asarray(is_known)]
    read = _Events(history, spec, chunk, {n: v.filter(is_known) for n, v in columns.items()}, owner)
    told = pa.table({"user": users, "time": pa.array(read.times()), **read.keys(), **read.outcomes()})
    nowhere = np.zeros(len(told), np.int64)
    write_parts(folder / EVENTS, told, parts_of_users(user_hashes(users, nowhere, nowhere), plan.parts), plan.parts)


def list_column(number: int, part: str) -> str:
    """Column of a part of a row's own events while it is prepared."""
    return f"list{number}_{part}"


def lists_of_rows(spec: LogSpec, number: int, table: pa.Table, chunk: Chunk, row: Ints, time: Ints) -> dict[str, pa.Array]:
    """(N,) lists of the events that a column of the log gives for its rows: the newest `most` of those before the row's time,
    in order of time. row, time: (N,) of the rows; row counts within the chunk's file."""
    history = spec.history[number]
    columns, owner = _flat(history.given, table, history)
    read = _Events(history, spec, chunk, columns, owner, row)
    parts: dict[str, pa.Array] = {**read.keys(), **read.outcomes()}
    order = np.arange(len(owner))
    if history.given.time is not None:
        times = read.times()
        order = np.lexsort((times, owner))
        order = order[times[order] < time[owner[order]]]
        parts["time"] = pa.array(times)
    last = np.searchsorted(owner[order], np.arange(len(table)), side="right")
    first = np.searchsorted(owner[order], np.arange(len(table)), side="left")
    offsets, places = last_positions(first, last, history.most)
    index = pa.array(order[places])
    return {
        list_column(number, name): pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), values.take(index))
        for name, values in parts.items()
    }


def _flat(events: EventsSection, table: pa.Table, history: HistorySection) -> tuple[dict[str, pa.Array], Ints]:
    """((E,) what is read of each event, by name; (E,) the table's row that it belongs to)"""
    needed = events.needed(history.fields)
    if events.column is None:
        return {n: table.column(n).combine_chunks() for n in needed}, np.arange(len(table))
    lists = table.column(events.column).combine_chunks()
    owner = np.asarray(pc.list_parent_indices(lists)).astype(np.int64)
    structs = pc.list_flatten(lists)
    return {n: _plain(pc.struct_field(structs, n)) for n in needed}, owner


def _plain(values: pa.Array) -> pa.Array:
    return values.cast(c.plain(values.type))


class _Events:
    """Events of a chunk. Methods raise DataError, which names file, column, row and value."""

    def __init__(
        self,
        history: HistorySection,
        spec: LogSpec,
        chunk: Chunk,
        columns: Mapping[str, pa.Array],
        owner: Ints,
        row: Ints | None = None,
    ):
        """owner: (E,) place of each event's row in the chunk, or in `row`, which has places in the file."""
        self.history, self.events, self.spec, self.chunk, self.columns = history, history.given, spec, chunk, columns
        self.row = chunk.first + owner if row is None else row[owner]

    def _shown(self, name: str) -> str:
        return name if self.events.column is None else f"{self.events.column}.{name}"

    def times(self) -> Ints:
        """(E,) in ms since 1970."""
        name, unit = self.events.time or "", self.events.time_unit or self.spec.time_unit
        column, file, clock = self.columns[name], self.chunk.file.named, self.spec.unzoned
        dates = c.as_dates(column)
        try:
            if dates is None:
                return c.times(column, unit, file, self.chunk.first, self._shown(name), clock)
            # When on its day an event of a date was is unknown: at the day's first moment, it would enter histories of
            # impressions that it came after.
            next_days = pc.add(dates.cast(pa.int32()), pa.scalar(1, pa.int32())).cast(pa.date32())
            return c.times(next_days, unit, file, self.chunk.first, self._shown(name), clock) - 1
        except DataError:
            if self.events.column is None and len(self.row) == self.chunk.last - self.chunk.first:
                raise
            for first in range(0, len(column), _SLICE):
                self._tell(column.slice(first, _SLICE), first, unit)
            raise

    def _tell(self, column: pa.Array, first: int, unit: str) -> None:
        """Raises the error of the first wrong event of a slice, with the row that it belongs to."""
        file, name, clock = self.chunk.file.named, self._shown(self.events.time or ""), self.spec.unzoned
        try:
            c.times(column, unit, file, 0, name, clock)
        except DataError:
            for place in range(len(column)):
                c.times(column.slice(place, 1), unit, file, int(self.row[first + place]), name, clock)

    def keys(self) -> dict[str, pa.Array]:
        """(E,) each: keys by "id_" and the field's name."""
        found = {}
        for field in self.history.fields:
            name = self.events.source_of(field)
            column = self.columns[name]
            with c.named_keys(self.chunk.file.named, self._shown(name), self.row):
                # Nulls alone are keys of either type.
                found[f"id_{field}"] = column if pa.types.is_null(column.type) else c.keys(column)
        return found

    def outcomes(self) -> dict[str, pa.Array]:
        """(E,) each: 0 or 1, by "happened_" and the column's name; 0 where missing."""
        found = {}
        for name in self.events.outcomes:
            values = np.nan_to_num(c.numbers(self.columns[name]))
            bad = (values != 0) & (values != 1)
            if bad.any():
                raise DataError(
                    f"{self.chunk.file.named}: column {self._shown(name)!r} of history {self.history.name!r} holds "
                    f"{values[bad][0]:g} in row {int(self.row[bad][0]) + 1:,}; 0 or 1 is needed. Correct the file."
                )
            found[f"happened_{name}"] = pa.array(values.astype(np.int8))
        return found
