"""Metrics of groups over ranks: all rows of a group go to one rank, which computes the group's part. After that only sums are
exchanged.

A hash of the group's number chooses its rank, so that users with consecutive numbers spread evenly.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from home_dist.errors import DataError


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


def sums_over_groups(
    sums_of_own: Callable[..., Sequence[float]], count: int, groups: torch.Tensor, *columns: torch.Tensor | None
) -> list[float]:
    """Sums over all ranks of what each computes of its own groups' rows, the same on every rank. Collective.

    sums_of_own: called with groups and columns (N,) as numpy arrays, None where a column is None on all ranks; returns `count`
    numbers. Raises DataError on all ranks if one rank's call does.
    """
    there = [column for column in columns if column is not None]
    own_groups, *moved = (column.numpy() for column in rows_of_own_groups(groups, *there))
    given = iter(moved)
    arguments: list[NDArray[np.generic] | None] = [None if column is None else next(given) for column in columns]
    own, error = [0.0] * count, None
    try:
        own = list(sums_of_own(own_groups, *arguments))
    except DataError as caught:  # raised after the all-reduce, in which the other ranks wait
        error = caught
    sums = torch.tensor([*own, error is not None], dtype=torch.float64)
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(sums)
    *total, failed = sums.tolist()
    if failed:
        raise error or DataError("the rows that another rank was given cannot be scored; its message tells why")
    return total


def _owner(groups: torch.Tensor, world: int) -> torch.Tensor:
    """(N,): the rank of each group, by Fibonacci hashing."""
    spread = groups.numpy().astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return torch.from_numpy(((spread >> np.uint64(33)) % np.uint64(world)).astype(np.int64))
