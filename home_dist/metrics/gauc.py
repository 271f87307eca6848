"""AUC within groups, normally users: how well each user's impressions are ordered, which is a feed's job.

    GAUC = sum over groups (impressions x AUC) / sum over groups (impressions)

Both sums are over the groups that have both classes. The other groups have no AUC; they are left out and counted.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from home_dist.metrics.auc import GroupedAuc, auc_by_group
from home_dist.metrics.samples import counted


@dataclass(frozen=True)
class GaucResult:
    value: float
    """NaN where no group has a pair."""
    groups_used: int
    groups_left_out: int
    """Groups without a pair: with samples of one class only, or, for XAUC, of one label only."""
    impressions_used: float
    """Sum of the weights of the groups used."""


def gauc(labels: ArrayLike, scores: ArrayLike, groups: ArrayLike, weights: ArrayLike | None = None) -> GaucResult:
    """GAUC of labels, scores, groups (integers or strings) and weights, all (N,)."""
    samples = counted(labels, scores, weights)
    names = np.asarray(groups)
    if names.shape != samples.kept.shape:
        raise ValueError(f"groups {names.shape} must be (N,) like labels {samples.kept.shape}")
    return gauc_of(auc_by_group(samples, names[samples.kept]))


def gauc_of(by_group: GroupedAuc) -> GaucResult:
    used = ~np.isnan(by_group.auc)
    impressions = by_group.impressions[used]
    total = float(impressions.sum())
    value = float(impressions @ by_group.auc[used]) / total if total else float("nan")
    return GaucResult(value, int(used.sum()), int((~used).sum()), total)
