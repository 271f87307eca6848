"""Histories: events that were shown to the same user before each impression, those of earlier preparations included."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from home_dist.ids.keys import codes
from home_dist.ids.rows import RowsOf
from home_dist.prepare.asof import AsOf, Ints
from home_dist.prepare.days import DAY_MS, HOUR_MS
from home_dist.prepare.engine.spill import read_part
from home_dist.prepare.generic.given_events import list_column
from home_dist.prepare.generic.log_plan import flags, moments
from home_dist.prepare.generic.log_sections import HistorySection
from home_dist.prepare.generic.names import history_columns
from home_dist.prepare.write import list_array

AGE_BOUNDS_MS = tuple(int(h * HOUR_MS) for h in (1 / 6, 1, 6, 24, 72, 168, 720))


def history_file(number: int) -> str:
    """File of what is left of the [[history]] at index `number` of the description."""
    return f"history-{number}.parquet"


def event_columns(section: HistorySection) -> list[str]:
    """Columns of a user's event: keys of its fields, and the labels that tell something of it."""
    labels = dict.fromkeys([*section.told, *([section.only] if section.only else [])])
    return ["user", "time", *(f"id_{name}" for name in section.fields), *(f"happened_{name}" for name in labels)]


def with_earlier_events(section: HistorySection, table: pa.Table, earlier: Sequence[Path], part: int) -> pa.Table:
    """Events that an earlier preparation left, followed by the partition's rows; or those of another table, in `earlier`."""
    if section.reads_table:
        return read_part(earlier, part)
    own = table.select(event_columns(section))
    if not earlier:
        return own
    before = read_part(earlier, part).select(own.column_names)
    return pa.concat_tables([before, own.cast(before.schema)]).combine_chunks()


def kept_events(section: HistorySection, events: pa.Table, end_ms: int, forget_days: float | None) -> pa.Table:
    """The events that histories from the moment `end_ms` on can hold: the newest `most` of each user, in order of time."""
    owner = _owner(section, events, codes(events.column("user").combine_chunks()))
    distinct, first = np.unique(owner[owner >= 0], return_index=True)
    order = np.argsort(first, kind="stable")  # users in the order of their first events
    queries = AsOf(owner, moments(events), distinct[order], np.full(len(distinct), end_ms))
    queries = queries if forget_days is None else queries.forgetting(int(forget_days * DAY_MS))
    return events.take(pa.array(queries.latest(section.most)[1]))


def _owner(section: HistorySection, events: pa.Table, user: Ints) -> Ints:
    """(N,) code of the user whose history an event enters; -1 for events that enter none. user: (N,) codes."""
    return user if section.only is None else np.where(flags(events, f"happened_{section.only}") > 0, user, -1)


def outcomes_of(section: HistorySection, events: pa.Table) -> NDArray[np.int32] | None:
    """(N,) a bit per label, whether the event had it; None for a [[history]] without outcomes."""
    bits = [flags(events, f"happened_{name}").astype(np.int32) << place for place, name in enumerate(section.told)]
    return np.asarray(np.sum(bits, axis=0, dtype=np.int32)) if bits else None


def columns_of_events(
    section: HistorySection,
    values: Mapping[str, NDArray[np.int32]],
    event_time: Ints,
    time: Ints,
    offsets: Ints,
    index: Ints,
) -> dict[str, pa.ListArray]:
    """Columns (Q,) of the age and of the parts in `values`: (N,) each, of all events, at times event_time (N,); time: (Q,), at
    which ages are told; offsets: (Q + 1,); index: (offsets[-1],) events."""
    parts = {part: of_events[index] for part, of_events in values.items()}
    if section.has_age:
        passed = np.repeat(time, np.diff(offsets)) - event_time[index]
        parts["age"] = np.searchsorted(AGE_BOUNDS_MS, passed, side="right").astype(np.int32)
    return {column: list_array(parts[part], offsets) for part, column in history_columns(section).items() if part in parts}


class EncodedHistory:
    """A [[history]] of a partition. Its columns are made for a slice of rows at a time."""

    def __init__(
        self,
        section: HistorySection,
        events: pa.Table,
        table: pa.Table,
        encoders: Mapping[str, RowsOf],
        encoded: Mapping[str, pa.Array],
        forget_days: float | None,
    ):
        """events: as `with_earlier_events` returns them; table: the partition's rows, which are the last of the events unless
        these are of another table; encoders: by column; encoded: by column, (N,) rows of the partition's own events."""
        self._section = section
        before = len(events) if section.reads_table else len(events) - len(table)
        self._event_time, self._time = moments(events), moments(table)
        users = [events.column("user").slice(0, before), table.column("user")]
        user = codes(pa.chunked_array([chunk for column in users for chunk in column.chunks]).combine_chunks())
        owner = _owner(section, events, user[: len(events)])
        self._events = AsOf(owner, self._event_time, user[before:], self._time)
        if forget_days is not None:
            self._events = self._events.forgetting(int(forget_days * DAY_MS))
        self._values: dict[str, NDArray[np.int32]] = {}
        for name in section.fields:
            earlier = encoders[name](events.column(f"id_{name}").combine_chunks()[:before]).astype(np.int32)
            self._values[name] = earlier if section.reads_table else np.concatenate([earlier, np.asarray(encoded[name])])
        outcomes = outcomes_of(section, events)
        if outcomes is not None:
            self._values["outcome"] = outcomes

    def of(self, rows: Ints) -> dict[str, pa.ListArray]:
        """History columns (n,) of the partition's rows (n,)."""
        section = self._section
        offsets, index = self._events.of(rows).latest(section.most)
        return columns_of_events(section, self._values, self._event_time, self._time[rows], offsets, index)


class EncodedLists:
    """A [[history]] whose events stand in the log's own rows; as EncodedHistory."""

    def __init__(self, section: HistorySection, number: int, table: pa.Table, encoders: Mapping[str, RowsOf]):
        """number: of the [[history]]; table: the partition's rows."""
        self._section, self._time = section, moments(table)
        self._lists = {part: table.column(list_column(number, part)).combine_chunks() for part in _list_parts(section)}
        self._encoders = encoders

    def of(self, rows: Ints) -> dict[str, pa.ListArray]:
        """History columns (n,) of the partition's rows (n,)."""
        lists = {part: values.take(pa.array(rows)) for part, values in self._lists.items()}
        return columns_of_lists(self._section, lists, self._encoders, self._time[rows])


def _list_parts(section: HistorySection) -> list[str]:
    times = ["time"] if section.given.time is not None else []
    return [*(f"id_{name}" for name in section.fields), *(f"happened_{name}" for name in section.told), *times]


def columns_of_lists(
    section: HistorySection, lists: Mapping[str, pa.Array], encoders: Mapping[str, RowsOf], time: Ints
) -> dict[str, pa.ListArray]:
    """Columns (n,) of lists (n,) as `lists_of_rows` returns them, without the prefix of their names. time: (n,) of the rows."""
    flat = {part: values.flatten() for part, values in lists.items()}
    bounds = np.asarray(next(iter(lists.values())).offsets).astype(np.int64)
    offsets = bounds - bounds[0]
    values = {name: encoders[name](flat[f"id_{name}"]).astype(np.int32) for name in section.fields if name in encoders}
    outcomes = outcomes_of(section, pa.table({n: v for n, v in flat.items() if n.startswith("happened_")}))
    if outcomes is not None:
        values["outcome"] = outcomes
    event_time = np.asarray(flat["time"]) if "time" in flat else np.zeros(offsets[-1], np.int64)
    return columns_of_events(section, values, event_time, time, offsets, np.arange(offsets[-1]))
