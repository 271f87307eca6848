"""Area under the ROC curve, exact, for one set of samples or for many groups (normally users) at once.

AUC is the share of pairs (positive, negative) in which the positive has the higher score; equal scores count half:

    AUC = sum over positives of (weight of negatives below + weight of negatives level / 2) / (weight of all pairs)

One sort puts equal scores of a group beside each other. Sums over these runs of equal scores do the rest, without a loop over
groups.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from home_dist.ids.no_group import NO_GROUP
from home_dist.metrics.levels import Levels, area, levels
from home_dist.metrics.over_ranks import ALONE, OverRanks
from home_dist.metrics.samples import Floats, Samples, counted


@dataclass(frozen=True)
class GroupedAuc:
    """One entry per group that has samples, in the groups' order."""

    groups: NDArray[np.generic]
    auc: Floats
    """NaN for a group without a pair. XAUC, where xauc_by_group made it."""
    impressions: Floats
    """Sum of the group's weights: the number of its samples, where weights are 0 or 1."""


def auc(labels: ArrayLike, scores: ArrayLike, weights: ArrayLike | None = None) -> float:
    """AUC of labels, scores and weights (N,), between 0 and 1; NaN where one class is missing.

    Scores can be logits or probabilities: only their order matters. Raises DataError for NaN scores, see samples.py.
    """
    return auc_of(counted(labels, scores, weights))


def auc_of(samples: Samples, over: OverRanks = ALONE) -> float:
    """Of all ranks' samples. Collective."""
    return area(levels_of(samples, over), over)


def levels_of(samples: Samples, over: OverRanks = ALONE) -> Levels:
    """Levels of scores, with the weights of positives and of negatives. Collective."""
    positive = samples.labels == 1
    weights = np.where(positive, samples.weights, 0.0), np.where(positive, 0.0, samples.weights)
    return levels(samples.scores, *weights, over=over)


def auc_by_group(samples: Samples, groups: NDArray[np.generic]) -> GroupedAuc:
    """AUC of each group; groups: (N,), each sample's. Samples of NO_GROUP, whose key is missing, are left out."""
    order = order_within_groups(samples.scores, groups)
    group, score = groups[order], samples.scores[order]
    weight, positive = samples.weights[order], samples.labels[order] == 1
    if not order.size:
        return GroupedAuc(group, np.empty(0), np.empty(0))
    new_group = np.concatenate([[True], group[1:] != group[:-1]])
    new_run = new_group.copy()
    new_run[1:] |= score[1:] != score[:-1]
    runs = np.flatnonzero(new_run)  # a run: equal scores of one group
    first_run = np.flatnonzero(new_group[runs])  # the first run of each group
    positives = np.add.reduceat(np.where(positive, weight, 0.0), runs)
    negatives = np.add.reduceat(np.where(positive, 0.0, weight), runs)
    below = np.cumsum(negatives) - negatives
    runs_per_group = np.diff(np.append(first_run, runs.size))
    below -= np.repeat(below[first_run], runs_per_group)
    pairs_won = np.add.reduceat(positives * (below + negatives / 2), first_run)
    all_positive = np.add.reduceat(positives, first_run)
    all_negative = np.add.reduceat(negatives, first_run)
    with np.errstate(invalid="ignore", divide="ignore"):
        area = pairs_won / (all_positive * all_negative)
    area[(all_positive == 0) | (all_negative == 0)] = np.nan
    # Sums of fractional weights round, which could push an area out of 0 .. 1.
    return GroupedAuc(group[new_group], np.clip(area, 0.0, 1.0), all_positive + all_negative)


def order_within_groups(keys: Floats, groups: NDArray[np.generic]) -> NDArray[np.int64]:
    """Rows by group, then by key (N,), then as they were. Rows of NO_GROUP are left out."""
    if groups.dtype != np.int64:
        return np.lexsort((keys, groups))
    order = np.argsort(keys, kind="stable")
    # torch sorts integers by radix, in half of numpy's time.
    sorted_groups, by_group = torch.sort(torch.from_numpy(groups[order]), stable=True)
    keyless = np.searchsorted(sorted_groups.numpy(), NO_GROUP, side="right")  # NO_GROUP is the lowest int64: it sorts first
    return order[by_group.numpy()[keyless:]]
