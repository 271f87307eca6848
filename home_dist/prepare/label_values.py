"""Fits the facts that objectives read of labels that are not binary (schema/label_values.py): one pass, bounded memory.

Mean and deviation are exact. Thresholds and shares come from a sketch (sketch.py), quantiles by duration from a compacted
sample of pairs (duration, label): with G groups, the rank of a quantile is wrong by some sqrt(G / PAIRS) / 2, or 1 % for 30
groups. A sketch is exact up to SIZE values, the sample up to PAIRS rows. Numbers are rounded to what float32 tells apart, as
runs read them.
"""

import math
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from pydantic import StrictInt

from home_dist.prepare.boundaries import Buckets, Counted, choose_boundaries
from home_dist.prepare.sketch import Floats, Moments, Sample, Sketch, weighted_quantiles
from home_dist.schema import LabelValues

THRESHOLDS, DURATION_GROUPS = 32, 30
"""Defaults of a label's `thresholds` and `duration_groups`."""
BLOCK = 65536
"""Rows of a batch. Means depend on batches in their last bits; with batches of so many rows they are equal wherever labels are
fitted."""
PAIRS = 1 << 16
_POINTS = np.linspace(0, 1, 101)
"""Shares of the quantiles of a group of durations."""
_LAST = 0.999
"""Share of the values above 0 that the last threshold is not below: a single huge value makes no threshold."""
_LEAST_ROWS = 50
"""Rows of a group of durations; smaller groups are merged with their neighbour."""


Thresholds = StrictInt | tuple[float, ...]
"""How many thresholds to fit, or which they are."""


def check_thresholds(where: str, thresholds: Thresholds | None) -> None:
    """Raises ValueError, which begins with `where`."""
    if isinstance(thresholds, int) and thresholds < 1:
        raise ValueError(f"{where}: thresholds must be at least 1, not {thresholds}")
    if isinstance(thresholds, tuple):
        if not thresholds or not thresholds[0] > 0 or not all(map(math.isfinite, thresholds)):
            raise ValueError(f"{where}: thresholds must be numbers above 0, at least one")
        low = next((a for a, b in pairwise(thresholds) if not a < b), None)
        if low is not None:
            raise ValueError(f"{where}: thresholds must increase strictly, but the one after {low:g} does not; leave it out")


class NumberFacts:
    """Facts about a label that is a number."""

    def __init__(self, has_duration: bool = False):
        self.seen, self._positive, self._logs = Sketch(), Sketch(), Moments()
        self._pairs = Sample(PAIRS) if has_duration else None

    def add(self, labels: Floats, durations: Floats | None = None) -> None:
        """labels: (n,) of rows that know them; durations: (n,), above 0."""
        self.seen.add(labels)
        self._positive.add(labels[labels > 0])
        self._logs.add(np.log1p(labels[labels > -1]))
        if self._pairs is not None and durations is not None:
            self._pairs.add(np.stack([durations, labels], 1))

    def values(
        self, thresholds: int | tuple[float, ...] | None = None, duration_groups: int | None = None
    ) -> LabelValues | None:
        """thresholds: how many, or which. None without a row that knows the label."""
        if not self.seen.count:
            return None
        cuts = self._cuts(THRESHOLDS if thresholds is None else thresholds)
        values, counts = self._positive.weighted()
        above = [float(counts[values > np.float64(np.float32(t))].sum()) / self.seen.count for t in cuts]
        boundaries, quantiles = self._by_duration(duration_groups or DURATION_GROUPS)
        has_logs = self._logs.count == self.seen.count
        return LabelValues(
            mean=rounded(self.seen.mean),
            std=_deviation(self.seen.mean, self.seen.std),
            log_mean=rounded(self._logs.mean) if has_logs else 0.0,
            log_std=_deviation(self._logs.mean, self._logs.std) if has_logs else 1.0,
            thresholds=cuts,
            above=tuple(map(rounded, above)),
            duration_boundaries=boundaries,
            quantiles=quantiles,
        )

    def _cuts(self, thresholds: int | tuple[float, ...]) -> tuple[float, ...]:
        if isinstance(thresholds, tuple):
            return thresholds
        values, counts = self._positive.weighted()
        if not len(values):
            return ()
        shares = _LAST * np.arange(1, thresholds + 1) / thresholds
        return tuple(dict.fromkeys(map(short, weighted_quantiles(values, counts, shares))))

    def _by_duration(self, groups: int) -> tuple[tuple[float, ...], tuple[tuple[float, ...], ...]]:
        """Boundaries between groups of durations that have equally many rows, and quantiles of the labels of each group."""
        if self._pairs is None:
            return (), ()
        pairs, counts = self._pairs.weighted()
        if not len(pairs):
            return (), ()
        durations, labels = pairs.T
        distinct, place = np.unique(durations, return_inverse=True)
        seen = Counted(distinct, np.bincount(place, weights=counts).astype(np.int64))
        cuts = choose_boundaries(Buckets(count=groups), seen) if groups > 1 else ()
        group = np.searchsorted(cuts, durations, side="right")
        boundaries = _merged(cuts, np.bincount(group, weights=counts, minlength=len(cuts) + 1))
        ends = np.searchsorted(durations, [-np.inf, *boundaries, np.inf])
        quantiles = []
        for first, last in pairwise(ends.tolist()):
            order = first + np.argsort(labels[first:last], kind="stable")
            quantiles.append(tuple(map(short, weighted_quantiles(labels[order], counts[order], _POINTS))))
        return tuple(map(short, boundaries)), tuple(quantiles)


class ClassFacts:
    """Facts about a label that is a class."""

    def __init__(self, classes: int):
        self.counts = np.zeros(classes, np.int64)

    def add(self, labels: NDArray[np.integer]) -> None:
        """labels: (n,) of rows that know them."""
        self.counts += np.bincount(labels, minlength=len(self.counts))

    def values(self) -> LabelValues | None:
        """None without a row that knows the label."""
        total = int(self.counts.sum())
        return LabelValues(shares=tuple(rounded(n / total) for n in self.counts.tolist())) if total else None


def _merged(cuts: tuple[float, ...], rows: NDArray[np.number]) -> list[float]:
    """The boundaries (G - 1,) without those of groups that have too few rows (G,)."""
    kept: list[float] = []
    held = 0.0
    for cut, count in zip(cuts, rows[:-1].tolist(), strict=True):
        held += count
        if held >= _LEAST_ROWS:
            kept.append(cut)
            held = 0.0
    if kept and held + rows[-1] < _LEAST_ROWS:
        kept.pop()
    return kept


def rounded(value: float) -> float:
    """To nine digits, which schema.toml holds."""
    return float(f"{value:.9g}")


def short(value: float) -> float:
    """The shortest number that float32 reads as it reads this one."""
    return float(str(np.float32(value)))


def _deviation(mean: float, std: float) -> float:
    """1 for values that are all equal, whose deviation is 0 up to rounding."""
    return rounded(std) if std > 1e-7 * max(1.0, abs(mean)) else 1.0
