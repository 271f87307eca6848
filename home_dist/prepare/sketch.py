"""A column of numbers in one pass and bounded memory: count, range, mean, deviation, and quantiles within a known error.

Quantiles come from a compacted sample (Manku, Rajagopalan and Lindsay 1998; Karnin, Lang and Liberty 2016). Values fill a
buffer. The full buffer is sorted and passes every second value to the next level, where each counts twice as much. A
compaction moves no value's rank by more than the weight of one value: after n values, the rank of a quantile is wrong by less
than n * levels / SIZE. Up to SIZE values it is exact. The result depends on the values and their order, not on how they are
split into batches; only the last bits of mean and deviation depend on that, too.
"""

import math

import numpy as np
from numpy.typing import NDArray

SIZE = 16384
"""Values of a buffer; even."""

Floats = NDArray[np.float64]


class Moments:
    """Count, mean and deviation."""

    def __init__(self) -> None:
        self.count, self.mean, self._squares = 0, 0.0, 0.0

    def add(self, values: Floats) -> None:
        """Chan's update of mean and squares, which keeps its precision for a large mean. values: (n,), none of them NaN."""
        count = len(values)
        if not count:
            return
        mean = float(values.mean())
        total = self.count + count
        self._squares += float(((values - mean) ** 2).sum()) + (mean - self.mean) ** 2 * self.count * count / total
        self.mean += (mean - self.mean) * count / total
        self.count = total

    @property
    def std(self) -> float:
        return math.sqrt(self._squares / self.count) if self.count else 0.0


class Sample:
    """A compacted sample of values (n,), or of rows (n, w), which are ordered by their first number, then by the next one."""

    def __init__(self, size: int = SIZE):
        """size: values of a buffer; even."""
        self.size = size
        self._levels: list[list[Floats]] = [[]]
        self._held: list[int] = [0]
        self._odd: list[bool] = [False]  # which of each pair a level passes on, alternating

    def add(self, values: Floats) -> None:
        at = 0
        while at < len(values):
            part = values[at : at + self.size - self._held[0]]
            self._take(0, part)
            at += len(part)

    def _take(self, level: int, part: Floats) -> None:
        if level == len(self._levels):
            self._levels.append([])
            self._held.append(0)
            self._odd.append(False)
        self._levels[level].append(part)
        self._held[level] += len(part)
        if self._held[level] < self.size:
            return
        full = np.concatenate(self._levels[level])
        full = np.sort(full) if full.ndim == 1 else full[_order(full)]
        self._levels[level], self._held[level] = [], 0
        kept = full[int(self._odd[level]) :: 2]
        self._odd[level] = not self._odd[level]
        self._take(level + 1, kept)

    @property
    def held(self) -> int:
        """Values, or rows, in memory."""
        return sum(self._held)

    def weighted(self) -> tuple[Floats, NDArray[np.int64]]:
        """(m,) or (m, w): the sample in order; and (m,) the number of values that each stands for."""
        held = [(np.concatenate(level), 1 << number) for number, level in enumerate(self._levels) if level]
        if not held:
            return np.zeros(0), np.zeros(0, np.int64)
        every = np.concatenate([values for values, _ in held])
        counts = np.concatenate([np.full(len(values), weight, np.int64) for values, weight in held])
        order = np.argsort(every, kind="stable") if every.ndim == 1 else _order(every)
        return every[order], counts[order]


def _order(rows: Floats) -> NDArray[np.int64]:
    return np.lexsort(rows.T[::-1])


class Sketch:
    def __init__(self, size: int = SIZE):
        self.missing = 0
        self.low, self.high, self.low_positive = math.inf, -math.inf, math.inf
        self._moments, self._sample = Moments(), Sample(size)

    def add(self, values: Floats) -> None:
        """values: (n,), NaN where missing."""
        known = values[~np.isnan(values)]
        self.missing += len(values) - len(known)
        if not len(known):
            return
        self.low, self.high = min(self.low, float(known.min())), max(self.high, float(known.max()))
        positive = known[known > 0]
        if len(positive):
            self.low_positive = min(self.low_positive, float(positive.min()))
        self._moments.add(known)
        self._sample.add(known)

    @property
    def count(self) -> int:
        return self._moments.count

    @property
    def mean(self) -> float:
        return self._moments.mean

    @property
    def std(self) -> float:
        return self._moments.std

    def weighted(self) -> tuple[Floats, NDArray[np.int64]]:
        """(m,) sorted sample values, and the number of values that each stands for."""
        return self._sample.weighted()

    def quantiles(self, shares: Floats) -> Floats:
        """For each share, the smallest sample value v so that at least this share of all values is <= v. Needs a value."""
        values, counts = self.weighted()
        return weighted_quantiles(values, counts, shares)


def weighted_quantiles(values: Floats, counts: NDArray[np.int64], shares: Floats) -> Floats:
    """For each share, the smallest value v so that at least this share of all is <= v, as numpy's inverted_cdf. values: (m,) in
    order, at least one; counts: (m,) how often each counts."""
    up_to = np.cumsum(counts)
    at = np.searchsorted(up_to, np.ceil(shares * up_to[-1]).clip(1, up_to[-1]), side="left")
    return values[np.minimum(at, len(values) - 1)]
