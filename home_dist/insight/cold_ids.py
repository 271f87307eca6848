"""Ids of a split that the model's tables do not know: it was not trained on them, and looks all of them up as one row."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from home_dist.config.insight import RulesSection
from home_dist.insight.rules import Sign


@dataclass(frozen=True)
class KnownIds:
    """Of one feature, in one split. An id counts as often as it is read, once per sample where the feature is no list."""

    feature: str
    table: str
    ids: int
    known: int
    """Those with a row of their own."""

    @property
    def share(self) -> float:
        return self.known / self.ids


def cold_signs(split: str, counted: Iterable[KnownIds], rules: RulesSection) -> Iterator[Sign]:
    """None of the training split: what is rare there has no row on purpose."""
    if split == "train":
        return
    for one in counted:
        if one.ids and one.share < rules.known_ids:
            text = (
                f"{one.share:.1%} of {one.ids:,} ids have a row of table {one.table}. The others are new since training, too "
                "rare to have one, or missing, and look alike to the model"
            )
            advice = (
                "features of content, which new ids have as well (category, author, pre-trained vectors); a smaller min_count "
                f"or larger embedding.tables.{one.table}.keep_rows; values = "
                '{ kind = "hash" } for the table; fewer days between training and what is predicted'
            )
            yield Sign("cold ids", f"feature {one.feature}, {split}", text, one.share, rules.known_ids, advice)


def to_json(counted: Iterable[KnownIds]) -> dict[str, Any]:
    """By feature."""
    return {one.feature: {"table": one.table, "ids": one.ids, "known": one.known} for one in counted}


def from_json(tree: dict[str, Any]) -> list[KnownIds]:
    return [KnownIds(feature, **entry) for feature, entry in tree.items()]
