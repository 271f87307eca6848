"""The interface of a history encoder: its inputs and outputs."""

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from home_dist.config.sequence import SequenceSection
from home_dist.layers.axis_names import Axes, Names
from home_dist.layers.own_class import take_docstring
from home_dist.sequence.jagged import newest_within, starts


@dataclass(frozen=True)
class HostLengths:
    """Lengths of histories as the host knows them: sizes of tensors on a device that depend on them."""

    histories: NDArray[np.integer]
    """(R,)"""
    targets: NDArray[np.integer]
    """(B,): length of the history that each target reads."""

    def at_most(self, most: int) -> "HostLengths":
        return HostLengths(np.minimum(self.histories, most), np.minimum(self.targets, most))


@dataclass(frozen=True)
class EventPairs:
    """The P pairs of a target and an event of the history that it reads: grouped by target, each one's oldest event first."""

    targets: torch.Tensor
    """(P,): the target of each pair."""
    lengths: torch.Tensor
    """(B,): pairs of each target."""
    events: torch.Tensor | None = None
    """(P,): the event of each pair; None: pair n is of event n, as every target has a history of its own."""

    def of_events(self, values: torch.Tensor) -> torch.Tensor:
        """values: (N, ...) of events. Returns those of the pairs' events, (P, ...)."""
        return values if self.events is None else values.index_select(0, self.events)


@dataclass
class History:
    """R histories as N events, grouped by history, each one's oldest event first, and B targets that each read one of them.

    Without `data.once_per_request` there are as many histories as targets, and target b reads history b.
    """

    events: torch.Tensor
    """(N, De): embeddings of the fields that the target has too, such as item and category."""
    contexts: torch.Tensor
    """(N, Dc): embeddings of the other fields, such as watch ratio and time gap."""
    targets: torch.Tensor
    """(B, De): the target's embeddings of the same fields as `events`."""
    lengths: torch.Tensor
    """(R,): events of each history, 0 for none."""
    event_ids: dict[str, torch.Tensor] = field(default_factory=dict)
    """By event column of the fields that the target has too: table rows (N,)."""
    target_ids: dict[str, torch.Tensor] = field(default_factory=dict)
    """By the same columns: the target's table rows (B,)."""
    users: torch.Tensor | None = None
    """(R,): equal for histories of one user. None: every target has another user."""
    of_target: torch.Tensor | None = None
    """(B,): the history that each target reads, ascending, so that the targets of a history follow each other. None: R = B, and
    target b reads history b."""
    lengths_on_host: HostLengths | None = None
    """Of tensors on a GPU. Without, the host waits for the GPU once to read them."""

    @cached_property
    def on_host(self) -> HostLengths | None:
        """None on a CPU, where `lengths` is at hand, and in a program that is traced, which must not depend on sizes."""
        if self.lengths.device.type == "cpu" or torch.compiler.is_exporting():
            return None
        if self.lengths_on_host is not None:
            return self.lengths_on_host
        histories = self.lengths.cpu().numpy()
        return HostLengths(histories, histories if self.of_target is None else histories[self.of_target.cpu().numpy()])

    @cached_property
    def owners(self) -> torch.Tensor:
        """(N,): the history of each event. Cached, as an encoder uses it several times."""
        histories = torch.arange(len(self.lengths), device=self.lengths.device)
        return torch.repeat_interleave(histories, self.lengths, output_size=len(self.events))

    @cached_property
    def pairs(self) -> EventPairs:
        """All pairs of a target and an event of its history."""
        if self.of_target is None:
            return EventPairs(self.owners, self.lengths)
        lengths = self.lengths.index_select(0, self.of_target)
        pairs = None if self.on_host is None else int(self.on_host.targets.sum())
        targets = torch.repeat_interleave(torch.arange(len(lengths), device=lengths.device), lengths, output_size=pairs)
        # From a target's first pair to its history's first event.
        shift = starts(self.lengths).index_select(0, self.of_target) - starts(lengths)
        return EventPairs(targets, lengths, torch.arange(len(targets), device=targets.device) + shift.index_select(0, targets))

    def newest(self, most: int) -> "History":
        """The histories with only their `most` newest events."""
        known = self.on_host
        chosen, lengths = newest_within(self.lengths, self.owners, most, None if known is None else known.histories)
        taken = self.take(chosen, lengths)
        return taken if known is None else replace(taken, lengths_on_host=known.at_most(most))

    def take(self, chosen: torch.Tensor, lengths: torch.Tensor) -> "History":
        """The histories with only the events `chosen` (n,), grouped by history. lengths: (R,), events that each one keeps."""
        ids = {column: values.index_select(0, chosen) for column, values in self.event_ids.items()}
        events, contexts = self.events.index_select(0, chosen), self.contexts.index_select(0, chosen)
        return History(events, contexts, self.targets, lengths, ids, self.target_ids, self.users, self.of_target)

    def take_pairs(self, chosen: torch.Tensor, lengths: torch.Tensor) -> "History":
        """A history for each target, with only the events of the pairs `chosen` (n,), grouped by target. lengths: (B,), pairs
        that each target keeps."""
        pairs = self.pairs
        return self.for_targets(chosen if pairs.events is None else pairs.events.index_select(0, chosen), lengths)

    def for_targets(self, chosen: torch.Tensor, lengths: torch.Tensor) -> "History":
        """A history for each target, of the events `chosen` (n,), grouped by target. lengths: (B,), events of each target."""
        taken = self.take(chosen, lengths)
        if taken.of_target is not None:
            users = None if self.users is None else self.users.index_select(0, taken.of_target)
            taken = replace(taken, users=users, of_target=None)
        return taken

    def spread(self) -> "History":
        """A history for each target, with copies of the events that several targets read."""
        if self.of_target is None:
            return self
        known = self.on_host
        copied = self.take_pairs(torch.arange(len(self.pairs.targets), device=self.lengths.device), self.pairs.lengths)
        return copied if known is None else replace(copied, lengths_on_host=HostLengths(known.targets, known.targets))


