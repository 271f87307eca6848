"""Maps the entries of a dense tensor to those of another run's tensor that have the same names (home_dist/axes.py)."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from home_dist.data.matching_rows import Map, Unknown
from home_dist.layers.axis_names import Axes, Names

_NAMED = 5  # names listed in a line at most


@dataclass(frozen=True)
class Entries:
    """Entries of a tensor that the other run's tensor holds too."""

    here: tuple[Map, ...]
    """By dimension: their places in this run's tensor."""
    there: tuple[Map, ...]
    """By dimension: their places in the other run's tensor."""
    lacking: tuple[str, ...]
    """Entities of this run's tensor that the other one lacks."""
    same: bool
    """Whether both tensors are equal in shape, and every entry is at the same place."""

    def within(self, first: int, count: int) -> "Entries":
        """Those of the places first to first + count - 1 of the first dimension, counted from there."""
        kept = (self.here[0] >= first) & (self.here[0] < first + count)
        here, there = (self.here[0][kept] - first, *self.here[1:]), (self.there[0][kept], *self.there[1:])
        return replace(self, here=here, there=there, same=False)

    def fill(self, value: torch.Tensor, stored: torch.Tensor) -> None:
        """Copies these entries of the other run's tensor `stored` into `value`."""
        stored = stored.to(value)
        if self.same:
            value.copy_(stored)
            return
        here, there = ([torch.from_numpy(places).to(value.device) for places in side] for side in (self.here, self.there))
        value[torch.meshgrid(*here, indexing="ij")] = stored[torch.meshgrid(*there, indexing="ij")]


def same_entries(shape: Sequence[int], stored: Sequence[int], ours: Axes | None, theirs: Axes | None) -> Entries:
    """shape, ours: of this run's tensor; stored, theirs: of the other's. Raises Unknown if no entry has a counterpart."""
    old, new = (axes or (None,) * len(size) for axes, size in ((theirs, stored), (ours, shape)))
    other = Unknown(f"shape {tuple(stored)} there, {tuple(shape)} here")
    if len(stored) != len(shape) or len(old) != len(new):
        raise other
    here, there, lacking = list[Map](), list[Map](), dict[str, None]()
    for size, stored_size, their_names, our_names in zip(shape, stored, old, new, strict=True):
        if (their_names is None or our_names is None) and size != stored_size:
            raise other
        own, their, missing = _matched(size, their_names, our_names)
        here.append(own)
        there.append(their)
        lacking |= dict.fromkeys(missing)
    if not all(len(places) for places in here):
        raise Unknown(f"nothing of it is known there by name ({listed(lacking)})")
    whole = all(len(own) == size and np.array_equal(own, their) for own, their, size in zip(here, there, shape, strict=True))
    return Entries(tuple(here), tuple(there), tuple(lacking), whole and tuple(shape) == tuple(stored))


def _matched(size: int, theirs: Names | None, ours: Names | None) -> tuple[Map, Map, list[str]]:
    """(places here, places there with the same names, entities here that the other run lacks). Without names all match."""
    if theirs is None or ours is None:
        return np.arange(size), np.arange(size), []
    known = {name: place for place, name in enumerate(theirs)}
    here = [place for place, name in enumerate(ours) if name in known]
    lacking = [entity for entity, number in ours if (entity, number) not in known]
    return np.array(here, np.int64), np.array([known[ours[place]] for place in here], np.int64), lacking


def listed(names: Iterable[str]) -> str:
    """Some of the names, in order of the alphabet, for a line on the screen."""
    ordered = sorted(names)
    more = f" and {len(ordered) - _NAMED} more" if len(ordered) > _NAMED else ""
    return ", ".join(ordered[:_NAMED]) + more or "none"
