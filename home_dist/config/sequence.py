"""A [[sequence]] section: one class per kind of history encoder, told apart by `kind`."""

from collections.abc import Mapping
from typing import Annotated, Literal, get_args

from pydantic import Field

from home_dist.config.section import Section, Widths

Activation = Literal["dice", "prelu", "swish", "relu"]
Count = Annotated[int, Field(ge=1)]


class _Sequence(Section):
    name: str
    """A sequence of the schema."""
    kind: str
    newest: Count | None = None
    """Read only so many of each sample's newest events; by default all."""


class DinSection(_Sequence):
    """Attention weights by a small perceptron (Zhou et al. 2018)."""

    kind: Literal["din"] = "din"
    hidden: Widths = Field(default=(32, 16), min_length=1)
    """Hidden widths of the attention unit."""
    activation: Activation = "dice"
    softmax: bool = False
    """Normalise attention weights over the history; the paper does not."""


class DienSection(_Sequence):
    """How interests evolve, by two recurrences (Zhou et al. 2019)."""

    kind: Literal["dien"] = "dien"
    auxiliary_weight: float = Field(default=1.0, ge=0)
    """Factor of the loss that a state tells the next event from another one."""


class _Attention(_Sequence):
    most: Count = 50
    """k, the events that the search leaves to attention."""
    heads: Count = 2
    head_dim: Count = 16


class SimSection(_Attention):
    """Search, then attention, each with parameters of its own (Pi et al. 2020)."""

    kind: Literal["sim"] = "sim"
    search: Literal["hard", "soft"] = "soft"
    """The newest events of the target's category, or the k most similar ones."""
    category: str | None = None
    """Event column that a hard search compares with its target; by default the last one that has a target."""
    search_dim: Count = 16
    """Width in which a soft search compares."""
    search_weight: float = Field(default=1.0, ge=0)
    """Factor of the soft search's own loss."""


class TwinSection(_Attention):
    """Search and attention by the same scores (Chang et al. 2023)."""

    kind: Literal["twin"] = "twin"


SequenceSection = DinSection | DienSection | SimSection | TwinSection

ENCODERS: Mapping[str, type[_Sequence]] = {c.model_fields["kind"].default: c for c in get_args(SequenceSection)}
DEFAULT_ENCODER = "din"
