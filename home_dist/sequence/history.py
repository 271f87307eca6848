"""The interface of a history encoder: what it reads and what it returns."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

import torch
from torch import nn

from home_dist.config.sequence import SequenceSection
from home_dist.layers.axis_names import Axes, Names


@dataclass
class History:
    """The histories of B samples as N events, those of a sample together, oldest first."""

    events: torch.Tensor
    """(N, De): embeddings of the fields that the target has too, such as item and category."""
    contexts: torch.Tensor
    """(N, Dc): embeddings of the other fields, such as watch ratio and time gap."""
    targets: torch.Tensor
    """(B, De): the impression's own embeddings of the first kind."""
    lengths: torch.Tensor
    """(B,): events of each sample, 0 for none."""
    event_ids: dict[str, torch.Tensor] = field(default_factory=dict)
    """By column of the fields that the target has too: (N,) table rows."""
    target_ids: dict[str, torch.Tensor] = field(default_factory=dict)
    """By the same columns: (B,) table rows of the impression."""
    users: torch.Tensor | None = None
    """(B,): equal for samples of one user. None: each sample is a user's of its own."""

    @cached_property
    def owners(self) -> torch.Tensor:
        """(N,): the sample of each event. Made once: several steps of an encoder ask for it."""
        samples = torch.arange(len(self.lengths), device=self.lengths.device)
        return torch.repeat_interleave(samples, self.lengths, output_size=len(self.events))

    def take(self, chosen: torch.Tensor, lengths: torch.Tensor) -> "History":
        """The events `chosen` (n,), which stand by sample, and how many each sample keeps (B,)."""
        ids = {column: values.index_select(0, chosen) for column, values in self.event_ids.items()}
        events, contexts = self.events.index_select(0, chosen), self.contexts.index_select(0, chosen)
        return History(events, contexts, self.targets, lengths, ids, self.target_ids, self.users)


@dataclass
class Encoded:
    vector: torch.Tensor
    """(B, out_dim); the zero vector for an empty history."""
    auxiliary: dict[str, torch.Tensor] = field(default_factory=dict)
    """By name: losses (), to be added as they are."""
    predictions: dict[str, tuple[torch.Tensor, float]] = field(default_factory=dict)
    """By name: logits (B, K) of the tasks, whose loss trains a part of the encoder, and the factor of this loss."""


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
    out_dim: int

    def axes(self, tasks: Names) -> dict[str, Axes]:
        """What the dimensions of tensors that run over tasks run over: by name in the encoder's state dict. tasks: their names.
        See home_dist/axes.py."""
        return {}


def mean_over_samples(values: torch.Tensor, owners: torch.Tensor, samples: int) -> torch.Tensor:
    """A loss () in which a sample counts the same in any batch and on any number of ranks.

    values: (n,) of events or pairs; owners: (n,). The mean within each sample, then the sum over samples / B.
    """
    counts = values.new_zeros(samples).index_add_(0, owners, torch.ones_like(values))
    return (values / counts.clamp(min=1).index_select(0, owners)).sum() / max(1, samples)
