"""NDCG, MRR and recall within requests: how well the candidates of one request are ranked. (NDCG: Jarvelin and Kekalainen,
"Cumulated gain-based evaluation of IR techniques", TOIS 2002)

    NDCG@k   = DCG / DCG of the best order;  DCG = sum over ranks r = 1 .. k of gain(r) / log2(r + 1);  the gain is the label
    MRR      = 1 / rank of the first positive, a sample whose label is above 0
    recall@k = positives among the first k / positives

Each is the mean over requests that have a positive. Samples with equal scores have no order: each metric is its expectation
over all orders of them, so that the order of rows does not matter. Let equal scores fill the ranks a + 1 to a + m, p of them
positive. Then

    each of these ranks has the samples' mean gain, and p / m positives;
    the first positive, if none ranks higher, has rank a + x with probability C(m - x, p - 1) / C(m, p), x = 1 .. m - p + 1.

A weight is a number of repetitions: a sample of weight 2 takes two ranks. Weights must therefore be whole numbers.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from home_dist.errors import DataError
from home_dist.metrics.auc import order_within_groups
from home_dist.metrics.own_groups import sums_over_groups
from home_dist.metrics.samples import Floats, Samples, counted_numbers, prefix

_CELLS = 1 << 21
"""Probabilities of ranks that are held at a time: 16 MB."""


@dataclass(frozen=True)
class RequestMetrics:
    """Means over requests with a positive; NaN where there is none."""

    ndcg: float
    mrr: float
    recall: float
    requests_used: int
    requests_left_out: int
    """Requests without a positive."""


class RequestScores(NamedTuple):
    """One entry per request that has a positive, in the order of keys."""

    requests: NDArray[np.int64]
    ndcg: Floats
    mrr: Floats
    recall: Floats
    left_out: int
    """Requests without a positive."""


def within_requests(
    labels: ArrayLike, scores: ArrayLike, requests: ArrayLike, weights: ArrayLike | None = None, k: int = 10
) -> RequestMetrics:
    """NDCG@k, MRR and recall@k of labels (0 and 1, or gains of at least 0), scores, requests (int64) and weights, all (N,).

    Rows whose request is missing (NO_GROUP) are left out. Raises DataError for scores that are NaN, labels that are
    negative, infinite or NaN, and weights that are no whole numbers of at least 0. 10 million rows take some 10 s and 200 bytes
    per row; MRR takes time for each rank that the first positive can have, but no memory.
    """
    samples = counted_gains(labels, scores, weights)
    keys = np.asarray(requests)
    if keys.shape != samples.kept.shape:
        raise ValueError(f"requests {keys.shape} must be (N,) like labels {samples.kept.shape}")
    return _means(_sums(by_request(samples, keys[samples.kept], k)))


def within_requests_over_ranks(
    labels: torch.Tensor, scores: torch.Tensor, requests: torch.Tensor, weights: torch.Tensor | None = None, k: int = 10
) -> RequestMetrics:
    """within_requests of all ranks' rows (N,), the same on every rank. Collective.

    Takes CPU tensors. Each rank holds and sorts only the rows of its own requests. Raises DataError on all ranks.
    """

    def sums(requests: NDArray, labels: NDArray, scores: NDArray, weights: NDArray | None) -> list[float]:
        samples = counted_gains(labels, scores, weights)
        return _sums(by_request(samples, requests[samples.kept], k))

    return _means(sums_over_groups(sums, requests, labels, scores, weights))


def counted_gains(labels: ArrayLike, scores: ArrayLike, weights: ArrayLike | None = None, task: str | None = None) -> Samples:
    """Samples whose weight is not 0. Raises DataError, which names `task`, for faults that within_requests lists."""
    samples = counted_numbers(labels, scores, weights, task)
    y, w = samples.labels, samples.weights
    if (y < 0).any():
        raise DataError(f"{prefix(task)}{int((y < 0).sum()):,} of {y.size:,} labels are negative, for example {y[y < 0][0]:g}")
    fractions = w != np.floor(w)
    if fractions.any():
        raise DataError(
            f"{prefix(task)}{int(fractions.sum()):,} of {w.size:,} weights are no whole numbers, for example "
            f"{w[fractions][0]:g}: a rank cannot be shared. Give 1 for samples that count and 0 for others"
        )
    return samples


def by_request(samples: Samples, requests: NDArray[np.generic], k: int = 10) -> RequestScores:
    """Metrics of each request; requests: (N,) int64, each sample's."""
    if k < 1:
        raise ValueError(f"k must be at least 1, not {k}")
    keys = requests.astype(np.int64, copy=False)
    order = order_within_groups(-samples.scores, keys)
    request, score = keys[order], samples.scores[order]
    label, weight = samples.labels[order], samples.weights[order]
    if not order.size:
        return RequestScores(request, np.empty(0), np.empty(0), np.empty(0), 0)
    new_request = np.concatenate([[True], request[1:] != request[:-1]])
    first = np.flatnonzero(new_request)
    best = np.maximum.reduceat(label, first)
    # Gains relative to the request's best: NDCG stays the same, and sums cannot overflow.
    gain = label / np.repeat(np.where(best > 0, best, 1.0), np.diff(np.append(first, order.size)))
    blocks = _blocks(new_request, score, weight)
    size, positives = np.add.reduceat(weight, blocks.rows), np.add.reduceat(weight * (label > 0), blocks.rows)
    all_positives = np.add.reduceat(positives, blocks.first)
    among_k = np.clip(k - blocks.before, 0, size)
    recalled = np.add.reduceat(positives * (among_k / size), blocks.first)
    dcg = _dcg(gain, weight, blocks, k)
    used = all_positives > 0
    if (gain[gain > 0] == 1).all():
        ideal = _discounts(k, all_positives)
    else:
        best_first = order_within_groups(-gain, request)
        ideal = _dcg(gain[best_first], weight[best_first], _blocks(new_request, gain[best_first], weight[best_first]), k)
    # The first block with positives of each request that has one.
    with_positives = np.flatnonzero(positives > 0)
    holder = with_positives[np.searchsorted(with_positives, blocks.first[used])]
    mrr = _expected_reciprocal(blocks.before[holder], size[holder], positives[holder])
    with np.errstate(invalid="ignore", divide="ignore"):
        ndcg, recall = np.minimum(dcg / ideal, 1.0)[used], np.minimum(recalled / all_positives, 1.0)[used]
    return RequestScores(request[first[used]], ndcg, mrr, recall, int(used.size - used.sum()))


