"""XAUC: the share of pairs of samples that predictions put in the order of their labels. (Zhan et al., "Deconfounding Duration
Bias in Watch-time Prediction for Video Recommendation", KDD 2022)

    XAUC = sum over pairs with y_i > y_j of w_i w_j ([p_i > p_j] + [p_i = p_j] / 2) / sum over these pairs of w_i w_j

For labels 0 and 1 this is AUC. In samples sorted by prediction, then by label, discordant pairs are the labels' inversions.
Within a group, normally a user, the metric is averaged as GAUC is.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from home_dist.metrics.auc import GroupedAuc, order_within_groups
from home_dist.metrics.gauc import GaucResult, gauc_of
from home_dist.metrics.inversions import inversions
from home_dist.metrics.over_ranks import ALONE, OverRanks
from home_dist.metrics.samples import Floats, Samples, counted_numbers
from home_dist.metrics.xauc_over_ranks import xauc_over_ranks


def xauc(labels: ArrayLike, predictions: ArrayLike, weights: ArrayLike | None = None) -> float:
    """XAUC of labels, predictions and weights (N,), between 0 and 1; NaN where all labels are equal.

    Only the order of predictions matters. Raises DataError for predictions that are NaN, labels that are infinite or NaN, and
    weights that are negative, infinite or NaN. 10 million rows take some 5 s and 80 bytes per
    row, without a C++ compiler 28 s.
    """
    return xauc_of(counted_numbers(labels, predictions, weights))


def grouped_xauc(labels: ArrayLike, predictions: ArrayLike, groups: ArrayLike, weights: ArrayLike | None = None) -> GaucResult:
    """Mean of the groups' XAUC, weighted by impressions. Groups (N,): integers or strings. A group with one distinct label has
    no pair; it is left out and counted. Rows of NO_GROUP are left out. Raises DataError as `xauc` does.
    """
    samples = counted_numbers(labels, predictions, weights)
    names = np.asarray(groups)
    if names.shape != samples.kept.shape:
        raise ValueError(f"groups {names.shape} must be (N,) like labels {samples.kept.shape}")
    return gauc_of(xauc_by_group(samples, names[samples.kept]))


def xauc_of(samples: Samples, over: OverRanks = ALONE) -> float:
    """Of all ranks' samples. Collective."""
    if over.world > 1:
        return xauc_over_ranks(samples, over)
    one_group = xauc_by_group(samples, np.zeros(samples.labels.size, dtype=np.int8))
    return float(one_group.auc[0]) if one_group.auc.size else float("nan")


def xauc_by_group(samples: Samples, groups: NDArray[np.generic]) -> GroupedAuc:
    """XAUC of each group; groups: (N,), each sample's. Samples of NO_GROUP, whose key is missing, are left out."""
    order = order_within_groups(samples.scores, groups)
    group, score, label, weight = groups[order], samples.scores[order], samples.labels[order], samples.weights[order]
    if not order.size:
        return GroupedAuc(group, np.empty(0), np.empty(0))
    new_group = np.concatenate([[True], group[1:] != group[:-1]])
    _, label, weight = inversions(label, weight, np.flatnonzero(_new_runs(new_group, score)))  # sorts labels of equal scores
    value, impressions = xauc_of_sorted(label, score, weight, new_group)
    return GroupedAuc(group[new_group], value, impressions)


def xauc_of_sorted(label: Floats, score: Floats, weight: Floats, new_group: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """(G,) XAUC and sum of weights of each group, of rows (N,) sorted by group, score and label, N > 0; new_group marks the
    groups' first rows."""
    new_score = _new_runs(new_group, score)
    first = np.flatnonzero(new_group)
    level = _pairs_apart(weight, new_score, _new_runs(new_score, label), first)
    discordant, label, weight = inversions(label, weight, first)  # from here on sorted by label
    new_label = _new_runs(new_group, label)
    pairs = _pairs_apart(weight, new_group, new_label, first)
    with np.errstate(invalid="ignore", divide="ignore"):
        value = 1 - (discordant + level / 2) / pairs
    value[pairs == 0] = np.nan
    # Sums of fractional weights round, which could push a value out of 0 .. 1.
    return np.clip(value, 0.0, 1.0), np.add.reduceat(weight, first)


def _new_runs(new_outer: NDArray[np.bool_], values: Floats) -> NDArray[np.bool_]:
    """(N,): where a run of equal values begins; an outer run ends all runs within it."""
    new = new_outer.copy()
    new[1:] |= values[1:] != values[:-1]
    return new


def _pairs_apart(weight: Floats, new_outer: NDArray[np.bool_], new_inner: NDArray[np.bool_], first: NDArray[np.intp]) -> Floats:
    """(G,): by group, which begins at `first`, the weight of pairs of one outer run that lie in different inner runs."""
    inner = np.flatnonzero(new_inner)
    inner_weight = np.add.reduceat(weight, inner)
    before = np.cumsum(inner_weight) - inner_weight
    outer = np.flatnonzero(new_outer[inner])
    before -= np.repeat(before[outer], np.diff(np.append(outer, inner.size)))
    by_group: Floats = np.add.reduceat(inner_weight * before, np.searchsorted(inner, first))
    return by_group
