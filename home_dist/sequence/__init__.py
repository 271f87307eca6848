"""User history and target item -> one vector per sample, on jagged values: a file per encoder, with its section.

config/sequence.py has the table of kinds.
"""

from collections.abc import Sequence

from home_dist.config.sequence import ENCODERS, SequenceSection
from home_dist.errors import ConfigError
from home_dist.schema import EventInput
from home_dist.sequence.history import Encoded, Encoder, EncoderInputs, History

__all__ = ["Encoded", "Encoder", "EncoderInputs", "History", "build_encoder"]


def build_encoder(section: SequenceSection, fields: Sequence[EventInput], tasks: int) -> Encoder:
    """The encoder of a `[[sequence]]`: History -> Encoded, with `out_dim`. tasks: K.

    Raises ConfigError if the sequence's fields do not fit the kind.
    """
    shared = [f.field for f in fields if f.target is not None]
    if not shared:
        raise ConfigError(
            f"sequence {section.name!r}: no event column has a target in the schema, so that nothing can be compared with the "
            "impression. Give one of its events a target, an id feature over the same table."
        )
    inputs = EncoderInputs(
        target_dim=sum(f.table.shared_dim for f in shared),
        context_dim=sum(f.field.table.shared_dim for f in fields if f.target is None),
        columns=tuple(f.column for f in shared),
        tasks=tasks,
    )
    encoder: type[Encoder] = ENCODERS.find(section.kind)
    return encoder(section, inputs)
