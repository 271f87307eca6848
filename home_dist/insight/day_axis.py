"""Pictures by day: the colours of splits, and an axis of days."""

from collections.abc import Mapping, Sequence
from typing import Any

from home_dist.insight.svg import NAMED

NAMES = {"train": "blue", "validation": "orange", "test": "green", None: "grey"}
"""By split of a day: its colour's name, for captions. None: days before the training days."""
COLOURS = {split: NAMED[name] for split, name in NAMES.items()}


def places(days: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[int]]:
    """The days in their order, and the place of each entry among them."""
    place_of: dict[str, int] = {}
    found = [place_of.setdefault(d["day"], len(place_of)) for d in days]
    return list(place_of), found


def side_by_side(middles: Sequence[int]) -> list[float]:
    """Places of entries: parts of one day stand beside each other."""
    return [
        middle + 0.25 * (number - middles.index(middle)) if middles.count(middle) > 1 else float(middle)
        for number, middle in enumerate(middles)
    ]


def day_ticks(axes: Any, names: Sequence[str]) -> None:
    step = max(1, -(-len(names) // 7))
    chosen = range(0, len(names), step)
    axes.set_xticks(chosen, [names[p][5:] if names[p][:4].isdigit() else names[p] for p in chosen])  # the year stands above
    if len(names) < 3:
        axes.set_xlim(-1.5, len(names) + 0.5)  # one day is no wall
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.6g}")
    axes.grid(axis="x", visible=False)
