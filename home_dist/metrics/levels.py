"""Levels: the distinct scores of all ranks' rows, in order, with sums over the rows that have each. Rank r holds the r-th range
of scores.

AUC and bins of equal weight need only levels. A score that many rows share is one level, so that no rank receives more than
about its share of them, however scores are spread.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from home_dist.metrics.over_ranks import ALONE, OverRanks
from home_dist.metrics.samples import Floats


class Levels(NamedTuple):
    """The M levels of this rank's range, from low to high."""

    scores: Floats
    """(M,)"""
    sums: tuple[Floats, ...]
    """Of each column, (M,): its sum over the rows of a level."""


def levels(scores: Floats, *columns: Floats, over: OverRanks = ALONE) -> Levels:
    """Levels of scores (N,), with sums of columns (N,). Collective. Scores are not NaN."""
    order = np.argsort(scores, kind="stable")
    own = _summed(scores[order], [column[order] for column in columns])
    del order
    if over.world == 1:
        return own
    [cuts] = over.cuts(own.scores.size, own.scores)
    ends = np.append(np.searchsorted(own.scores, cuts), own.scores.size)
    _, received = over.exchanged(ends, own.scores, *own.sums)
    del own
    order = np.argsort(received[0], kind="stable")  # by level, then by the rank that sent it
    return _summed(received[0][order], [column[order] for column in received[1:]])


def _summed(scores: Floats, columns: list[Floats]) -> Levels:
    """Of rows sorted by score."""
    if not scores.size:
        return Levels(scores, tuple(columns))
    first = first_of_runs(scores)
    return Levels(scores[first], tuple(np.add.reduceat(column, first) for column in columns))


def first_of_runs(*keys: Floats) -> NDArray[np.intp]:
    """Where runs of rows (N,) with equal keys begin; N > 0."""
    new = np.zeros(keys[0].size, np.bool_)
    new[0] = True
    for key in keys:
        new[1:] |= key[1:] != key[:-1]
    return np.flatnonzero(new)


def area(of: Levels, over: OverRanks = ALONE) -> float:
    """AUC, of levels with the weights of positives and of negatives. NaN where one class is missing. Collective."""
    positives, negatives = of.sums
    here = _total(positives), _total(negatives)
    below = np.cumsum(negatives) - negatives + over.below(here[1])
    won, positive, negative = over.sums(_total(positives * (below + negatives / 2)), *here)
    # Sums of fractional weights round, which could push an area out of 0 .. 1.
    return float(np.clip(won / (positive * negative), 0.0, 1.0)) if positive and negative else float("nan")


def _total(values: Floats) -> float:
    return float(np.add.reduceat(values, [0])[0]) if values.size else 0.0  # rounds as the sums of groups do


def bin_edges(scores: Floats, weights: Floats, bins: int, over: OverRanks = ALONE) -> Floats:
    """Lowest score of each of `bins` bins but the first, of levels (M,). Bins hold equal weights, in the order of scores.
    A bin that begins above all scores has no edge, so that there can be fewer than bins - 1. Collective."""
    here = float(weights.sum())
    before = over.below(here)
    [total] = over.sums(here)
    edges = np.full(bins - 1, np.nan)
    if scores.size:
        middle = before + (np.cumsum(weights) - weights / 2)
        bin_of_level = np.minimum((middle / total * bins).astype(np.int64), bins - 1)
        place = np.searchsorted(bin_of_level, np.arange(1, bins))
        edges[place < scores.size] = scores[place[place < scores.size]]
    edges = np.fmin.reduce(over.table(edges), axis=0)
    return edges[~np.isnan(edges)]


def bin_of(scores: Floats, edges: Floats) -> NDArray[np.int64]:
    """(N,): each score's bin, from 0."""
    return np.searchsorted(edges, scores, side="right").astype(np.int64)
