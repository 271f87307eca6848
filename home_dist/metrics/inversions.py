"""Weighted inversions of many sequences at once, in N log N: by a merge sort in C++, or without a compiler by numpy.

An inversion is a pair of a sequence whose first value is greater than its second. 10 million values of one sequence take some
1.3 s and 32 bytes each in C++; numpy takes some ten times as long, and up to 200 bytes each.
"""

import ctypes
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from home_dist.metrics.samples import Floats
from home_dist.native_library import library_if_possible, pointer

_SOURCE = Path(__file__).parent / "native" / "inversions.cpp"


def native() -> ctypes.CDLL | None:
    """The compiled library; None without a compiler."""
    return library_if_possible(_SOURCE)


def inversions(values: Floats, weights: Floats, starts: NDArray[np.int64]) -> tuple[Floats, Floats, Floats]:
    """(S,) sum over inversions of the product of both weights in each sequence; and the values and weights (N,), sorted by
    value within each sequence.

    values, weights: (N,), one sequence after another; starts: (S,) where each begins, the first at 0. No value is NaN.
    """
    bounds = np.append(starts, values.size).astype(np.int64)
    library = native()
    if library is None:
        return _with_numpy(values, weights, bounds)
    items = np.stack([values, weights], axis=1)
    scratch = items.copy()
    inverted = np.zeros(len(starts))
    library.sort_segments(*map(pointer, (items, scratch, bounds)), ctypes.c_int64(len(starts)), pointer(inverted))
    return inverted, items[:, 0], items[:, 1]


def _with_numpy(values: Floats, weights: Floats, bounds: NDArray[np.int64]) -> tuple[Floats, Floats, Floats]:
    """Sequences of similar lengths are the rows of one matrix, as wide as the next power of 2."""
    starts, lengths = bounds[:-1], np.diff(bounds)
    order = np.lexsort((values, np.repeat(np.arange(lengths.size), lengths)))
    rank = np.empty(values.size, np.int64)
    rank[order] = np.arange(values.size) - np.repeat(starts, lengths)  # equal values: in their order, so that none is inverted
    inverted = np.zeros(lengths.size)
    for bits in range(1, int(lengths.max(initial=1) - 1).bit_length() + 1):
        chosen = np.flatnonzero((lengths > 1 << (bits - 1)) & (lengths <= 1 << bits))
        if not chosen.size:
            continue
        place = np.arange(1 << bits)
        there = place < lengths[chosen, None]
        rows = (starts[chosen, None] + place)[there]
        ranks = np.where(there, 0, place)  # what fills a row up is in order, and weighs nothing
        ranks[there] = rank[rows]
        weight = np.zeros(there.shape)
        weight[there] = weights[rows]
        inverted[chosen] = _inversions_of_permutations(ranks, weight, bits)
    return inverted, values[order], weights[order]


def _inversions_of_permutations(ranks: NDArray[np.int64], weights: Floats, bits: int) -> Floats:
    """(S,) of permutations (S, 2^bits), bit by bit from the highest.

    Ranks that agree in all higher bits form a node, in the order of the sequence. A pair of a node is inverted by this bit if
    the first has a 1 and the second a 0. Then each node is split by the bit.
    """
    inverted = np.zeros(len(ranks))
    shape, rank, weight = ranks.shape, ranks.reshape(-1), weights.reshape(-1)
    for bit in range(bits - 1, -1, -1):
        one = (rank >> bit & 1).astype(bool)
        zero = ~one
        before = np.cumsum(np.where(one, weight, 0.0).reshape(-1, 2 << bit), axis=1).reshape(-1)
        inverted += (weight[zero] * before[zero]).reshape(shape[0], -1).sum(axis=1)
        rank, weight = (
            np.stack([c[zero].reshape(-1, 1 << bit), c[one].reshape(-1, 1 << bit)], axis=1).reshape(-1) for c in (rank, weight)
        )
    return inverted
