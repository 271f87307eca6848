"""How much two samples differ: population stability, and whether chance explains a difference. Rows count as independent."""

import math
from collections.abc import Sequence

_LEAST = 1e-4  # share that an empty bucket counts as
SURE = 4.0
"""Standard deviations beyond which a difference is not due to chance."""


def psi(before: Sequence[float], now: Sequence[float]) -> float:
    """Population stability index of two lists of shares, of which each sums to 1."""
    pairs = ((max(a, _LEAST), max(b, _LEAST)) for a, b in zip(before, now, strict=True))
    return sum((b - a) * math.log(b / a) for a, b in pairs)


def shares(buckets: Sequence[int]) -> list[float]:
    total = sum(buckets)
    return [n / total for n in buckets]


def are_other_values(before: Sequence[int], now: Sequence[int]) -> bool:
    """Whether samples with these rows by bucket can hardly be of one distribution: Pearson's test of homogeneity, with the
    quantile of chi-squared by Wilson and Hilferty. It holds for few rows, where a PSI is large by chance."""
    held = [(a, b) for a, b in zip(before, now, strict=True) if a or b]
    freedom = len(held) - 1
    if not freedom:
        return False
    ratio = math.sqrt(sum(now) / sum(before))
    statistic = sum((ratio * a - b / ratio) ** 2 / (a + b) for a, b in held)
    spread = 2 / (9 * freedom)
    return statistic > freedom * (1 - spread + SURE * math.sqrt(spread)) ** 3


def deviations(before: float, of_before: int, now: float, of_now: int) -> float:
    """Difference of two shares of so many rows, in standard deviations of chance."""
    both = (before * of_before + now * of_now) / (of_before + of_now)
    deviation = math.sqrt(max(0.0, both * (1 - both)) * (1 / of_before + 1 / of_now))
    return (now - before) / deviation if deviation else 0.0


def is_sure(before: float, of_before: int, now: float, of_now: int) -> bool:
    return abs(deviations(before, of_before, now, of_now)) > SURE
