"""The events of each target's history that have the highest inner products with a vector of the target.

Where many targets read a history, their products with its events are one matrix product per history. Elsewhere pairs of target
and event are computed one by one.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from home_dist.sequence.history import History
from home_dist.sequence.jagged import best_within, dots_within, products

MANY = 8
"""Mean number of targets of a history from which a few calls per history cost less than the pairs."""


@dataclass(frozen=True)
class Searched:
    """The scores of a search, keys . vectors + bias. The choice of events needs no gradient."""

    keys: torch.Tensor
    """(M, D) of distinct events."""
    vectors: torch.Tensor
    """(B, D) of targets."""
    item: torch.Tensor | None = None
    """(N,): the key of each event; None: M = N, and event n has key n."""
    bias: torch.Tensor | None = None
    """(N,) of events."""

    def of_pairs(self, history: History) -> torch.Tensor:
        """(P,)"""
        pairs = history.pairs
        exporting = torch.compiler.is_exporting()  # a program is traced once, and must not depend on these sizes
        if not exporting and self.item is not None and len(self.keys) * len(self.vectors) <= 4 * len(pairs.targets):
            # All pairs of targets and keys are less work than all pairs of targets and events.
            scores = (self.vectors @ self.keys.t())[pairs.targets, pairs.of_events(self.item)]
        else:
            scores = dots_within(self._of_events(), self.vectors, pairs.lengths, pairs.targets, pairs.events)
        return scores if self.bias is None else scores + pairs.of_events(self.bias)

    def best(self, history: History, most: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The `most` best events of each target's history, (n,), grouped by target and in order, and their numbers (B,). Of
        events with equal scores any may be taken."""
        if history.of_target is not None and by_history(history):
            return self._best_by_history(history, most), history.lengths.index_select(0, history.of_target).clamp(max=most)
        pairs = history.pairs
        with torch.no_grad():
            sizes = None if history.on_host is None else history.on_host.targets
            chosen, kept = best_within(self.of_pairs(history), pairs.lengths, pairs.targets, most, sizes)
        return chosen if pairs.events is None else pairs.events.index_select(0, chosen), kept

    def _best_by_history(self, history: History, most: int) -> torch.Tensor:
        of_events, best = self._of_events().detach(), [history.owners[:0]]
        vectors = self.vectors.detach()
        for events, targets in spans(history):
            scores = products(vectors[targets], of_events[events].t())
            scores = scores if self.bias is None else scores + self.bias[events].detach()
            places = scores.topk(min(most, scores.shape[1]), 1, sorted=False).indices.sort(1).values
            best.append((places + events.start).flatten())
        return torch.cat(best)

    def _of_events(self) -> torch.Tensor:
        return self.keys if self.item is None else self.keys.index_select(0, self.item)


def by_history(history: History) -> bool:
    """Whether so many targets read each history that a call per history pays. A GPU would wait at each."""
    many = len(history.targets) >= MANY * len(history.lengths)
    return many and history.of_target is not None and history.lengths.device.type == "cpu"


def spans(history: History) -> Iterator[tuple[slice, slice]]:
    """The events and the targets of each history, without empty histories."""
    if history.of_target is None:
        raise ValueError("histories that only one target reads have no spans of targets")
    lengths = history.lengths.tolist()
    counts = torch.bincount(history.of_target, minlength=len(lengths)).tolist()
    event = target = 0
    for length, count in zip(lengths, counts, strict=True):
        if length and count:
            yield slice(event, event + length), slice(target, target + count)
        event, target = event + length, target + count
