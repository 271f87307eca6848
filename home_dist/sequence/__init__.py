"""User history and target item -> one vector per sample, on jagged values."""

from collections.abc import Sequence

from home_dist.config.sequence import DienSection, DinSection, SequenceSection, SimSection
from home_dist.errors import ConfigError
from home_dist.schema import EventInput
from home_dist.sequence.dien import Dien
from home_dist.sequence.din import Din
from home_dist.sequence.history import Encoded, Encoder, History
from home_dist.sequence.sim import Sim
from home_dist.sequence.twin import Twin

__all__ = ["Encoded", "Encoder", "History", "build_encoder"]


def build_encoder(section: SequenceSection, fields: Sequence[EventInput], tasks: int) -> Encoder:
    """The encoder of a `[[sequence]]`: History -> Encoded, with `out_dim`. tasks: K.

    Raises ConfigError when the sequence's fields do not fit the kind.
    """
    shared = [f.field for f in fields if f.target is not None]
    target_dim = sum(f.table.dim for f in shared)
    context_dim = sum(f.field.table.dim for f in fields if f.target is None)
    if not shared:
        raise ConfigError(
            f"sequence {section.name!r}: no event column has a target in the schema, so that nothing can be compared with the "
            "impression. Give one of its events a target, an id feature over the same table."
        )
    match section:
        case DinSection():
            return Din(target_dim, context_dim, section.hidden, section.activation, section.softmax)
        case DienSection():
            return Dien(target_dim, context_dim, section.auxiliary_weight)
        case SimSection():
            columns = [f.column for f in shared]
            category = section.category or columns[-1]
            if category not in columns:
                raise ConfigError(
                    f"sequence {section.name!r}: category = {category!r} is no event column with a target; there are: "
                    f"{', '.join(columns)}"
                )
            return Sim(
                target_dim,
                context_dim,
                tasks,
                section.search,
                category,
                section.most,
                section.search_dim,
                section.search_weight,
                section.heads,
                section.head_dim,
            )
        case _:
            return Twin(target_dim, context_dim, section.most, section.heads, section.head_dim)
