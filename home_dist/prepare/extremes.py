"""Suspiciously large values of a column: one 1e30 among values in the thousands spoils mean, deviation and buckets."""

import numpy as np

from home_dist.prepare.sketch import Sketch

_OF_ALL, _OF_HALF = 1e3, 1e6  # the largest value may be this many times the bound of 99.9 %, and of half, of the values


def is_suspicious(lowest: float, highest: float, half_below: float, most_below: float) -> bool:
    """half_below, most_below: bounds that half and 99.9 % of the absolute values stay below."""
    largest = max(abs(lowest), abs(highest))
    return (most_below > 0 and largest > _OF_ALL * most_below) or (half_below > 0 and largest > _OF_HALF * half_below)


def warning(column: str, lowest: float, highest: float, half_below: float, most_below: float, where: str = "") -> str:
    largest = max(lowest, highest, key=abs)
    place = f" ({where})" if where else ""
    return (
        f"WARNING: column {column!r} holds {largest:g}{place}, where 99.9 % of the values stay below {most_below:g} and half "
        f"below {half_below:g}: mean, deviation and buckets suffer. Correct it, or write null for what is not known"
    )


def warning_of(column: str, seen: Sketch) -> str | None:
    """The warning for a column with a suspicious largest value, else None."""
    if not seen.count:
        return None
    values, counts = seen.weighted()
    order = np.argsort(np.abs(values), kind="stable")
    sizes, reached = np.abs(values)[order], np.cumsum(counts[order])
    places = np.searchsorted(reached, np.array([0.5, 0.999]) * reached[-1])
    half, most = (float(size) for size in sizes[places])
    if not is_suspicious(seen.low, seen.high, half, most):
        return None
    return warning(column, seen.low, seen.high, half, most)
