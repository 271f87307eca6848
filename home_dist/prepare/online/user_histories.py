"""Histories of users at any moment after a preparation, from the events that it left, held in memory."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from home_dist.ids.keys import missing
from home_dist.ids.rows import RowsOf
from home_dist.prepare.asof import Ints, last_positions
from home_dist.prepare.generic.history import columns_of_events, outcomes_of
from home_dist.prepare.generic.log_plan import key_hashes, moments
from home_dist.prepare.generic.log_sections import HistorySection
from home_dist.prepare.generic.log_spec import LogSpec
from home_dist.prepare.generic.windows import pause_of
from home_dist.prepare.online.sorted_events import SortedEvents


class UserHistories:
    """The events of a [[history]]: at most `most` of each user. Memory: 16 bytes per user; per event 8, and 4 for each field
    and for the outcomes."""

    def __init__(self, section: HistorySection, files: Sequence[Path], encoders: Mapping[str, RowsOf], spec: LogSpec):
        """encoders: by column of `fields`, of those that are needed."""
        self.section = section
        parts = [self._read(file, encoders) for file in files]
        users, times, *values = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        del parts
        self._events = SortedEvents(users, times, pause_of(spec))
        names = (*encoders, *(["outcome"] if section.told else []))
        self._values = {name: of_events[self._events.order] for name, of_events in zip(names, values, strict=True)}
        self._events.forget_order()

    def _read(self, file: Path, encoders: Mapping[str, RowsOf]) -> tuple[NDArray, ...]:
        """Of one file: texts of all may be more than an Arrow array holds."""
        table = pq.read_table(file, memory_map=True)
        outcomes = outcomes_of(self.section, table)
        return (
            key_hashes([table.column("user").combine_chunks()]),
            moments(table),
            *(rows_of(table.column(f"id_{n}").combine_chunks()).astype(np.int32) for n, rows_of in encoders.items()),
            *([] if outcomes is None else [outcomes]),
        )

    def before(self, users: pa.Array, time: Ints) -> dict[str, pa.ListArray]:
        """The history's needed columns (Q,), and its ages and outcomes, of users (Q,) before moments (Q,) in ms since 1970."""
        first, last = self._events.before(key_hashes([users]), ~missing(users), time, None)
        offsets, index = last_positions(first, last, self.section.most)
        return columns_of_events(self.section, self._values, self._events.times, time, offsets, index)
