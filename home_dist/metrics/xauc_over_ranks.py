"""XAUC of all ranks' rows, exact, with two exchanges. No rank holds more than about its share of rows.

Rows are sorted by (prediction, label) over ranks: rank r holds the r-th range. A pair is discordant if its first row in this
order has the higher label. Each rank counts the pairs within its range. For pairs of two ranges all ranks then sort by label
over ranks, and keep the range that each row came from: a pair is discordant if the row with the higher label came from the
lower range. So each rank counts inversions once more, this time of ranges in the order of labels; and pairs whose labels lie on
two ranks need only sums of weights by label rank and range.
"""

import numpy as np

from home_dist.metrics.inversions import inversions
from home_dist.metrics.levels import first_of_runs
from home_dist.metrics.over_ranks import OverRanks
from home_dist.metrics.samples import Floats, Samples

_START = np.zeros(1, np.int64)


def xauc_over_ranks(samples: Samples, over: OverRanks) -> float:
    """Defined as in metrics.xauc, the same on every rank. Collective. samples: this rank's."""
    score, label, weight = _by_score(samples, over)
    level = _level(score, weight, over)
    del score
    discordant = 0.0
    if label.size:
        [discordant], label, weight = inversions(label, weight, _START)
        first = first_of_runs(label)
        label, weight = label[first], np.add.reduceat(weight, first)
    pairs, across = _by_label(label, weight, over)
    pairs, discordant, level = over.sums(pairs, discordant + across, level)
    return float(np.clip(1 - (discordant + level / 2) / pairs, 0.0, 1.0)) if pairs else float("nan")


def _by_score(samples: Samples, over: OverRanks) -> tuple[Floats, Floats, Floats]:
    """Score, label and weight of this rank's range of distinct (score, label), sorted."""
    own = _distinct(samples.scores, samples.labels, samples.weights)
    score, label = own[:2]
    ends = []
    for cut_score, cut_label in zip(*over.cuts(score.size, score, label), strict=True):
        low, high = np.searchsorted(score, cut_score), np.searchsorted(score, cut_score, "right")
        ends.append(low + np.searchsorted(label[low:high], cut_label))
    _, received = over.exchanged(np.array([*ends, score.size], np.intp), *own)
    return _distinct(*received)


def _distinct(score: Floats, label: Floats, weight: Floats) -> tuple[Floats, Floats, Floats]:
    """Distinct (score, label), sorted, with sums of weights."""
    order = np.lexsort((label, score))
    score, label, weight = score[order], label[order], weight[order]
    if not order.size:
        return score, label, weight
    first = first_of_runs(score, label)
    return score[first], label[first], np.add.reduceat(weight, first)


def _level(score: Floats, weight: Floats, over: OverRanks) -> float:
    """This rank's part of the weight of pairs with equal scores and different labels. Rows: distinct (score, label), sorted
    over ranks. A score may go on from the ranks below."""
    ends = [0.0, 0.0, 0.0, 0.0]  # whether there are rows; lowest and highest score; weight of the highest
    first = first_of_runs(score) if score.size else np.zeros(0, np.intp)
    if score.size:
        ends = [1.0, score[0], score[-1], weight[first[-1] :].sum()]
    below = over.table(ends)[: over.rank]
    if not score.size:
        return 0.0
    before = np.cumsum(weight) - weight
    before -= np.repeat(before[first], np.diff(np.append(first, score.size)))
    first_run = slice(0, first[1] if first.size > 1 else score.size)
    before[first_run] += below[(below[:, 0] > 0) & (below[:, 2] == score[0]), 3].sum()
    return float((weight * before).sum())


def _by_label(label: Floats, weight: Floats, over: OverRanks) -> tuple[float, float]:
    """This rank's parts of the weight of pairs with different labels, and of discordant pairs of two ranges. Rows: distinct
    labels of this rank's range of scores, sorted."""
    [cuts] = over.cuts(label.size, label)
    counts, (label, weight) = over.exchanged(np.append(np.searchsorted(label, cuts), label.size), label, weight)
    source = np.repeat(np.arange(over.world), counts)
    order = np.lexsort((source, label))
    label, weight, source = label[order], weight[order], source[order]
    of_source = np.bincount(source, weight, minlength=over.world).astype(np.float64)
    pairs, discordant = _across_labels(of_source, over)
    if label.size:
        first = first_of_runs(label)
        of_label = np.add.reduceat(weight, first)
        pairs += float((of_label * (np.cumsum(of_label) - of_label)).sum())
        discordant += float(inversions(source.astype(np.float64), weight, _START)[0][0])
    return pairs, discordant


def _across_labels(of_source: Floats, over: OverRanks) -> tuple[float, float]:
    """Both weights, of pairs of this rank's labels with those of the ranks below. of_source: (world,) weights by range."""
    below = over.table(of_source)[: over.rank].sum(0)
    # The row of this rank has the higher label: the pair is discordant if it came from the lower range.
    higher_ranges = below.sum() - np.cumsum(below)
    return float(of_source.sum() * below.sum()), float((of_source * higher_ranges).sum())
