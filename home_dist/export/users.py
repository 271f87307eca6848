"""Rows of which several are of one user: what belongs to the user is looked up and encoded once, and spread over its rows.

An *input* is a tensor of a scoring program (scorer.py). Lists, and ids that no history is compared with, stay one per user up
to the pooled vector or the encoder; other inputs are repeated as numbers, which costs little.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

import torch

from home_dist.embeddings.requests import RequestsOfSamples
from home_dist.export.program_inputs import id_name, inputs_of, list_groups
from home_dist.schema import IdInput, InputLayout


class UsersOfRows(RequestsOfSamples):
    """The users (U,) of rows (B,)."""

    def __init__(self, of_row: torch.Tensor, users: int, keys: Collection[str]):
        """of_row: (B,) the user of each row, ascending. keys: of inputs with one entry per user."""
        super().__init__(torch.arange(users), len(of_row))
        self.of_sample = self.rows = of_row
        self.keys = keys

    def share(self, item: IdInput) -> bool:
        return item.key in self.keys

    def spread_bags(self, vectors: torch.Tensor, items: Sequence[IdInput]) -> torch.Tensor:
        """vectors: (B, sum of dims) of all rows: each input was spread when it was pooled."""
        return vectors


@dataclass(frozen=True, eq=False)
class Sides:
    """Which inputs are given once per user, and which per row."""

    user: InputLayout
    row: InputLayout
    keys: frozenset[str]
    """Of the user's inputs that stay one per user."""
    repeated: tuple[str, ...]
    """Names of the user's other inputs, but for packed ones."""
    packed: dict[str, torch.Tensor]
    """By name of a packed input: where its parts stand among the user's parts followed by the row's."""

    def joined(
        self, of_users: dict[str, torch.Tensor], of_rows: dict[str, torch.Tensor], counts: torch.Tensor
    ) -> tuple[dict[str, torch.Tensor], UsersOfRows]:
        """Inputs for `Scorer.predicted`. of_users: of U users; of_rows: of B rows, those of a user together; counts: (U,) rows
        of each user."""
        users = torch.repeat_interleave(torch.arange(len(counts)), counts)
        spread = {name: of_users[name].index_select(0, users) for name in (*self.repeated, *self.packed) if name in of_users}
        packed = {}
        for name, places in self.packed.items():
            parts = [side[name] for side in (spread, of_rows) if name in side]
            packed[name] = torch.cat(parts, 1).index_select(1, places)
        return {**of_rows, **of_users, **spread, **packed}, UsersOfRows(users, len(counts), self.keys)


def compared_lists(layout: InputLayout) -> frozenset[str]:
    """Columns of lists that a history is compared with. They have to be given per row."""
    targets = _targets(layout)
    return frozenset(c for i in layout.features if i.key in targets and i.is_list for c in (i.column, i.weights) if c)


def sides(layout: InputLayout, columns: Collection[str]) -> Sides:
    """columns: those that are given once per user: all of a history or none, and none of `compared_lists`."""
    user, row = (_part(layout, columns, of_user) for of_user in (True, False))
    targets = _targets(layout)
    groups = list_groups(layout)
    alone = [i for i in user.inputs if i.place != "small" and i.key not in targets]
    while True:  # an input may be read in two ways, of which one is per row
        kept = _names(alone, groups) - _names((i for i in user.inputs if i not in alone), groups)
        whole = [i for i in alone if _names([i], groups) <= kept]
        if len(whole) == len(alone):
            repeated = tuple(n for n, i in inputs_of(user).items() if n not in kept and not i.parts)
            return Sides(user, row, frozenset(i.key for i in alone), repeated, _packed(layout, user, row))
        alone = whole


def _packed(layout: InputLayout, user: InputLayout, row: InputLayout) -> dict[str, torch.Tensor]:
    of_sides, places = [inputs_of(user), inputs_of(row)], {}
    for name, packed in inputs_of(layout).items():
        if packed.parts:
            there = [part.name for side in of_sides if name in side for part in side[name].parts]
            places[name] = torch.tensor([there.index(part.name) for part in packed.parts])
    return places


def _names(items: Iterable[IdInput], groups: dict[str, str]) -> set[str]:
    """Of the inputs that these read."""
    names = set()
    for item in items:
        names.add(id_name(item))
        if item.key in groups:
            names.add(f"lengths.{groups[item.key]}")
        if item.weights is not None:
            names.add(f"weights.{item.weights}")
    return names


def _targets(layout: InputLayout) -> set[str]:
    return {e.target.key for s in layout.sequences for e in s.fields if e.target is not None}


def _part(layout: InputLayout, columns: Collection[str], of_user: bool) -> InputLayout:
    """The inputs of the user's columns, or the others."""

    def chosen(column: str | None) -> bool:
        return (column in columns) == of_user

    features = tuple(i for i in layout.features if chosen(i.column))
    keys = {i.key for i in features}
    return replace(
        layout,
        features=features,
        statistics={key: feature for key, feature in layout.statistics.items() if key in keys},
        dense=tuple(f for f in layout.dense if chosen(f.column)),
        sequences=tuple(s for s in layout.sequences if chosen(s.fields[0].field.column)),
        pretrained=tuple(v for v in layout.pretrained if chosen(v.column)),
        labels=tuple(replace(x, duration=x.duration if chosen(x.duration) else None) for x in layout.labels),
    )
