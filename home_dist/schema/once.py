"""Inputs that a request's rows share (`data.once_per_request`): marked in the layout."""

from collections.abc import Sequence
from dataclasses import replace

from home_dist.errors import ConfigError
from home_dist.schema.layout import InputLayout


def once_per_request(layout: InputLayout, names: Sequence[str]) -> InputLayout:
    """The layout with `once` set for the features and histories `names`.

    Raises ConfigError for a name of neither, for a feature that holds numbers instead of ids, and for a history's target, in
    which the rows of a request differ.
    """
    targets = {e.target.key: s.name for s in layout.sequences for e in s.fields if e.target is not None}
    fields = {s.name: [e.field.key for e in s.fields] for s in layout.sequences}
    ids = [i.key for i in layout.features if i.key not in layout.statistics]
    numbers = {*layout.statistics, *(f.name for f in layout.dense), *(v.name for v in layout.pretrained)}
    once: set[str] = set()
    for name in names:
        if name in targets:
            raise ConfigError(
                f"data.once_per_request: {name!r} is the target of sequence {targets[name]!r}, in which the rows of a request "
                "differ. Name features and histories of the user alone"
            )
        if name in numbers and name not in ids:
            raise ConfigError(
                f"data.once_per_request: {name!r} holds numbers, which each row keeps. Name features of ids and histories alone"
            )
        if name not in ids and name not in fields:
            known = ", ".join([*(i for i in ids if i not in targets), *fields]) or "none"
            raise ConfigError(
                f"data.once_per_request: {name!r} is no feature of ids or history of this run; there are: {known}"
            )
        once.update([name] if name in ids else [], fields.get(name, []))
    return layout.of_each_input(lambda i: replace(i, once=True) if i.key in once else i)
