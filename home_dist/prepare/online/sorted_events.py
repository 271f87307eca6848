"""Events in memory, by key and time, among which the events of few keys before few moments are found at once.

Counts as `AsOf` does, which sorts all events for many queries; here they are sorted once, for queries that come one by one.
"""

import numpy as np
from numpy.typing import NDArray

from home_dist.ids.hashing import Hashes
from home_dist.prepare.asof import Ints


class SortedEvents:
    def __init__(self, keys: Hashes, times: Ints, pause: int | None):
        """keys, times: (N,) of events; pause: in ms, after which a key's earlier events are forgotten; None: never."""
        self.order: Ints = np.lexsort((times, keys))
        """(N,) the events as they lie here; stable for those of one key and time."""
        keys, self.times = keys[self.order], times[self.order]
        begins = np.r_[True, keys[1:] != keys[:-1]][: len(keys)]
        first = np.flatnonzero(begins)
        self._keys: Hashes = keys[first]
        self._bounds: Ints = np.r_[first, len(keys)]
        self._pause, self._stretch = pause, None
        if pause is not None:
            begins[1:] |= np.diff(self.times) > pause
            self._stretch = np.maximum.accumulate(np.where(begins, np.arange(len(keys)), 0))

    def forget_order(self) -> None:
        """Frees it, once what belongs to the events is in their order."""
        self.order = self.order[:0].copy()

    def before(self, keys: Hashes, known: NDArray[np.bool_], moments: Ints, window: int | None) -> tuple[Ints, Ints]:
        """keys, known, moments: (Q,); window: in ms. Returns (first (Q,), last (Q,)): the key's events strictly before the
        moment, within the window and since the last pause, are those at positions first to last - 1; none if not `known`."""
        low, high = self._of_keys(keys, known)
        last = self._at(low, high, moments)
        first = low if window is None else np.minimum(self._at(low, high, moments - window), last)
        if self._pause is None or self._stretch is None or not len(self.times):
            return first, last
        newest = np.maximum(last - 1, 0)
        lasts = moments - self.times[newest] > self._pause
        return np.where((last > low) & ~lasts, np.maximum(first, self._stretch[newest]), last), last

    def _of_keys(self, keys: Hashes, known: NDArray[np.bool_]) -> tuple[Ints, Ints]:
        """(Q,) bounds of each key's events."""
        if not len(self._keys):
            return np.zeros(len(keys), np.int64), np.zeros(len(keys), np.int64)
        at = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        there = known & (self._keys[at] == keys)
        return np.where(there, self._bounds[at], 0), np.where(there, self._bounds[at + 1], 0)

    def _at(self, low: Ints, high: Ints, moments: Ints) -> Ints:
        """(Q,) position of the first event at or after the moment, from low to high (Q,): a binary search of each query."""
        low, high = low.copy(), high.copy()
        while (open_ := np.flatnonzero(low < high)).size:
            middle = (low[open_] + high[open_]) // 2
            earlier = self.times[middle] < moments[open_]
            low[open_[earlier]] = middle[earlier] + 1
            high[open_[~earlier]] = middle[~earlier]
        return low
