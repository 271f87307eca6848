"""What the numbers of a data set mean, and where two data sets mean different things by the same numbers.

The same number in the same column can be another customer (after vocabularies were fitted anew), another range (boundaries), or
another count (a description that was changed). A schema holds what tells these apart; its fingerprint is one text for all of
it. `means` of an entry is free text that the data's maker writes: equal texts mean the same.
"""

import hashlib
import json
from collections.abc import Iterator
from typing import Any

from home_dist.schema.spec import (
    DenseFeature,
    IdFeature,
    PretrainedFeature,
    Schema,
    SequenceSpec,
    StatisticFeature,
    TableSpec,
    TaskSpec,
)
from home_dist.schema.values import HashValues, VocabularyValues

Facts = dict[str, Any]
"""What an entry of a schema means, by name of the fact; None where the schema does not tell."""


def meaning(schema: Schema) -> dict[str, Facts]:
    """Facts by entry, such as "table video" or "statistic plays"."""
    return dict(_entries(schema))


def fingerprint(schema: Schema) -> str:
    """Equal for schemas whose numbers mean the same. 16 hexadecimal digits."""
    return hashlib.sha256(json.dumps(meaning(schema), sort_keys=True).encode()).hexdigest()[:16]


def differences(there: Schema, here: Schema) -> list[str]:
    """Entries that mean other things in the two schemas, or that one of them lacks, in words. A fact that only one of them
    tells is no difference."""
    before, now = meaning(there), meaning(here)
    lines = []
    for entry in dict.fromkeys([*before, *now]):
        if entry not in now or entry not in before:
            lines.append(f"{entry} is only {'there' if entry in before else 'here'}")
            continue
        changed = changed_facts(before[entry], now[entry])
        if changed:
            lines.append(f"{entry}: {'; '.join(changed)}")
    return lines


def without_told(schema: Schema) -> Schema:
    """The schema without origins and `means`, which older versions did not write."""
    tables = tuple(t.model_copy(update={"origin": None, "means": None}) for t in schema.table)
    features = tuple(f.model_copy(update={"means": None}) if isinstance(f, StatisticFeature) else f for f in schema.feature)
    sequences = tuple(s.model_copy(update={"means": None}) for s in schema.sequence)
    tasks = tuple(t.model_copy(update={"means": None}) for t in schema.task)
    return schema.model_copy(update={"table": tables, "feature": features, "sequence": sequences, "task": tasks})


def changed_facts(there: Facts, here: Facts) -> list[str]:
    """Facts that both tell, but differently, in words."""
    return [
        f"{name} is {_short(there[name])} there, {_short(here[name])} here"
        for name in there
        if there[name] is not None and here.get(name) is not None and there[name] != here[name]
    ]


def told(entry: StatisticFeature | SequenceSpec | TaskSpec) -> Facts:
    """What its maker says of an entry, apart from its name and column."""
    return {"it": entry.means} | (label_facts(entry) if isinstance(entry, TaskSpec) else {})


def label_facts(task: TaskSpec) -> Facts:
    """What a label's numbers are; empty for a binary one, so that fingerprints of older versions stay."""
    facts: Facts = {"unit": task.unit, "classes": task.classes, "duration": task.duration}
    return {name: fact for name, fact in facts.items() if fact is not None}


def table_facts(table: TableSpec) -> Facts:
    values, origin = table.values, table.origin
    if isinstance(values, HashValues):
        return {"key type": values.type, "rows": f"by hash, seed {values.seed}, {table.rows} rows"}
    if isinstance(values, VocabularyValues):
        return {
            "key type": values.type,
            "rows": f"by vocabulary, {values.unknown_rows} for unknown keys",
            "vocabulary": values.sha256,
        }
    return {
        "key type": origin and origin.type,
        "rows": "as the columns hold them",
        "vocabulary": origin and origin.sha256,
        "means": table.means,
    }


def _entries(schema: Schema) -> Iterator[tuple[str, Facts]]:
    facts: Facts
    for table in schema.table:
        yield f"table {table.name}", table_facts(table)
    for feature in schema.feature:
        match feature:
            case IdFeature():
                facts = {
                    "column": feature.column,
                    "table": feature.table,
                    "pooling": feature.pooling,
                    "weights": feature.weights,
                }
                yield f"id {feature.name}", facts
            case StatisticFeature():
                facts = {
                    "boundaries": list(feature.boundaries),
                    "mean": feature.mean,
                    "std": feature.std,
                    "means": feature.means,
                }
                yield f"statistic {feature.name}", {"column": feature.column, **facts}
            case DenseFeature():
                facts = {"column": feature.column, "width": feature.width}
                yield f"number {feature.name}", facts | {"mean": _plain(feature.mean), "std": _plain(feature.std)}
            case PretrainedFeature():
                facts = {"column": feature.column, "width": feature.width}
                yield f"pretrained {feature.name}", facts | {"frozen": feature.frozen, "key type": feature.type}
    for sequence in schema.sequence:
        fields = [[e.column, e.table, e.target] for e in sequence.events]
        yield f"history {sequence.name}", {"fields": fields, "means": sequence.means}
    for task in schema.task:
        values = None if task.values is None else task.values.model_dump(mode="json", exclude_defaults=True)
        facts = {"column": task.column, "means": task.means, **label_facts(task)}
        yield f"label {task.name}", facts | ({} if values is None else {"values": values})


def _plain(value: float | tuple[float, ...]) -> float | list[float]:
    return list(value) if isinstance(value, tuple) else value


def _short(value: object) -> str:
    text = f"{len(value)} numbers" if isinstance(value, list) and len(value) > 4 else str(value)
    return text if len(text) <= 120 else f"{text[:117]}..."
