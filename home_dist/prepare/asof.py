"""Sums over the events of a key that lie strictly before a query's time.

Events are sorted once by (key, time). The events of a key before time t are then a range of positions, which a binary search
finds; a sum over the range is a difference of two running sums. Events at the query's own time do not count: impressions
that were shown together know nothing of each other.
"""

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
_MOST = 1 << 62


def running_sum(values: NDArray[np.integer]) -> Ints:
    """(N + 1,) sums of the first 0 to N values (N,)."""
    running = np.zeros(len(values) + 1, np.int64)
    np.cumsum(values, out=running[1:])
    return running


def last_positions(first: Ints, last: Ints, most: int) -> tuple[Ints, Ints]:
    """Of the ranges first .. last - 1 (Q,), the last `most` positions. Returns offsets (Q + 1,) and positions
    (offsets[-1],)."""
    first = np.maximum(first, last - most)
    offsets = running_sum(last - first)
    return offsets, np.arange(offsets[-1]) + np.repeat(first - offsets[:-1], np.diff(offsets))


class AsOf:
    """The events of each query's key before the query's time.

    Keys are small non-negative codes; a negative code stands for "unknown" and matches nothing. Times are integers.
    """

    def __init__(self, event_keys: Ints, event_times: Ints, query_keys: Ints, query_times: Ints):
        """event_*: (N,); query_*: (Q,)."""
        known = np.flatnonzero(event_keys >= 0)
        self._start = int(event_times.min()) if len(event_times) else 0
        latest = int(event_times.max()) if len(event_times) else 0
        # One value more than the events' times: a query after all events gets that value.
        self._span = latest - self._start + 2
        self._moments: Ints | None = None
        most = max(int(keys.max(initial=0)) for keys in (event_keys, query_keys))
        if (most + 1) * self._span > _MOST:
            # Distinct times in place of times: as with very many keys, and a time of 1970 that stands for an unknown one.
            self._moments = np.unique(event_times)
            self._span = len(self._moments) + 1
        place = event_keys[known] * self._span + self._offsets(event_times[known])
        order = np.argsort(place, kind="stable")
        self._place, self._order = place[order], known[order]
        self._query_keys, self._query_times = query_keys, query_times
        self.first = self._find(np.full(len(query_keys), self._start))
        self.last = self._find(query_times)
        self.last[query_keys < 0] = 0
        self.first[query_keys < 0] = 0

    def _find(self, times: Ints) -> Ints:
        """(Q,) sorted position of each query key's first event at or after the query's entry of `times` (Q,)."""
        return np.searchsorted(self._place, self._query_keys * self._span + self._offsets(times), side="left")

    def _offsets(self, times: Ints) -> Ints:
        """(n,) places of times (n,) among those of the events, from 0 to span - 1."""
        if self._moments is not None:
            return np.searchsorted(self._moments, times, side="left")
        return np.clip(times - self._start, 0, self._span - 1)

    def _times(self) -> Ints:
        """(E,) times of the sorted events."""
        offsets = self._place % self._span
        return offsets + self._start if self._moments is None else self._moments[offsets]

    def since(self, window: int) -> "AsOf":
        """The same queries, over only the events of the last `window` units of time."""
        other = object.__new__(AsOf)
        other.__dict__.update(self.__dict__)
        other.first = np.minimum(self._find(self._query_times - window), self.last)
        other.first[self._query_keys < 0] = 0
        return other

    def forgetting(self, pause: int) -> "AsOf":
        """The same queries, over only the events since the key's last pause of more than `pause` units of time; over none while
        such a pause lasts."""
        if not len(self._order):
            return self
        key, time = self._place // self._span, self._times()
        begins = np.ones(len(key), np.bool_)
        begins[1:] = (key[1:] != key[:-1]) | (np.diff(time) > pause)
        start = np.maximum.accumulate(np.where(begins, np.arange(len(key)), 0))
        newest = np.maximum(self.last - 1, 0)
        lasts = self._query_times - time[newest] > pause
        other = object.__new__(AsOf)
        other.__dict__.update(self.__dict__)
        other.first = np.where(lasts, self.last, np.minimum(np.maximum(self.first, start[newest]), self.last))
        return other

    def of(self, rows: Ints) -> "AsOf":
        """The queries at indices `rows` only."""
        other = object.__new__(AsOf)
        other.__dict__.update(self.__dict__)
        other.first, other.last = self.first[rows], self.last[rows]
        other._query_keys, other._query_times = self._query_keys[rows], self._query_times[rows]
        return other

    def count(self) -> Ints:
        """(Q,) number of events."""
        return self.last - self.first

    def sum(self, values: NDArray[np.integer]) -> Ints:
        """(Q,) sum of the events' values (N,), exact."""
        running = running_sum(values[self._order])
        return running[self.last] - running[self.first]

    def newest(self) -> Ints:
        """(Q,) index of the newest event, -1 for queries without events."""
        if not len(self._order):
            return np.full(len(self.last), -1, np.int64)
        return np.where(self.last > self.first, self._order[self.last - 1], -1)

    def latest(self, most: int) -> tuple[Ints, Ints]:
        """The newest events of each query, `most` at most, oldest first.

        Returns offsets (Q + 1,) and event indices (offsets[-1],).
        """
        offsets, positions = last_positions(self.first, self.last, most)
        return offsets, self._order[positions]
