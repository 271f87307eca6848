"""Rows of one group onto one rank: what is counted by group is then counted where all of the group is, and only sums travel on.

A group belongs to the rank that a hash of its number names, so that users whose numbers follow on each other spread evenly.
"""

import numpy as np
import torch
import torch.distributed as dist

from home_dist.errors import DataError
from home_dist.metrics.auc import auc_by_group
from home_dist.metrics.gauc import GaucResult, gauc_of
from home_dist.metrics.samples import counted


def rows_of_own_groups(groups: torch.Tensor, *columns: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """groups: (N,) int64 and columns (N,) of this rank -> those, of all ranks, of the groups that belong to this rank.

    Collective. The rows of a group come in the ranks' order.
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
    """GAUC of the rows (N,) of all ranks, as metrics.gauc has it of one rank's; the same on every rank.

    Tensors of the CPU. Each rank sorts its own groups' rows alone, and holds no others'. Raises DataError, on all ranks, for
    NaN scores and the like, see samples.py.
    """
    kept = (labels, scores) if weights is None else (labels, scores, weights)
    mine, *own = (column.numpy() for column in rows_of_own_groups(groups, *kept))
    found, error = GaucResult(0.0, 0, 0, 0.0), None
    try:
        samples = counted(own[0], own[1], own[2] if weights is not None else None)
        found = gauc_of(auc_by_group(samples, mine[samples.kept]))
    except DataError as caught:  # the others wait for the sums
        error = caught
    total = found.impressions_used
    value = found.value * total if total else 0.0
    sums = torch.tensor([value, total, found.groups_used, found.groups_left_out, error is not None], dtype=torch.float64)
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
