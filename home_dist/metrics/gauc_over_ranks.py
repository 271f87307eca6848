"""GAUC over ranks: all rows of a group go to one rank, which computes the group's AUC. After that only sums are exchanged.

A hash of the group's number chooses its rank, so that users with consecutive numbers spread evenly.
"""

import numpy as np
import torch
import torch.distributed as dist

from home_dist.errors import DataError
from home_dist.metrics.auc import auc_by_group
from home_dist.metrics.gauc import GaucResult, gauc_of
from home_dist.metrics.samples import counted


def rows_of_own_groups(groups: torch.Tensor, *columns: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """groups (N,) int64 and columns (N,) of this rank's rows -> the same of all ranks' rows whose group belongs to this rank.

    Collective. The rows of a group come in the order of the ranks that sent them.
    """
    world = dist.get_world_size() if dist.is_initialized() else 1
    if world == 1:
        return groups, *columns
    owner = _owner(groups, world)
    order = torch.argsort(owner, stable=True)
    counts = torch.bincount(owner, minlength=world)
    received = torch.empty_like(counts)
    dist.all_to_all_single(received, counts)
    sizes = received.tolist(), counts.tolist()
    moved = []
    for column in (groups, *columns):
        out = column.new_empty(sum(sizes[0]))
        dist.all_to_all_single(out, column[order].contiguous(), *sizes)
        moved.append(out)
    return tuple(moved)


def gauc_over_ranks(
    labels: torch.Tensor, scores: torch.Tensor, groups: torch.Tensor, weights: torch.Tensor | None = None
) -> GaucResult:
    """GAUC of all ranks' rows (N,), defined as in metrics.gauc; the same on every rank. Collective.

    Takes CPU tensors. Each rank holds and sorts only the rows of its own groups. Raises DataError, on all ranks, for NaN scores
    and the other faults that samples.py lists.
    """
    sent = (labels, scores) if weights is None else (labels, scores, weights)
    own_groups, *columns = (column.numpy() for column in rows_of_own_groups(groups, *sent))
    own_gauc, error = GaucResult(0.0, 0, 0, 0.0), None
    try:
        samples = counted(columns[0], columns[1], columns[2] if weights is not None else None)
        own_gauc = gauc_of(auc_by_group(samples, own_groups[samples.kept]))
    except DataError as caught:  # raised after the all-reduce, in which the other ranks wait
        error = caught
    total = own_gauc.impressions_used
    value = own_gauc.value * total if total else 0.0
    sums = torch.tensor([value, total, own_gauc.groups_used, own_gauc.groups_left_out, error is not None], dtype=torch.float64)
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(sums)
    weighted, total, used, left_out, failed = sums.tolist()
    if failed:
        raise error or DataError("the rows that another rank was given cannot be scored; its message tells why")
    return GaucResult(weighted / total if total else float("nan"), int(used), int(left_out), total)


def _owner(groups: torch.Tensor, world: int) -> torch.Tensor:
    """(N,): the rank of each group, by Fibonacci hashing."""
    spread = groups.numpy().astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return torch.from_numpy(((spread >> np.uint64(33)) % np.uint64(world)).astype(np.int64))
