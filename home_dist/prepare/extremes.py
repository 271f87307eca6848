"""Whether the largest values of a column can be meant: one of 1e30 among thousands spoils mean, deviation and buckets."""

import numpy as np

from home_dist.prepare.sketch import Sketch

_OF_ALL, _OF_HALF = 1e3, 1e6  # how often a largest value may be what 99.9 % and half of the values stay below


def is_suspicious(lowest: float, highest: float, half_below: float, most_below: float) -> bool:
    """half_below, most_below: what half and 99.9 % of the absolute values stay below."""
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
    """None for a column whose largest values can be meant."""
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
