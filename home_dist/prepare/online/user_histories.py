"""Histories of users at any moment after a preparation, from the events that it left, held in memory."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from home_dist.ids.keys import missing
from home_dist.ids.rows import RowsOf
from home_dist.prepare.asof import Ints
from home_dist.prepare.generic.history import ages_of, outcomes_of
from home_dist.prepare.generic.log_plan import key_hashes, moments
from home_dist.prepare.generic.log_sections import HistorySection
from home_dist.prepare.generic.log_spec import LogSpec
from home_dist.prepare.generic.names import history_columns
from home_dist.prepare.generic.windows import pause_of
from home_dist.prepare.online.sorted_events import SortedEvents
from home_dist.prepare.write import list_array


class UserHistories:
    """The events of a [[history]]: at most `most` of each user. Memory: 16 bytes per user; per event 8, and 4 for each field
    and for the outcomes."""

    def __init__(self, section: HistorySection, files: Sequence[Path], encoders: Mapping[str, RowsOf], spec: LogSpec):
        """encoders: by column of `fields`."""
        self.section = section
        table = pa.concat_tables([pq.read_table(f, memory_map=True) for f in files])
        users = key_hashes([table.column("user").combine_chunks()])
        self._events = SortedEvents(users, moments(table), pause_of(spec))
        order = self._events.order
        self._fields = {}
        for name in section.fields:
            rows = encoders[name](table.column(f"id_{name}").combine_chunks())
            self._fields[name] = rows.astype(np.int32)[order]
        outcomes = outcomes_of(section, table)
        self._outcomes = None if outcomes is None else outcomes[order]
        self._events.forget_order()

    def before(self, users: pa.Array, time: Ints) -> dict[str, pa.ListArray]:
        """The history's columns (Q,), of users (Q,) before moments (Q,) in ms since 1970."""
        first, last = self._events.before(key_hashes([users]), ~missing(users), time, None)
        first = np.maximum(first, last - self.section.most)
        offsets = np.r_[0, np.cumsum(last - first)]
        index = np.arange(offsets[-1]) + np.repeat(first - offsets[:-1], np.diff(offsets))
        passed = np.repeat(time, np.diff(offsets)) - self._events.times[index]
        values = {name: rows[index] for name, rows in self._fields.items()} | {"age": ages_of(passed)}
        if self._outcomes is not None:
            values["outcome"] = self._outcomes[index]
        return {column: list_array(values[part], offsets) for part, column in history_columns(self.section).items()}
