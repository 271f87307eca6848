"""TorchEasyRec's pipeline.config: feature_configs, label_fields and task towers.

What its feature generation computes from several columns (combo, lookup, match, expression features and others) is left out
by name: home_dist reads columns that are there.
"""

from pathlib import Path
from typing import Any

from home_dist.prepare.convert.conversion import Conversion
from home_dist.prepare.convert.text_proto import Message, read

_REGRESSION = ("l2_loss",)


def converted(source: Path, text: str) -> Conversion:
    """Raises ConfigError for a file that is no text of protocol buffers."""
    tree, draft = read(text, source), Conversion(source)
    for config in tree.get("feature_configs", ()):
        for kind, entries in config.items():
            for entry in entries:
                _feature(draft, kind, entry)
    _tasks(draft, tree)
    return draft


def _feature(draft: Conversion, kind: str, entry: Message) -> None:
    name = _one(entry, "feature_name") or _one(entry, "sequence_name")
    match kind:
        case "id_feature":
            draft.features.append(_id(draft, entry))
        case "raw_feature":
            draft.features.append(_raw(draft, entry))
        case "sequence_feature":
            _sequence(draft, entry)
        case "sequence_id_feature":
            events = [{"column": name, "table": _table(draft, entry, str(name))}]
            draft.sequences.append({"name": name, "events": events})
        case _:
            draft.notes.append(f"{kind} {name}: computed from other columns; write it as a column of the data, then add it")


def _id(draft: Conversion, entry: Message) -> dict[str, Any]:
    name = _one(entry, "feature_name")
    feature = {"kind": "id", "name": name, "column": _column(entry), "table": _table(draft, entry, str(name))}
    several = _one(entry, "weighted") or "pooling" in entry or "separator" in entry or _one(entry, "value_dim") == 0
    if several:
        feature["pooling"] = _one(entry, "pooling") or "sum"
        draft.notes.append(f"id_feature {name}: several values per row: its column must hold lists, not texts with separators")
    if _one(entry, "weighted"):
        draft.notes.append(f"id_feature {name}: weighted: put the weights into a column of lists, and set pooling and weights")
    return feature


def _table(draft: Conversion, entry: Message, name: str) -> str:
    """The table of an id feature; features with one embedding_name share it."""
    table = _one(entry, "embedding_name") or name
    managed = (entry.get("zch") or entry.get("dynamicemb") or [None])[0]
    if managed is not None:
        rows = _one(managed, "zch_size") or _one(managed, "max_capacity")
        draft.notes.append(
            f'table {table}: ids get rows as they come: set [embedding.tables.{table}] managed = "lfu" in the run'
        )
        return draft.table(table, {"rows": rows, "values": {"kind": "hash", "type": _type(entry)}})
    if size := _one(entry, "hash_bucket_size"):
        return draft.table(table, {"rows": size + 1, "values": {"kind": "hash", "type": _type(entry)}})
    values: dict[str, Any] = {"kind": "vocabulary", "type": _type(entry), "min_count": 1}
    if buckets := _one(entry, "num_buckets"):
        values |= {"type": "integer", "max_rows": buckets + 1}
    elif any(key in entry for key in ("vocab_list", "vocab_dict", "vocab_file")):
        draft.notes.append(
            f"table {table}: its vocabulary is fitted on the training part, and not taken from the configuration"
        )
    return draft.table(table, {"values": values})


def _type(entry: Message) -> str:
    return "integer" if "int" in str(_one(entry, "fg_value_type") or "") else "text"


def _raw(draft: Conversion, entry: Message) -> dict[str, Any]:
    name, width = _one(entry, "feature_name"), _one(entry, "value_dim") or 1
    if normalizer := _one(entry, "normalizer"):
        draft.notes.append(
            f"raw_feature {name}: normalizer {normalizer!r} is left out: numbers are standardised by fitted values"
        )
    if width > 1:
        return {"kind": "dense", "name": name, "column": _column(entry), "width": width}
    feature: dict[str, Any] = {"kind": "statistic", "name": name, "column": _column(entry)}
    if "boundaries" in entry:
        feature["boundaries"] = [float(b) for b in entry["boundaries"]]
    return feature


def _sequence(draft: Conversion, entry: Message) -> None:
    """A grouped sequence: its columns are SEQUENCE__FEATURE, as in TorchEasyRec's feature groups."""
    sequence, events = str(_one(entry, "sequence_name")), []
    by_name = {f["name"]: f for f in draft.features if f["kind"] == "id"}
    for config in entry.get("features", ()):
        for kind, inner in ((kind, inner) for kind, entries in config.items() for inner in entries):
            name = str(_one(inner, "feature_name"))
            if kind != "id_feature":
                draft.notes.append(f"sequence {sequence}: {kind} {name}: events hold ids alone; left out")
                continue
            target = by_name.get(name)
            table = target["table"] if target else _table(draft, inner, f"{sequence}__{name}")
            event = {"column": f"{sequence}__{name}", "table": table}
            events.append(event | ({"target": name} if target else {}))
    if events:
        draft.sequences.append({"name": sequence, "events": events})


def _tasks(draft: Conversion, tree: Message) -> None:
    towers = [tower for model in tree.get("model_config", ()) for tower in _towers(model)]
    for tower in towers:
        task = {"name": _one(tower, "tower_name"), "group": "all", "column": _one(tower, "label_name")}
        losses = [name for loss in tower.get("losses", ()) for name in loss]
        if (classes := _one(tower, "num_class") or 1) > 1:
            task |= {"kind": "multiclass", "classes": classes}
        elif any(loss in _REGRESSION for loss in losses):
            task["kind"] = "regression"
        draft.tasks.append(task)
    if not towers:
        labels = [label for data in tree.get("data_config", ()) for label in data.get("label_fields", ())]
        draft.tasks += [{"name": label, "group": "all", "column": label} for label in labels]
    if draft.tasks:
        draft.notes.append('tasks: all are in one group, "all": TorchEasyRec knows no groups')


def _towers(message: Any) -> list[Message]:
    """All task_towers at any depth: each kind of model has them in its own message."""
    if not isinstance(message, dict):
        return []
    found = list(message.get("task_towers", ()))
    for key, values in message.items():
        if key != "task_towers":
            found += [tower for value in values for tower in _towers(value)]
    return found


def _column(entry: Message) -> str:
    """The column of an expression such as "user:age"."""
    return str(_one(entry, "expression") or _one(entry, "feature_name")).rpartition(":")[2]


def _one(entry: Message, key: str) -> Any:
    values = entry.get(key)
    return values[0] if values else None
