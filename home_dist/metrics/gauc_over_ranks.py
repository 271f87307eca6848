"""GAUC and XAUC by group over ranks. Each rank holds and sorts only the rows of its own groups."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from home_dist.metrics.auc import GroupedAuc, auc_by_group
from home_dist.metrics.gauc import GaucResult, gauc_of
from home_dist.metrics.own_groups import sums_over_groups
from home_dist.metrics.samples import Samples, counted, counted_numbers
from home_dist.metrics.xauc import xauc_by_group


def gauc_over_ranks(
    labels: torch.Tensor, scores: torch.Tensor, groups: torch.Tensor, weights: torch.Tensor | None = None
) -> GaucResult:
    """GAUC of all ranks' rows (N,), defined as in metrics.gauc; the same on every rank. Collective.

    Takes CPU tensors. Raises DataError, on all ranks, for NaN scores and the other faults that samples.py lists.
    """
    return _over_ranks(counted, auc_by_group, labels, scores, groups, weights)


def grouped_xauc_over_ranks(
    labels: torch.Tensor, predictions: torch.Tensor, groups: torch.Tensor, weights: torch.Tensor | None = None
) -> GaucResult:
    """XAUC by group of all ranks' rows (N,), defined as in metrics.grouped_xauc; the same on every rank. Collective.

    Takes CPU tensors; groups are int64. Raises DataError, on all ranks, as metrics.xauc does.
    """
    return _over_ranks(counted_numbers, xauc_by_group, labels, predictions, groups, weights)


def _over_ranks(
    choose: Callable[..., Samples],
    by_group: Callable[[Samples, NDArray[np.generic]], GroupedAuc],
    labels: torch.Tensor,
    scores: torch.Tensor,
    groups: torch.Tensor,
    weights: torch.Tensor | None,
) -> GaucResult:
    def sums(groups: NDArray, labels: NDArray, scores: NDArray, weights: NDArray | None) -> list[float]:
        samples = choose(labels, scores, weights)
        own = gauc_of(by_group(samples, groups[samples.kept]))
        total = own.impressions_used
        return [own.value * total if total else 0.0, total, own.groups_used, own.groups_left_out]

    weighted, total, used, left_out = sums_over_groups(sums, groups, labels, scores, weights)
    return GaucResult(weighted / total if total else float("nan"), int(used), int(left_out), total)
