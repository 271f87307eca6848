"""Counts and rates as statistics: log1p of a count, smoothed log-odds of a rate."""

import numpy as np
from numpy.typing import NDArray

from home_dist.prepare.asof import Ints

Floats = NDArray[np.float64]

START_RATE = 0.01
START_WEIGHT = 100.0
"""The base rate starts at START_RATE, which weighs as much as START_WEIGHT impressions."""


def base_rates(happened: Ints, counted: Ints) -> Floats:
    """(Q,) rate over all earlier impressions: `happened` of `counted` had the behaviour."""
    return (happened + START_RATE * START_WEIGHT) / (counted + START_WEIGHT)


def log_odds(happened: Ints, counted: Ints, base: Floats, strength: float) -> Floats:
    """(Q,) log((c + a p) / (n - c + a (1 - p))): c of n happened, base rate p, strength a; NaN where n is 0.

    The smoothing adds, in effect, `strength` impressions at the base rate.
    """
    odds = np.log((happened + strength * base) / (counted - happened + strength * (1.0 - base)))
    return np.where(counted > 0, odds, np.nan)
