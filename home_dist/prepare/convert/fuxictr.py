"""FuxiCTR's dataset_config.yaml: feature_cols and label_col of one of its datasets."""

from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from home_dist.errors import ConfigError
from home_dist.prepare.convert.conversion import Conversion

_POOLINGS = {"MaskedAveragePooling": "mean", "MaskedSumPooling": "sum"}


def converted(source: Path, text: str, dataset: str | None) -> Conversion:
    """dataset: the entry's name, where there are several. Raises ConfigError."""
    try:
        tree = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{source}: not valid YAML: {error}") from None
    datasets = tree.items() if isinstance(tree, dict) else ()
    entries = {name: entry for name, entry in datasets if isinstance(entry, dict) and "feature_cols" in entry}
    if dataset is None and len(entries) == 1:
        dataset = next(iter(entries))
    if dataset not in entries:
        there = ", ".join(entries) or "none"
        raise ConfigError(f"{source}: --dataset: name an entry that has feature_cols; there are: {there}")
    entry, draft = entries[dataset], Conversion(source)
    for column in _listed(entry["feature_cols"]):
        for name in _listed(column.get("name", ())):
            if column.get("active", True):
                _feature(draft, str(name), column, entry.get("min_categr_count", 1))
    for label in _listed(entry.get("label_col") or ()):
        name = label["name"] if isinstance(label, dict) else label
        draft.tasks.append({"name": name, "group": "all", "column": name})
    draft.group_column = entry.get("group_id")
    if draft.tasks:
        draft.notes.append('tasks: all are in one group, "all": FuxiCTR knows no groups')
    return draft


def _feature(draft: Conversion, name: str, column: dict[str, Any], least: int) -> None:
    if column.get("preprocess"):
        draft.notes.append(f"{name}: preprocess {column['preprocess']!r} is code: write its result as a column of the data")
    least, kind = column.get("min_categr_count", least), column.get("type")
    values = {
        "kind": "vocabulary",
        "type": "text" if column.get("dtype", "str") == "str" else "integer",
        "min_count": max(1, least),
    }
    shared = column.get("share_embedding")
    match kind:
        case "categorical":
            table = draft.table(name, {"values": values}) if not shared else str(shared)
            draft.features.append({"kind": "id", "name": name, "column": name, "table": table})
        case "numeric":
            draft.features.append({"kind": "statistic", "name": name, "column": name})
        case "sequence":
            _sequence(draft, name, column, values)
        case _:
            draft.notes.append(f"{name}: type {kind!r} is left out")


def _sequence(draft: Conversion, name: str, column: dict[str, Any], values: dict[str, Any]) -> None:
    """A list that is pooled, or a history where it shares the embedding of a feature and has no pooling."""
    shared = column.get("share_embedding")
    encoder = str(column.get("feature_encoder") or column.get("encoder"))
    pooling = next((pooling for layer, pooling in _POOLINGS.items() if layer in encoder), None)
    table = str(shared) if shared else draft.table(name, {"values": values})
    if column.get("splitter"):
        draft.notes.append(f"{name}: splitter {column['splitter']!r}: its column must hold lists, not texts")
    if shared and pooling is None:
        draft.sequences.append({"name": name, "events": [{"column": name, "table": table, "target": str(shared)}]})
        return
    draft.features.append({"kind": "id", "name": name, "column": name, "table": table, "pooling": pooling or "mean"})


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]
