"""Buckets and scale of a statistic, fitted on the training part."""

import numpy as np
from numpy.typing import NDArray

from home_dist.schema.spec import StatisticFeature


def rounded(values: NDArray[np.float64], training: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Values (n,) as multiples of a power of two between 1/12 and 1/6 of the training part's standard deviation.

    Finer than most buckets, exact in float32, and small on disk. NaN stays NaN.
    """
    known = values[training & ~np.isnan(values)]
    spread = float(known.std()) if len(known) else 0.0
    step = 2.0 ** np.floor(np.log2(spread / 6)) if spread > 0 else 1.0
    return (np.round(values / step) * step + 0.0).astype(np.float32)


def fit_statistic(name: str, column: str, training: NDArray[np.float32], buckets: int = 20) -> StatisticFeature | None:
    """From the training part's values (n,), NaN where unknown. None if they tell nothing: all unknown, or all equal.

    Boundaries are quantiles, each a value of the data; equal ones and the smallest value, which no bucket would lie
    below, are left out.
    """
    known = training[~np.isnan(training)].astype(np.float64)
    if not len(known) or known.min() == known.max():
        return None
    inner = np.linspace(0, 1, buckets + 1)[1:-1]
    quantiles = np.unique(np.quantile(known, inner, method="inverted_cdf"))
    # Two values of which one fills all quantiles are still told apart.
    boundaries = quantiles[quantiles > known.min()]
    if not len(boundaries):
        boundaries = known[known > known.min()].min(keepdims=True)
    std = float(known.std())
    return StatisticFeature(
        name=name,
        column=column,
        boundaries=tuple(float(b) for b in boundaries),
        mean=round(float(known.mean()), 6),
        std=max(round(std, 6), 1e-6),
    )
