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
    labels = dict.fromkeys([*section.outcomes, *([section.only] if section.only else [])])
    return ["user", "time", *(f"id_{name}" for name in section.fields), *(f"happened_{name}" for name in labels)]


def with_earlier_events(section: HistorySection, table: pa.Table, earlier: Sequence[Path], part: int) -> pa.Table:
    """Events that an earlier preparation left, followed by the partition's rows."""
    own = table.select(event_columns(section))
    if not earlier:
        return own
    before = read_part(earlier, part).select(own.column_names)
    return pa.concat_tables([before, own.cast(before.schema)]).combine_chunks()


def kept_events(section: HistorySection, events: pa.Table, end_ms: int, forget_days: float | None) -> pa.Table:
    """The events that histories from the moment `end_ms` on can hold: the newest `most` of each user, in order of time."""
    owner = _owner(section, events)
    distinct, first = np.unique(owner[owner >= 0], return_index=True)
    order = np.argsort(first, kind="stable")  # users in the order of their first events
    queries = _as_of(section, events, distinct[order], np.full(len(distinct), end_ms), forget_days)
    return events.take(pa.array(queries.latest(section.most)[1]))


def _owner(section: HistorySection, events: pa.Table) -> Ints:
    """(N,) code of the user whose history an event enters; -1 for events that enter none."""
    user = codes(events.column("user").combine_chunks())
    return user if section.only is None else np.where(flags(events, f"happened_{section.only}") > 0, user, -1)


def _as_of(section: HistorySection, events: pa.Table, users: Ints, times: Ints, forget_days: float | None) -> AsOf:
    """The events before the moments `times` (Q,) of the users `users` (Q,), by their codes."""
    before = AsOf(_owner(section, events), moments(events), users, times)
    return before if forget_days is None else before.forgetting(int(forget_days * DAY_MS))


def outcomes_of(section: HistorySection, events: pa.Table) -> NDArray[np.int32] | None:
    """(N,) a bit per label, whether the event had it; None for a [[history]] without outcomes."""
    bits = [flags(events, f"happened_{name}").astype(np.int32) << place for place, name in enumerate(section.outcomes)]
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
    if section.age:
        passed = np.repeat(time, np.diff(offsets)) - event_time[index]
        parts["age"] = np.searchsorted(AGE_BOUNDS_MS, passed, side="right").astype(np.int32)
    return {column: list_array(parts[part], offsets) for part, column in history_columns(section).items() if part in parts}


class EncodedHistory:
    """A [[history]] of a partition. Its columns are made for a slice of rows at a time."""

    def __init__(
        self,
        section: HistorySection,
        events: pa.Table,
        encoders: Mapping[str, RowsOf],
        encoded: Mapping[str, pa.Array],
        forget_days: float | None,
    ):
        """events: as `with_earlier_events` returns them; encoders: by column; encoded: by column, (N,) rows of the partition's
        own events, which are the last ones."""
        self._section = section
        before = len(events) - len(encoded[section.fields[0]])
        self._event_time = moments(events)
        self._time = self._event_time[before:]
        user = codes(events.column("user").combine_chunks())[before:]
        self._events = _as_of(section, events, user, self._time, forget_days)
        self._values: dict[str, NDArray[np.int32]] = {}
        for name in section.fields:
            earlier = encoders[name](events.column(f"id_{name}").combine_chunks()[:before]).astype(np.int32)
            self._values[name] = np.concatenate([earlier, np.asarray(encoded[name])])
        outcomes = outcomes_of(section, events)
        if outcomes is not None:
            self._values["outcome"] = outcomes

    def of(self, rows: Ints) -> dict[str, pa.ListArray]:
        """History columns (n,) of the partition's rows (n,)."""
        section = self._section
        offsets, index = self._events.of(rows).latest(section.most)
        return columns_of_events(section, self._values, self._event_time, self._time[rows], offsets, index)
