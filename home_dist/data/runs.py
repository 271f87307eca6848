"""Runs: rows of one request that follow each other. Inputs of `data.once_per_request` are the same in all rows of a run, and
are kept once for it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from home_dist.data.chunked import ChunkedColumns


@dataclass(frozen=True)
class Runs:
    numbers: NDArray[np.int64]
    """(rows,): the run of each row, ascending."""
    firsts: NDArray[np.int64]
    """(runs,): the first row of each."""

    @staticmethod
    def of(keys: NDArray[np.int64]) -> "Runs":
        """keys: (rows,) of requests."""
        begins = begins_of(keys)
        return Runs(np.cumsum(begins) - 1, np.flatnonzero(begins))

    def differing(self, columns: ChunkedColumns, place: int) -> NDArray[np.bool_]:
        """(rows,): whether a row's value in a column differs from that in the first row of its run."""
        marked = np.zeros(len(self.numbers), np.bool_)
        if len(self.firsts) == len(self.numbers):
            return marked
        firsts = self.firsts[self.numbers]
        rows = np.flatnonzero(firsts != np.arange(len(firsts)))
        marked[rows] = columns.differing(place, rows, firsts[rows])
        return marked

    def taken(self, order: NDArray[np.int64]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """order: rows (n,), those of a run one after another. Returns the run of each row (n,), numbered from 0, and the first
        row of each of these runs."""
        runs = self.numbers[order]
        begins = begins_of(runs)
        return (np.cumsum(begins) - 1).astype(np.int32), self.firsts[runs[begins]]


def begins_of(keys: NDArray) -> NDArray[np.bool_]:
    """(rows,): whether a row's key differs from that of the row before."""
    begins = np.ones(len(keys), np.bool_)
    begins[1:] = keys[1:] != keys[:-1]
    return begins
