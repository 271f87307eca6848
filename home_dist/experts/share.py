"""Expert parallelism: which experts of a pool a rank holds, where ranks share a pool (Lepikhin et al., ICLR 2021, GShard).

N consecutive ranks share a pool; of W ranks in all, W / N groups hold a copy each. Rank r of a group holds E // N consecutive
experts, or one more. Pairs of a sample and an expert travel to the rank that holds the expert (over_ranks.py).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from torch import nn

from home_dist.layers.peers import ALONE, Peers

_over: tuple[int, int, timedelta | None] = (1, 1, None)


@contextmanager
def pools_over(ranks: int, at_most: int, timeout: float | None = None) -> Iterator[None]:
    """Inside the block pools are made for this many ranks, of which `at_most` share one: for those of the process group, or,
    without one, for those that a plan is made of. timeout: seconds that their exchange waits for a rank."""
    global _over
    before, _over = _over, (ranks, at_most, None if timeout is None else timedelta(seconds=timeout))
    try:
        yield
    finally:
        _over = before


@dataclass(frozen=True)
class Share:
    """The experts `first` to `first + count - 1` of a pool."""

    experts: int
    """E, of the whole pool."""
    first: int
    count: int
    holders: Peers = ALONE
    """The ranks that share the pool."""
    copies: Peers = ALONE
    """The ranks that hold the same experts."""
    writes: bool = True
    """Whether this rank's copy is the one that checkpoints hold."""

    @staticmethod
    def of(experts: int) -> "Share":
        """Of a pool that is made now. As many ranks share it as `pools_over` allows, divide its ranks and have an expert each.
        Collective where several do."""
        world, at_most, timeout = _over
        holders = max(n for n in range(1, min(at_most, experts, world) + 1) if world % n == 0)
        if holders == 1:
            return Share(experts, 0, experts)
        rank, groups = 0, _NO_GROUPS
        if dist.is_initialized():
            rank, groups = dist.get_rank(), _groups(holders, timeout)
        position, counts = rank % holders, _dealt(experts, holders)
        of_copies = Peers(world // holders, groups[1])
        first = sum(counts[:position])
        return Share(experts, first, counts[position], Peers(holders, groups[0]), of_copies, rank < holders)

    @property
    def whole(self) -> bool:
        return self.holders.count == 1

    @property
    def world(self) -> int:
        """W, all ranks."""
        return self.holders.count * self.copies.count

    def counts(self) -> list[int]:
        """By rank of the group: how many experts it holds."""
        return _dealt(self.experts, self.holders.count)

    def __deepcopy__(self, _: Any) -> "Share":
        return self


def _dealt(experts: int, ranks: int) -> list[int]:
    """By rank of a group: how many experts it holds."""
    each, more = divmod(experts, ranks)
    return [each + (position < more) for position in range(ranks)]


_Groups = tuple[dist.ProcessGroup | None, dist.ProcessGroup | None]
_NO_GROUPS: _Groups = (None, None)


def _groups(holders: int, timeout: timedelta | None) -> _Groups:
    """(the ranks that share a pool with this one, the ranks that hold the same experts); None where that is all ranks, or this
    one alone. Collective."""
    world = dist.get_world_size()
    if holders == world:
        return None, None
    together = [list(range(first, first + holders)) for first in range(0, world, holders)]
    alike = [list(range(position, world, holders)) for position in range(holders)]
    own, same = (dist.new_subgroups_by_enumeration(ranks, timeout)[0] for ranks in (together, alike))
    return own, same


def shares(module: nn.Module) -> dict[str, Share]:
    """By name of a parameter or buffer of the module: the share of its pool that this rank holds. None of whole pools."""
    found: dict[str, Share] = {}
    for place, part, share in _shared_pools(module):
        prefix = f"{place}." if place else ""
        found |= {prefix + name: share for tensors in (part.named_parameters(), part.named_buffers()) for name, _ in tensors}
    return found


def held_apart(module: nn.Module) -> dict[nn.Parameter, Share]:
    """The parameters that not all ranks hold."""
    return {parameter: share for _, part, share in _shared_pools(module) for parameter in part.parameters()}


def _shared_pools(module: nn.Module) -> Iterator[tuple[str, nn.Module, Share]]:
    for place, part in module.named_modules():
        share = getattr(part, "share", None)
        if isinstance(share, Share) and not share.whole:
            yield place, part, share
