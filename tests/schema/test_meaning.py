"""What two schemas mean differently, and what only looks different."""

import pytest

from home_dist.schema import Schema
from home_dist.schema.meaning import differences, fingerprint, without_told

SHA = {name: name * 64 for name in "abc"}
EVENT = {"column": "seen_user", "table": "user", "target": "user"}
TREE = {
    "table": [
        {"name": "user", "rows": 10, "origin": {"type": "text", "file": "v/u.parquet", "sha256": SHA["a"], "keys": 7}},
        {"name": "video", "rows": 100, "values": {"kind": "hash", "type": "integer", "seed": 1}},
        {"name": "hour", "rows": 24, "means": "hour, UTC+8 h"},
    ],
    "feature": [
        {"kind": "id", "name": "user", "column": "user", "table": "user"},
        {"kind": "statistic", "name": "plays", "column": "plays", "boundaries": [1, 2], "mean": 1.5, "means": "log(1 + plays)"},
        {"kind": "dense", "name": "age", "column": "age", "mean": 30.0},
        {"kind": "pretrained", "name": "cover", "column": "cover", "width": 4},
    ],
    "sequence": [{"name": "seen", "events": [EVENT], "means": "newest 50"}],
    "task": [{"name": "like", "group": "g", "column": "like", "means": "is_like", "base_rate": 0.1}],
}


def changed(place: str, key: str, value: object) -> Schema:
    """TREE with another value at, say, "table.0"."""
    tree = Schema.model_validate(TREE).model_dump()
    section, number = place.split(".")
    entry = tree[section][int(number)]
    *path, last = key.split(".")
    for part in path:
        entry = entry[part]
    entry[last] = value
    return Schema.model_validate(tree)


@pytest.mark.parametrize(
    ("place", "key", "value", "told"),
    [
        ("table.0", "origin.sha256", SHA["b"], "table user: vocabulary is aaa"),
        ("table.0", "origin.type", "integer", "table user: key type is text there, integer here"),
        ("table.1", "values.seed", 2, "table video: rows is by hash, seed 1, 100 rows there, by hash, seed 2"),
        ("table.1", "rows", 101, "table video: rows is by hash"),
        ("table.2", "means", "hour, UTC+7 h", "table hour: means is hour, UTC+8 h there, hour, UTC+7 h here"),
        ("feature.1", "boundaries", (1.0, 3.0), "statistic plays: boundaries is [1.0, 2.0] there, [1.0, 3.0] here"),
        ("feature.1", "mean", 2.0, "statistic plays: mean is 1.5 there, 2.0 here"),
        ("feature.1", "means", "plays", "statistic plays: means is log(1 + plays) there, plays here"),
        ("feature.2", "std", 2.0, "number age: std is 1.0 there, 2.0 here"),
        ("feature.3", "width", 5, "pretrained cover: width is 4 there, 5 here"),
        ("sequence.0", "means", "newest 20", "history seen: means is newest 50 there, newest 20 here"),
        ("task.0", "means", "play_ms >= 7000", "label like: means is is_like there, play_ms >= 7000 here"),
        ("task.0", "name", "follow", "label like is only there"),
    ],
)
def test_each_change_of_meaning_is_told_and_changes_the_fingerprint(place, key, value, told):
    before, now = Schema.model_validate(TREE), changed(place, key, value)
    lines = differences(before, now)
    assert lines[0].startswith(told)
    assert len(lines) == (2 if "only" in told else 1)
    assert fingerprint(before) != fingerprint(now)


@pytest.mark.parametrize(
    ("place", "key", "value"),
    [("table.0", "rows", 20), ("table.0", "origin.file", "elsewhere.parquet"), ("task.0", "base_rate", 0.2)],
)
def test_room_and_places_and_rates_mean_nothing(place, key, value):
    before, now = Schema.model_validate(TREE), changed(place, key, value)
    assert differences(before, now) == []
    assert fingerprint(before) == fingerprint(now)


def test_what_an_older_schema_does_not_tell_is_no_difference():
    before = Schema.model_validate(TREE)
    older = without_told(before)
    assert differences(before, older) == differences(older, before) == []
    assert fingerprint(older) != fingerprint(before)
    assert without_told(older) == older
