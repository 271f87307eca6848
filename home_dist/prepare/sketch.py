"""A column of numbers in one pass and bounded memory: count, range, mean, deviation, and quantiles within a known error.

Quantiles come from a compacted sample (Manku, Rajagopalan and Lindsay 1998; Karnin, Lang and Liberty 2016). Values fill a
buffer. The full buffer is sorted and passes every second value to the next level, where each counts twice as much. A
compaction moves no value's rank by more than the weight of one value: after n values, the rank of a quantile is wrong by less
than n * levels / SIZE. Up to SIZE values it is exact. The result depends on the values and their order, not on how they are
split into batches.
"""

import math

import numpy as np
from numpy.typing import NDArray

SIZE = 16384
"""Values of a buffer; even."""


class Sketch:
    def __init__(self, size: int = SIZE):
        self.size = size
        self.count, self.missing = 0, 0
        self.low, self.high, self.low_positive = math.inf, -math.inf, math.inf
        self._mean, self._squares = 0.0, 0.0
        self._levels: list[list[NDArray[np.float64]]] = [[]]
        self._held: list[int] = [0]
        self._odd: list[bool] = [False]  # which of each pair a level passes on, alternating

    def add(self, values: NDArray[np.float64]) -> None:
        """values: (n,), NaN where missing."""
        known = values[~np.isnan(values)]
        self.missing += len(values) - len(known)
        if not len(known):
            return
        self.low, self.high = min(self.low, float(known.min())), max(self.high, float(known.max()))
        positive = known[known > 0]
        if len(positive):
            self.low_positive = min(self.low_positive, float(positive.min()))
        self._moments(known)
        at = 0
        while at < len(known):
            part = known[at : at + self.size - self._held[0]]
            self._take(0, part)
            at += len(part)

    def _moments(self, known: NDArray[np.float64]) -> None:
        """Chan's update of mean and squares, which keeps its precision for a large mean."""
        count, mean = len(known), float(known.mean())
        total = self.count + count
        self._squares += float(((known - mean) ** 2).sum()) + (mean - self._mean) ** 2 * self.count * count / total
        self._mean += (mean - self._mean) * count / total
        self.count = total

    def _take(self, level: int, part: NDArray[np.float64]) -> None:
        if level == len(self._levels):
            self._levels.append([])
            self._held.append(0)
            self._odd.append(False)
        self._levels[level].append(part)
        self._held[level] += len(part)
        if self._held[level] < self.size:
            return
        full = np.sort(np.concatenate(self._levels[level]))
        self._levels[level], self._held[level] = [], 0
        kept = full[int(self._odd[level]) :: 2]
        self._odd[level] = not self._odd[level]
        self._take(level + 1, kept)

    @property
    def mean(self) -> float:
        return self._mean

    @property
    def std(self) -> float:
        return math.sqrt(self._squares / self.count) if self.count else 0.0

    def weighted(self) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """(m,) sorted sample values, and the number of values that each stands for."""
        values = [np.concatenate(level) if level else np.zeros(0) for level in self._levels]
        weights = [np.full(len(v), 1 << i, np.int64) for i, v in enumerate(values)]
        every, counts = np.concatenate(values), np.concatenate(weights)
        order = np.argsort(every, kind="stable")
        return every[order], counts[order]

    def quantiles(self, shares: NDArray[np.float64]) -> NDArray[np.float64]:
        """For each share, the smallest sample value v so that at least this share of all values is <= v. Needs a value."""
        values, counts = self.weighted()
        up_to = np.cumsum(counts)
        at = np.searchsorted(up_to, np.ceil(shares * self.count).clip(1, self.count), side="left")
        return values[np.minimum(at, len(values) - 1)]
