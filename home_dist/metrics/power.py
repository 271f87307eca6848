"""How much data a comparison of two models needs: power by resampling a pool on which both are known.

Pools of m times the users are drawn from the pool at hand. How far the difference between the models varies over such pools is
the error that a comparison with m times the data would have. A difference of `effect` is planted in each of them, and counted
as seen where an interval of that error around it lies above 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike

from home_dist.metrics.bootstrap import bootstrap
from home_dist.metrics.samples import Floats

_Z = NormalDist().inv_cdf(0.975)
"""Of a two-sided interval of 95 %."""


@dataclass(frozen=True)
class Power:
    times: tuple[float, ...]
    """Sizes, as multiples of the users at hand."""
    impressions: tuple[int, ...]
    error: tuple[float, ...]
    """Standard error of the difference at each size."""
    seen: tuple[float, ...]
    """Share of the drawn pools in which the planted effect is seen."""
    needed: float
    """Impressions at which the wanted share is reached, between the sizes tried on a line over the logarithm, or beyond them by
    the square-root law."""


def power_of_difference(
    task_names: Sequence[str],
    labels: ArrayLike,
    weights: ArrayLike,
    one: ArrayLike,
    two: ArrayLike,
    groups: ArrayLike,
    effect: float,
    within: ArrayLike | None = None,
    times: Sequence[float] = (0.5, 1, 2, 4, 8, 16),
    wanted: float = 0.8,
    resamples: int = 200,
    seed: int = 0,
    metric: int = 1,
) -> Power:
    """Of the mean over tasks of AUC (metric 0) or GAUC (metric 1). Labels, weights and the models' scores `one` and `two` are
    (N, K), groups and `within` (N,), as of `bootstrap`. effect: the difference to see, above 0. Raises ValueError for an effect
    that is not above 0, a wanted share that is not between 0 and 1, and where the models do not differ at all."""
    if not effect > 0:
        raise ValueError(f"effect must be above 0, not {effect}")
    if not 0 < wanted < 1:
        raise ValueError(f"wanted must be between 0 and 1, not {wanted}")
    rows, errors, seen = len(np.asarray(groups)), list[float](), list[float]()
    for n, size in enumerate(times):
        drawn = [
            bootstrap(task_names, labels, weights, s, groups, resamples, seed + n, within, size)[metric].draws
            for s in (one, two)
        ]
        difference = (drawn[0] - drawn[1]).mean(1)
        difference = difference[~np.isnan(difference)]
        error = float(difference.std(ddof=1))
        if not error > 0:
            raise ValueError("the models do not differ on any drawn pool: there is no error to tell an effect from")
        errors.append(error)
        planted: Floats = difference - difference.mean() + effect
        seen.append(float((planted > _Z * error).mean()))
    impressions = tuple(round(size * rows) for size in times)
    return Power(tuple(times), impressions, tuple(errors), tuple(seen), _needed(impressions, seen, errors, effect, wanted))


def _needed(impressions: Sequence[int], seen: Sequence[float], errors: Sequence[float], effect: float, wanted: float) -> float:
    for n, share in enumerate(seen):
        if share >= wanted:
            if n == 0:
                return float(impressions[0])
            part = (wanted - seen[n - 1]) / (share - seen[n - 1])
            low, high = np.log(impressions[n - 1]), np.log(impressions[n])
            return float(np.exp(low + part * (high - low)))
    return float(impressions[-1] * (errors[-1] * (_Z + NormalDist().inv_cdf(wanted)) / effect) ** 2)
