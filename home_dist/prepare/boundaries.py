"""Bucket boundaries, mean and deviation of a statistic, fitted on the training part."""

from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from home_dist.config.section import Section
from home_dist.prepare.sketch import Sketch
from home_dist.schema.spec import StatisticFeature


class Buckets(Section):
    """How a statistic's range is cut into buckets. Missing values have one more bucket."""

    by: Literal["quantile", "equal_width", "logarithmic"] = "quantile"
    """Buckets with equally many values, of equal width, or of equal width of the logarithm. In the last case, values that are
    not above 0 share a bucket."""
    count: int = Field(default=20, ge=2)
    """Number of buckets, at most."""


class Seen(Protocol):
    """A summary of a column's values: a Sketch or a Counted."""

    @property
    def count(self) -> int: ...

    low: float
    high: float
    low_positive: float

    def weighted(self) -> tuple[NDArray[np.float64], NDArray[np.int64]]: ...

    def quantiles(self, shares: NDArray[np.float64]) -> NDArray[np.float64]: ...


def choose_boundaries(buckets: Buckets, seen: Seen) -> tuple[float, ...]:
    """Strictly increasing boundaries of at most `count` buckets (one more for values <= 0); none if all values are equal.

    Every bucket holds values, except the one of missing values and those that fall into gaps of the range.
    """
    if not seen.count or seen.low == seen.high:
        return ()
    match buckets.by:
        case "quantile":
            cuts = seen.quantiles(np.linspace(0, 1, buckets.count + 1)[1:-1])
            if not (cuts > seen.low).any():  # the lowest value fills all quantiles: one boundary separates the rest
                cuts = seen.weighted()[0]
                cuts = cuts[cuts > seen.low][:1] if (cuts > seen.low).any() else np.array([seen.high])
        case "equal_width":
            cuts = np.linspace(seen.low, seen.high, buckets.count + 1)[1:-1]
        case "logarithmic":
            if seen.high <= 0:
                return ()
            cuts = np.geomspace(seen.low_positive, seen.high, buckets.count + 1)[1:-1]
            if seen.low <= 0:
                cuts = np.concatenate([[seen.low_positive], cuts])
    distinct = np.unique(cuts)
    return tuple(float(b) for b in distinct[(distinct > seen.low) & (distinct <= seen.high)])


def rounded(values: NDArray[np.float64], training: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Values (n,) rounded to multiples of a power of two that lies between 1/12 and 1/6 of the training part's deviation.

    Rounded values are finer than most buckets, exact in float32, and small on disk. NaN stays NaN.
    """
    known = values[training & ~np.isnan(values)]
    return round_to(rounding_step(float(known.std()) if len(known) else 0.0), values)


def rounding_step(spread: float) -> float:
    """spread: standard deviation of the training part."""
    return float(2.0 ** np.floor(np.log2(spread / 6))) if spread > 0 else 1.0


def round_to(step: float, values: NDArray[np.float64]) -> NDArray[np.float32]:
    return (np.round(values / step) * step + 0.0).astype(np.float32)


class Counted:
    """Distinct values of a column with their counts. Exact where a Sketch approximates, for columns of few distinct values."""

    def __init__(self, values: NDArray[np.float64], counts: NDArray[np.int64]):
        """values: (m,) increasing, at least one; counts: (m,) how often each was seen."""
        self._values, self._counts = values, counts
        self.count, self.low, self.high = int(counts.sum()), float(values[0]), float(values[-1])
        positive = values[values > 0]
        self.low_positive = float(positive[0]) if len(positive) else float("inf")

    def __len__(self) -> int:
        """Number of distinct values."""
        return len(self._values)

    def weighted(self) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        return self._values, self._counts

    def quantiles(self, shares: NDArray[np.float64]) -> NDArray[np.float64]:
        """As numpy's method inverted_cdf."""
        place = np.ceil(self.count * shares - 1).clip(0, self.count - 1)
        return self._values[np.searchsorted(np.cumsum(self._counts), place, side="right")]

    def scale(self) -> tuple[float, float]:
        """Mean and standard deviation."""
        mean = float((self._values * self._counts).sum() / self.count)
        return mean, float(np.sqrt(((self._values - mean) ** 2 * self._counts).sum() / self.count))


def fit_counted(
    name: str, column: str, seen: Counted, buckets: int, cut: Buckets | tuple[float, ...] | None = None
) -> StatisticFeature | None:
    """As `fit_statistic`, from counted values."""
    if seen.low == seen.high:
        return None
    boundaries = cut if isinstance(cut, tuple) else choose_boundaries(cut or Buckets(count=buckets), seen)
    mean, std = seen.scale()
    return StatisticFeature(name=name, column=column, boundaries=boundaries, mean=round(mean, 6), std=max(round(std, 6), 1e-6))


def fit_statistic(
    name: str,
    column: str,
    training: NDArray[np.float32],
    buckets: int = 20,
    cut: Buckets | tuple[float, ...] | None = None,
) -> StatisticFeature | None:
    """Fits a statistic on the training part's values (n,), NaN where unknown. None if all are unknown, or all known are equal.

    Without `cut`, boundaries are exact quantiles, each a value of the data. Equal quantiles are taken once; the smallest value
    is left out, as no bucket would lie below it. `cut` says how to choose other boundaries, or gives them.
    """
    known = training[~np.isnan(training)].astype(np.float64)
    if not len(known) or known.min() == known.max():
        return None
    if isinstance(cut, Buckets):
        seen = Sketch()
        seen.add(known)
        cut = choose_boundaries(cut, seen)
    inner = np.linspace(0, 1, buckets + 1)[1:-1]
    quantiles = np.unique(np.quantile(known, inner, method="inverted_cdf"))
    # If the smallest value fills all quantiles, one boundary still separates it from the rest.
    boundaries = quantiles[quantiles > known.min()]
    if not len(boundaries):
        boundaries = known[known > known.min()].min(keepdims=True)
    std = float(known.std())
    return StatisticFeature(
        name=name,
        column=column,
        boundaries=tuple(float(b) for b in boundaries) if cut is None else cut,
        mean=round(float(known.mean()), 6),
        std=max(round(std, 6), 1e-6),
    )
