"""A [[sequence]] section: what every kind of history encoder is told, and the table of kinds.

A kind brings its own section, which stands in its encoder's file.
"""

from typing import Annotated

from pydantic import BeforeValidator, SerializeAsAny

from home_dist.config.kinds import Kinds
from home_dist.config.section import Count, Section


class SequenceSection(Section):
    name: str
    """A sequence of the schema."""
    kind: str
    """A name of ENCODERS below, or package.module:Class of an encoder of your own."""
    newest: Count | None = None
    """Read only so many of each sample's newest events; by default all."""


class SearchSection(SequenceSection):
    """Of encoders that search a history for some events and attend to these."""

    most: Count = 50
    """k, the events that the search leaves to attention."""
    heads: Count = 2
    head_dim: Count = 16


ENCODERS = Kinds(
    SequenceSection,
    {
        "din": "home_dist.sequence.din:Din",
        "dien": "home_dist.sequence.dien:Dien",
        "sim": "home_dist.sequence.sim:Sim",
        "twin": "home_dist.sequence.twin:Twin",
    },
    default="din",
)

AnyEncoder = Annotated[SerializeAsAny[SequenceSection], BeforeValidator(ENCODERS.read)]
"""A section of the class that its kind brings."""
