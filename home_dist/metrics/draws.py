"""Draws of users with replacement, and a metric's value in all draws at once.

Impressions of one user depend on each other, so whole users, not rows, are drawn. A user that is drawn twice counts as two
users: a draw gives weights to rows. Rows are therefore sorted once, not once per draw.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray

from home_dist.ids.no_group import NO_GROUP
from home_dist.metrics.samples import Floats, Samples

_LEVELS = 256
"""Levels of scores that are counted at a time, for all draws: some 1 MB, which stays in the cache."""
_EXACT = 1 << 24
"""float32 holds whole numbers exactly up to here."""


@dataclass(frozen=True)
class Draws:
    """R draws of the U users of N rows. They depend on the users, R and the seed alone, not on the order of rows."""

    user: NDArray[np.intp]
    """(N,) each row's user"""
    times: torch.Tensor
    """(U, R) float32: how often each user occurs in each draw."""

    @staticmethod
    def of(groups: ArrayLike, resamples: int = 200, seed: int = 0, times: float = 1.0) -> "Draws":
        """groups: (N,), each row's user. Rows without one (NO_GROUP) have nothing in common: each is drawn by itself. times:
        the size of a draw, as a multiple of the U users."""
        if resamples < 1:
            raise ValueError(f"resamples must be at least 1, not {resamples}")
        names = np.asarray(groups)
        distinct, user = np.unique(names, return_inverse=True)
        users = max(1, distinct.size)
        keyless = np.flatnonzero(names == NO_GROUP)
        if keyless.size:
            user[keyless] = np.append(user[keyless[0]], users + np.arange(keyless.size - 1))
            users += keyless.size - 1
        random = np.random.default_rng(seed)
        drawn, size = np.empty((users, resamples), np.float32), max(1, round(times * users))
        for draw in range(resamples):
            drawn[:, draw] = np.bincount(random.integers(0, users, size), minlength=users)
        return Draws(user, torch.from_numpy(drawn))

    def pairs(self, within: NDArray[np.generic]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """((N,) each row's pair of user and `within` (N,), the user of each pair)."""
        values, code = np.unique(within, return_inverse=True)
        pairs, pair = np.unique(self.user * max(1, len(values)) + code, return_inverse=True)
        return pair.astype(np.intp), (pairs // max(1, len(values))).astype(np.intp)

    def summed(self, users: NDArray[np.intp], values: Floats) -> Floats:
        """(R,) the sum of the users' values in each draw; users and values: (n,), a user may occur several times."""
        by_user = np.bincount(users, values, minlength=len(self.times)).astype(np.float64)  # no rows: whole numbers
        return (torch.from_numpy(by_user) @ self._doubles).numpy()

    def auc(self, samples: Samples, user: NDArray[np.intp]) -> Floats:
        """(R,) AUC in each draw, NaN for a draw without one of the classes. user: (n,), each sample's."""
        score, positive = samples.scores, samples.labels == 1
        if 2 * positive.sum() > positive.size:  # the same area, with fewer levels below
            score, positive = -score, ~positive
        order = np.argsort(score, kind="stable")
        score, positive, user, weight = score[order], positive[order], user[order], samples.weights[order]
        # A level is a score of positives. Negatives fall into a bin per level, one before each, and one above all.
        levels, first = np.unique(score[positive], return_index=True)
        lower = score[~positive]
        bins = np.searchsorted(levels, lower, "left") + np.searchsorted(levels, lower, "right")
        above = self._bags(user[positive], weight[positive], first)
        below = self._bags(user[~positive], weight[~positive], np.searchsorted(bins, np.arange(2 * levels.size + 1)))
        won, positives, negatives = (torch.zeros(self.times.shape[1], dtype=torch.float64) for _ in range(3))
        with _one_thread():
            for start in range(0, levels.size, _LEVELS):
                stop = min(start + _LEVELS, levels.size)
                of_level, of_bins = above(start, stop), below(2 * start, 2 * stop).reshape(stop - start, 2, -1)
                lost = negatives + of_bins.sum(1).cumsum(0) - of_bins[:, 1] / 2  # equal scores count half
                won += (of_level * lost).sum(0)
                positives += of_level.sum(0)
                negatives = negatives + of_bins.sum((0, 1))
        negatives = negatives + below(2 * levels.size, 2 * levels.size + 1).sum(0)
        return ratio(won.numpy(), (positives * negatives).numpy())

    def _bags(self, user: NDArray[np.intp], weight: Floats, first: NDArray[np.intp]) -> Callable[[int, int], torch.Tensor]:
        """f(start, stop) -> (stop - start, R) float64: sums of weights, in each draw, of the bins start .. stop.
        first: where each bin begins among the rows; user and weight: (n,)."""
        whole = bool((weight == np.rint(weight)).all()) and float(weight.sum()) * float(self.times.max()) <= _EXACT
        times = self.times if whole else self._doubles
        users, weights = torch.from_numpy(user), torch.from_numpy(weight).to(times.dtype)
        ends = np.append(first, user.size)

        def sums(start: int, stop: int) -> torch.Tensor:
            rows = slice(ends[start], ends[stop])
            begins = torch.from_numpy(ends[start:stop] - ends[start])
            bags = F.embedding_bag(users[rows], times, begins, mode="sum", per_sample_weights=weights[rows])
            return bags.double()

        return sums

    @cached_property
    def _doubles(self) -> torch.Tensor:
        return self.times.double()


@contextmanager
def _one_thread() -> Iterator[None]:
    """Thousands of small operations: threads would gain nothing, and where other programs take the cores, a thread that waits
    for another one at the end of each operation makes this twenty times as slow."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def ratio(top: Floats, bottom: Floats) -> Floats:
    """top / bottom, NaN where bottom is 0."""
    quotient: Floats = np.divide(top, bottom, out=np.full(top.shape, np.nan), where=bottom > 0)
    return quotient
