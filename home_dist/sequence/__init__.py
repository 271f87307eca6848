"""User history and target item -> one vector per sample, on jagged values: a file per encoder, with its section.

config/sequence.py has the table of kinds.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import nn

from home_dist.config.sequence import ENCODERS, SequenceSection
from home_dist.errors import ConfigError
from home_dist.layers.own_class import check_result, check_takes, check_width, place_of
from home_dist.sequence.history import Encoded, Encoder, EncoderInputs, History

if TYPE_CHECKING:  # encoders run where pyarrow, which schemas need, is missing
    from home_dist.schema import EventInput

__all__ = ["Encoded", "Encoder", "EncoderInputs", "History", "build_encoder", "encoded_by"]


def build_encoder(section: SequenceSection, fields: "Sequence[EventInput]", tasks: int) -> Encoder:
    """The encoder of a `[[sequence]]`: History -> Encoded, with `out_dim`. tasks: K.

    Raises ConfigError if the sequence's fields do not fit the kind, and for a class of one's own that does not take a section
    and EncoderInputs, or has no `out_dim`.
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
    check_takes(encoder, "__init__", encoder, section, inputs)
    built = encoder(section, inputs)
    check_width(built)
    return built


def encoded_by(encoder: nn.Module, history: History) -> Encoded:
    """encoder(history), or of a copy of it for each target if the encoder does not know histories that several targets read.

    Raises ConfigError if that is no Encoded with a vector (B, out_dim).
    """
    encoded = encoder(history if getattr(encoder, "reads_requests", False) else history.spread())
    if not isinstance(encoded, Encoded):
        came = type(encoded).__name__
        raise ConfigError(
            f"{place_of(type(encoder))}.forward returned a {came}; expected is home_dist.sequence.Encoded(vector)"
        )
    width: Any = encoder.out_dim
    check_result(encoder, "forward", encoded.vector, {"B": len(history.targets), "out_dim": width})
    return encoded
