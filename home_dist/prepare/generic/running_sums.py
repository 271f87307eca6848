"""Sums of each key over all events before a moment that only moves forward, slice of time by slice of time."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from home_dist.prepare.asof import AsOf, Ints, running_sum
from home_dist.prepare.generic.log_plan import flags, moments
from home_dist.prepare.generic.time_slices import CODE, TimeSlices

_NEVER = -(1 << 62)
"""Moment of the last event of a key without events."""


@dataclass
class Before:
    """Events before (Q,) queries: sums by name, (Q,) each. With a pause: of the newest of these events, its moment, and of the
    stretch of events without a longer pause that it ends: its first moment, and sums of the events before it."""

    sums: dict[str, Ints]
    newest: Ints
    begin: Ints
    base: dict[str, Ints]

    @staticmethod
    def nothing(count: int, names: Sequence[str]) -> "Before":
        zeros, never = ({n: np.zeros(count, np.int64) for n in names} for _ in range(2)), np.full(count, _NEVER)
        return Before(next(zeros), never, never.copy(), next(zeros))

    def of(self, keys: Ints) -> "Before":
        sums, base = ({n: v[keys] for n, v in values.items()} for values in (self.sums, self.base))
        return Before(sums, self.newest[keys], self.begin[keys], base)

    def put(self, places: Ints, values: "Before") -> None:
        for mine, theirs in ((self.sums, values.sums), (self.base, values.base)):
            for name in mine:
                mine[name][places] = theirs[name]
        self.newest[places], self.begin[places] = values.newest, values.begin


@dataclass
class RunningSums:
    slices: TimeSlices
    names: Sequence[str]
    """Columns to be summed."""
    pause: int | None
    """The pause, in ms, that ends a stretch of events; None: stretches are not followed."""
    keys: Before = field(init=False)
    """Of each key, all events before slice `at`."""
    at: int = 0

    def __post_init__(self) -> None:
        self.keys = Before.nothing(len(self.slices.keys), self.names)

    def before(self, code: Ints, time: Ints) -> Before:
        """Events of keys `code` (Q,) before moments `time` (Q,). No moment lies in an earlier slice than those of earlier
        calls."""
        told, number = Before.nothing(len(code), self.names), self.slices.of(time)
        for place in np.unique(number):
            self.forward(int(place))
            chosen = np.flatnonzero(number == place)
            told.put(chosen, self._within(self.slices.read(self.at), code[chosen], time[chosen]))
        return told

    def forward(self, place: int) -> None:
        """Moves on to the begin of a slice."""
        while self.at < place:
            table = self.slices.read(self.at)
            keys = np.unique(table.column(CODE).to_numpy())
            self.keys.put(keys, self._within(table, keys, np.full(len(keys), 1 << 61)))
            self.at += 1

    def _within(self, table: pa.Table, code: Ints, time: Ints) -> Before:
        """table: the slice `at`, by code and time."""
        told = self.keys.of(code)
        if not len(table):
            return told
        event, moment = table.column(CODE).to_numpy(), moments(table)
        asof = AsOf(event, moment, code, time)
        running = {n: running_sum(flags(table, n)) for n in self.names}
        if self.pause is not None:
            self._stretches(asof, event, moment, running, told)
        for name in self.names:
            told.sums[name] = told.sums[name] + running[name][asof.last] - running[name][asof.first]
        return told

    def _stretches(self, asof: AsOf, event: Ints, moment: Ints, running: dict[str, Ints], told: Before) -> None:
        """Sets told.newest, told.begin and told.base of queries with events in the slice. event, moment: (N,)"""
        place = np.arange(len(event))
        is_first = np.r_[True, event[1:] != event[:-1]]
        apart = np.r_[0, np.diff(moment)]
        apart[is_first] = moment[is_first] - self.keys.newest[event[is_first]]
        begins = apart > (self.pause or 0)
        first = np.maximum.accumulate(np.where(is_first, place, 0))
        start = np.maximum.accumulate(np.where(is_first | begins, place, 0))
        there = np.flatnonzero(asof.last > asof.first)
        newest = asof.last[there] - 1
        start, first, key = start[newest], first[newest], event[newest]
        goes_on = ~begins[start]  # the stretch began before the slice
        told.newest[there] = moment[newest]
        told.begin[there] = np.where(goes_on, self.keys.begin[key], moment[start])
        for name, values in running.items():
            own = self.keys.sums[name][key] + values[start] - values[first]
            told.base[name][there] = np.where(goes_on, self.keys.base[name][key], own)


def counted_since(
    upto: Before, time: Ints, window: int | None, early: Before | None, pause: int | None, names: Sequence[str]
) -> Iterator[tuple[str, Ints]]:
    """By name, (Q,) sums over the events before moments `time` (Q,) that count: those of the last `window`, and those since the
    last pause.

    upto: events before `time`; early: before `time` - window; None: as in `upto`'s."""
    for name in names:
        low = np.zeros(len(time), np.int64) if early is None else early.sums[name]
        sums = upto.sums[name]
        if pause is not None:
            later = np.ones(len(time), np.bool_) if window is None else upto.begin >= time - window
            low = np.where(later, upto.base[name], low)
            low = np.where((upto.newest == _NEVER) | (time - upto.newest > pause), sums, low)
        yield name, sums - low
