"""A [[sequence]] section: keys that all kinds of history encoders have, and the table of kinds.

Each kind has its own section, in its encoder's file.
"""

from typing import Annotated

from pydantic import BeforeValidator, SerializeAsAny

from home_dist.config.kinds import Kinds
from home_dist.config.section import Count, Section


class SequenceSection(Section):
    name: str
    """A sequence of the schema."""
    kind: str
    """The kind of encoder, or package.module:Class of your own."""
    newest: Count | None = None
    """Reads only so many of each sample's newest events; by default all."""


class SearchSection(SequenceSection):
    """Section of encoders that search a history for some events, and attend to these only."""

    most: Count = 50
    """k, the number of events that the search selects for attention."""
    heads: Count = 2
    """Attention heads over the selected events."""
    head_dim: Count = 16
    """Width of a head."""


ENCODERS = Kinds(
    SequenceSection,
    {
        "din": "home_dist.sequence.din:Din",
        "dien": "home_dist.sequence.dien:Dien",
        "sim": "home_dist.sequence.sim:Sim",
        "twin": "home_dist.sequence.twin:Twin",
    },
    default="din",
    interface="home_dist.sequence.history:Encoder",
    needs=("__init__", "forward"),
)

AnyEncoder = Annotated[SerializeAsAny[SequenceSection], BeforeValidator(ENCODERS.read)]
"""A section of its kind's class."""