class _Blocks(NamedTuple):
    """Runs of equal scores within a request, of rows sorted by request and score."""

    rows: NDArray[np.intp]
    """(M,): the first row of each."""
    first: NDArray[np.intp]
    """(Q,): the first block of each request."""
    before: Floats
    """(M,): ranks of the request above each block."""


def _blocks(new_request: NDArray[np.bool_], score: Floats, weight: Floats) -> _Blocks:
    new = new_request.copy()
    new[1:] |= score[1:] != score[:-1]
    rows = np.flatnonzero(new)
    first = np.flatnonzero(new_request[rows])
    size = np.add.reduceat(weight, rows)
    before = np.cumsum(size) - size
    before -= np.repeat(before[first], np.diff(np.append(first, rows.size)))
    return _Blocks(rows, first, before)


def _dcg(gain: Floats, weight: Floats, blocks: _Blocks, k: int) -> Floats:
    """(Q,): expected DCG@k of each request."""
    size = np.add.reduceat(weight, blocks.rows)
    mean_gain = np.add.reduceat(weight * gain, blocks.rows) / size
    discount = _discounts(k, blocks.before + size) - _discounts(k, blocks.before)
    dcg: Floats = np.add.reduceat(mean_gain * discount, blocks.first)
    return dcg


def _discounts(k: int, ranks: Floats) -> Floats:
    """Sum of 1 / log2(r + 1) over r = 1 .. min(k, ranks), for each of `ranks`."""
    highest = int(min(k, ranks.max(initial=0)))
    sums = np.concatenate([[0.0], np.cumsum(1 / np.log2(np.arange(2, highest + 2)))])
    return sums[np.minimum(ranks, highest).astype(np.int64)]


def _expected_reciprocal(before: Floats, size: Floats, positives: Floats) -> Floats:
    """(Q,): the mean of 1 / (before + x) where x is the place of the first of `positives` among `size` samples in random order.

    P(x = 1) = p / m, and P(x + 1) / P(x) = (m - x - p + 1) / (m - x). Blocks are taken in the order of their number of places,
    and some places at a time, so that memory stays bounded.
    """
    mean = positives / size / (before + 1)
    last = size - positives + 1  # the last possible x
    open_ = np.argsort(-last, kind="stable")
    probability, x = positives / size, 1
    while True:
        open_ = open_[: np.searchsorted(-last[open_], -x)]  # whose last place is beyond x
        open_ = open_[probability[open_] > 0]
        if not open_.size:
            return mean
        steps = int(min(max(1, _CELLS // open_.size), 2 * x, last[open_[0]] - x))
        place = np.arange(x, x + steps, dtype=np.float64)
        m, p, a = (column[open_, None] for column in (size, positives, before))
        ratio = np.maximum(m - place - p + 1, 0) / np.maximum(m - place, 1)
        chance = probability[open_, None] * np.cumprod(ratio, axis=1)
        mean[open_] += (chance / (a + place + 1)).sum(axis=1)
        probability[open_] = chance[:, -1]
        x += steps


def _sums(scores: RequestScores) -> list[float]:
    values = (scores.ndcg, scores.mrr, scores.recall)
    return [*(float(v.sum()) for v in values), float(scores.requests.size), float(scores.left_out)]


def _means(sums: list[float]) -> RequestMetrics:
    *values, used, left_out = sums
    ndcg, mrr, recall = (value / used if used else float("nan") for value in values)
    return RequestMetrics(ndcg, mrr, recall, int(used), int(left_out))
