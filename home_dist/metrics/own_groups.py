"""Metrics of groups over ranks: all rows of a group go to one rank, which computes the group's part. After that only sums are
exchanged.

A hash of the group's number chooses its rank, so that users with consecutive numbers spread evenly.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from home_dist.metrics.over_ranks import OverRanks


def rows_of_own_groups(groups: torch.Tensor, *columns: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """groups (N,) int64 and columns (N,) of this rank's rows -> the same of all ranks' rows whose group belongs to this rank.

    Collective. The rows of a group come in the order of the ranks that sent them.
    """
    over = OverRanks.here()
    if over.world == 1:
        return groups, *columns
    owner = _owner(groups, over.world)
    order = torch.argsort(owner, stable=True)
    ends = torch.bincount(owner, minlength=over.world).cumsum(0).numpy()
    moved = [over.exchanged(ends, column[order].numpy())[1][0] for column in (groups, *columns)]
    return tuple(torch.from_numpy(column) for column in moved)


def sums_over_groups(
    sums_of_own: Callable[..., Sequence[float]], groups: torch.Tensor, *columns: torch.Tensor | None
) -> list[float]:
    """Sums over all ranks of what each computes of its own groups' rows, the same on every rank. Collective.

    sums_of_own: called with groups and columns (N,) as numpy arrays, None where a column is None on all ranks.
    Raises DataError on all ranks if one rank's call does.
    """
    there = [column for column in columns if column is not None]
    own_groups, *moved = (column.numpy() for column in rows_of_own_groups(groups, *there))
    given = iter(moved)
    arguments: list[NDArray[np.generic] | None] = [None if column is None else next(given) for column in columns]
    over = OverRanks.here()
    return over.sums(*over.agreed(lambda: sums_of_own(own_groups, *arguments)))


def _owner(groups: torch.Tensor, world: int) -> torch.Tensor:
    """(N,): the rank of each group, by Fibonacci hashing."""
    spread = groups.numpy().astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return torch.from_numpy(((spread >> np.uint64(33)) % np.uint64(world)).astype(np.int64))
