"""Logs whose features are single ids, as benchmarks of models need them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from home_dist.schema import Schema, save_schema

GROUP = "user_key"
USER, ITEM = ("user", "city", "device", "age"), ("item", "category", "author")
EVENTS = {"watched_item": "item", "watched_category": "category", "watched_ratio": None}
"""By column of the history: its target."""
TASKS = {"like": "a", "follow": "a", "watch": "b", "finish": "b"}
WATCHED = {
    "name": "watched",
    "events": [{"column": c, "table": t or "ratio", **({"target": t} if t else {})} for c, t in EVENTS.items()],
}


def power_law(random: np.random.Generator, rows: int, count: int) -> NDArray[np.int32]:
    """Ids below `rows`, of which few make up most."""
    return (rows * random.random(count) ** 3).astype(np.int32)


def rare_labels(random: np.random.Generator, tasks: Sequence[str], count: int) -> dict[str, NDArray[np.int8]]:
    """One in ten is positive."""
    return {task: (random.random(count) < 0.1).astype(np.int8) for task in tasks}


def describe(
    folder: Path, features: Mapping[str, int], tasks: Mapping[str, str], more: Mapping[str, Any] | None = None
) -> None:
    """Writes schema.toml. features: rows of the table of each column; tasks: group of each; more: other keys."""
    tree = {
        "group_column": GROUP,
        "table": [{"name": name, "rows": rows} for name, rows in features.items()],
        "feature": [{"kind": "id", "name": name, "column": name, "table": name} for name in features],
        "task": [{"name": name, "group": group, "column": name} for name, group in tasks.items()],
        **(more or {}),
    }
    save_schema(Schema.model_validate(tree), folder / "schema.toml")