@dataclass
class Encoded:
    """What an encoder makes of the histories of B targets."""

    vector: torch.Tensor
    """(B, out_dim); the zero vector for an empty history."""
    auxiliary: dict[str, torch.Tensor] = field(default_factory=dict)
    """By name: losses (), already scaled."""
    predictions: dict[str, tuple[torch.Tensor, float]] = field(default_factory=dict)
    """By name: (the tasks' logits (B, K), factor of their loss). This loss trains a part of the encoder."""


@dataclass(frozen=True)
class EncoderInputs:
    """Widths and columns of the histories that an encoder reads."""

    target_dim: int
    """De, the width of an event's fields that the target has too, and of the target."""
    context_dim: int
    """Dc, the width of an event's other fields."""
    columns: tuple[str, ...]
    """Event columns of the fields that the target has too."""
    tasks: int
    """K"""


class Encoder(nn.Module):
    """History -> Encoded. Its constructor takes a section of the class `section`, and EncoderInputs."""

    section: ClassVar[type[SequenceSection]]
    """The `[[sequence]]` section that the encoder reads."""
    reads_requests: ClassVar[bool] = False
    """Whether it takes histories that several targets read (`History.of_target`). Else it is given a copy for each target."""
    compares: Collection[str] | None = None
    """Event columns whose table rows (`History.event_ids`) decide what it computes; None: all, as far as is known."""
    out_dim: int

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        take_docstring(cls)

    def axes(self, tasks: Names) -> dict[str, Axes]:
        """Axes of tensors that have a dimension of tasks, by name in the encoder's state dict. tasks: their names. See
        home_dist/axes.py."""
        return {}


def mean_over_samples(values: torch.Tensor, owners: torch.Tensor, samples: int) -> torch.Tensor:
    """A loss () in which a sample counts the same in any batch and on any number of ranks: the mean of each sample's mean.

    values: (n,) losses of events or pairs; owners: (n,), their samples. Samples without values count as 0.
    """
    counts = values.new_zeros(samples).index_add_(0, owners, torch.ones_like(values))
    return (values / counts.clamp(min=1).index_select(0, owners)).sum() / max(1, samples)
