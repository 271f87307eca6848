"""The interface of a history encoder: its inputs and outputs."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import nn

from home_dist.config.sequence import SequenceSection
from home_dist.layers.axis_names import Axes, Names
from home_dist.layers.own_class import take_docstring


@dataclass
class History:
    """The histories of B samples as N events, grouped by sample, each sample's oldest event first."""

    events: torch.Tensor
    """(N, De): embeddings of the fields that the target has too, such as item and category."""
    contexts: torch.Tensor
    """(N, Dc): embeddings of the other fields, such as watch ratio and time gap."""
    targets: torch.Tensor
    """(B, De): the target's embeddings of the same fields as `events`."""
    lengths: torch.Tensor
    """(B,): events of each sample, 0 for none."""
    event_ids: dict[str, torch.Tensor] = field(default_factory=dict)
    """By event column of the fields that the target has too: table rows (N,)."""
    target_ids: dict[str, torch.Tensor] = field(default_factory=dict)
    """By the same columns: the target's table rows (B,)."""
    users: torch.Tensor | None = None
    """(B,): equal for samples of one user. None: every sample has another user."""

    @cached_property
    def owners(self) -> torch.Tensor:
        """(N,): the sample of each event. Cached, as an encoder uses it several times."""
        samples = torch.arange(len(self.lengths), device=self.lengths.device)
        return torch.repeat_interleave(samples, self.lengths, output_size=len(self.events))

    def take(self, chosen: torch.Tensor, lengths: torch.Tensor) -> "History":
        """The history with only the events `chosen` (n,), grouped by sample. lengths: (B,), events that each sample keeps."""
        ids = {column: values.index_select(0, chosen) for column, values in self.event_ids.items()}
        events, contexts = self.events.index_select(0, chosen), self.contexts.index_select(0, chosen)
        return History(events, contexts, self.targets, lengths, ids, self.target_ids, self.users)


@dataclass
class Encoded:
    """What an encoder makes of B histories."""

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
