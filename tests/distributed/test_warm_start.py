"""A run that begins with another's tables and dense part: rows by key in a grown vocabulary, other names, other ranks."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from home_dist.schema import Schema, save_schema
from home_dist.training.checkpoint.reading import open_stored
from tests.factory import make_config, make_data, make_schema
from tests.ranks import run, settings

pytestmark = pytest.mark.distributed

# Nothing is learned, so that what a run ends with is what it began with.
FROZEN = settings(train__lr=1e-30, embedding__lr=1e-30, embedding__replicated_weight_decay=0, train__max_steps=1)


def write_vocabulary(data, table: str, keys: list) -> None:
    (data / "vocabularies").mkdir(exist_ok=True)
    rows = pa.array(np.arange(1, len(keys) + 1), pa.int32())
    pq.write_table(pa.table({"value": keys, "row": rows, "count": rows}), data / "vocabularies" / f"{table}.parquet")


def grown(schema: Schema) -> Schema:
    tree = schema.model_dump(exclude_none=True, mode="json")
    for table in tree["table"]:
        table["rows"] = {"user": 3600, "tab": 7}.get(table["name"], table["rows"])
        table["name"] = {"tag": "topic"}.get(table["name"], table["name"])
    for feature in tree["feature"]:
        if feature.get("table") == "tag":
            feature["table"] = "topic"
        if feature["name"] == "rate":
            feature["boundaries"] = [-1.0, 0.5, 1.0]
    return Schema.model_validate(tree)


def grown_vocabularies(old, new) -> tuple[dict[str, list], dict[str, list]]:
    """Writes vocabularies beside two data sets, and returns them: the later one has lost some keys, has new ones, and another
    order."""
    random = np.random.default_rng(0)
    keys = {"user": random.permutation(50_000)[:2999].tolist(), "tab": ["a", "b", "c", "d"]}
    later = {
        "user": random.permutation([*keys["user"][100:], *range(60_000, 60_700)]).tolist(),
        "tab": ["d", "new", "a", "c", "b", "newer"],
    }
    for name in keys:
        write_vocabulary(old, name, keys[name])
        write_vocabulary(new, name, later[name])
    return keys, later


@pytest.mark.slow
def test_rows_by_key_other_names_and_other_ranks(tmp_path):
    old = make_data(tmp_path / "old", rows=300, files=2)
    new = make_data(tmp_path / "new", rows=300, files=2)
    save_schema(grown(make_schema()), new / "schema.toml")
    keys, later = grown_vocabularies(old, new)
    first = run(2, "train", make_config(tmp_path / "a", old), *settings(train__max_steps=3))
    assert first.codes == [0, 0], first.text
    config = make_config(tmp_path / "b", new)
    options = [*FROZEN, *settings(train__seed=7), "--from", tmp_path / "a" / "run"]
    options += ["--set", "checkpoint.warm_start.rename={topic = 'tag'}"]
    begun = run(1, "train", config, *options)
    assert begun.codes == [0], begun.text
    plain = run(1, "train", make_config(tmp_path / "c", new), *FROZEN, *settings(train__seed=7))
    assert plain.codes == [0], plain.text
    there, _ = open_stored(next((tmp_path / "a" / "run" / "checkpoints").glob("step-*")))
    here, _ = open_stored(next((tmp_path / "b" / "run" / "checkpoints").glob("step-*")))
    fresh, _ = open_stored(next((tmp_path / "c" / "run" / "checkpoints").glob("step-*")))

    def expected(before: np.ndarray, untouched: np.ndarray, old_keys: list, new_keys: list) -> np.ndarray:
        out = untouched.copy()
        out[0] = before[0]
        for row, key in enumerate(new_keys, 1):
            if key in old_keys:
                out[row] = before[1 + old_keys.index(key)]
        return out

    def table(stored, name: str) -> np.ndarray:
        return stored.whole(f"tables/{name}/weight").numpy()

    user = expected(table(there, "user"), table(fresh, "user"), keys["user"], later["user"])
    np.testing.assert_array_equal(table(here, "user"), user)
    np.testing.assert_array_equal(table(here, "topic"), table(there, "tag"))
    np.testing.assert_array_equal(table(here, "video"), table(there, "video"))
    small = [s.whole("dense/head.features.replicated.weights.4").numpy() for s in (there, fresh, here)]
    # tab (5 rows, now 7), level (4), and the buckets of rate (5), whose boundaries have moved.
    assert [len(s) for s in small] == [14, 16, 16]
    np.testing.assert_array_equal(small[2][:7], expected(small[0][:5], small[1][:7], keys["tab"], later["tab"]))
    np.testing.assert_array_equal(small[2][7:11], small[0][5:9])
    np.testing.assert_array_equal(small[2][11:], small[1][11:])
    towers = [s.whole("dense/head.towers.weights.0").numpy() for s in (there, fresh, here)]
    np.testing.assert_array_equal(towers[2], towers[0])
    assert not np.array_equal(towers[1], towers[0])
    lines = begun.outputs[0].splitlines()
    for line in (
        f"warm start from {tmp_path}/a/run/checkpoints/step-00000003",
        "  table user: 2,900 of 3,600 rows, by key, with their optimizer state; 700 keep their first values",
        "  table topic: 1,500 of 1,500 rows of tag, row by row, with their optimizer state",
        "  table rate: its boundaries are others; first values stay",
        "  table tab: 5 of 7 rows, by key, with their optimizer state; 2 keep their first values",
        "  dense head.towers.weights.0: taken, with its optimizer state",
    ):
        assert line in lines, begun.text


def test_what_is_not_there_is_named(tmp_path):
    data = make_data(tmp_path / "data", rows=100, files=1)
    config = make_config(tmp_path, data)
    missing = run(1, "train", config, "--from", tmp_path / "nothing")
    assert missing.codes == [4]
    assert f"{tmp_path}/nothing: no run is there" in missing.text


def other_order(schema: Schema) -> Schema:
    """Tasks in another order, `rate` replaced by another statistic of the same shape."""
    tree = schema.model_dump(exclude_none=True, mode="json")
    tree["task"].reverse()
    for feature in tree["feature"]:
        if feature["name"] == "rate":
            feature["name"] = "share"
    return Schema.model_validate(tree)


def test_what_belongs_to_a_task_or_a_feature_is_found_by_its_name(tmp_path):
    data = make_data(tmp_path / "data", rows=200, files=1)
    first = run(1, "train", make_config(tmp_path / "a", data), *settings(train__max_steps=2))
    assert first.codes == [0], first.text
    save_schema(other_order(make_schema()), data / "schema.toml")
    begun = run(1, "train", make_config(tmp_path / "b", data), *FROZEN, "--from", tmp_path / "a" / "run")
    assert begun.codes == [0], begun.text
    there, here = (open_stored(next((tmp_path / r / "run" / "checkpoints").glob("step-*")))[0] for r in "ab")
    for name in ("towers.weights.0", "towers.biases.0"):
        old, new = (stored.whole(f"dense/head.{name}") for stored in (there, here))
        assert new.flip(0).equal(old)
        assert not new.equal(old)
    assert "  table share: not there; first values stay" in begun.outputs[0]
    lines = [line for line in begun.outputs[0].splitlines() if "model." in line and "weights.0" in line]
    assert lines
    assert any("first values stay for feature share" in line for line in lines), begun.text


def test_a_statistic_or_dense_feature_that_was_fitted_otherwise_begins_anew(tmp_path):
    """The boundaries of rate are the same, and its mean is another, as is the deviation of age."""
    data = make_data(tmp_path / "data", rows=200, files=1)
    first = run(1, "train", make_config(tmp_path / "a", data), *settings(train__max_steps=2))
    assert first.codes == [0], first.text
    tree = make_schema().model_dump(exclude_none=True, mode="json")
    for feature in tree["feature"]:
        feature.update({"rate": {"mean": 0.25}, "age": {"std": 4.0}}.get(feature["name"], {}))
    save_schema(Schema.model_validate(tree), data / "schema.toml")
    begun = run(1, "train", make_config(tmp_path / "b", data), *FROZEN, "--from", tmp_path / "a" / "run")
    assert begun.codes == [0], begun.text
    there, here = (open_stored(next((tmp_path / r / "run" / "checkpoints").glob("step-*")))[0] for r in "ab")
    old, new = (stored.whole("dense/head.linear.weight").numpy() for stored in (there, here))  # rate, age, three of vector
    assert np.abs(old).min() > 1e-3
    np.testing.assert_array_equal(new[:, 2:], old[:, 2:])
    np.testing.assert_allclose(new[:, :2], 0, atol=1e-20)
    lines = begun.outputs[0].splitlines()
    assert "  table rate: its mean was 0.1 and is 0.25; first values stay" in lines
    assert "  feature age: its std was 3 and is 4; weights that read it keep their first values" in lines


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["row_wise_adagrad", "adagrad"])
def test_vectors_of_tasks_follow_their_tasks(tmp_path, optimizer):
    """stem's rows hold a vector per task: in another order of tasks, on other ranks, each predicts as it did. With fewer tasks
    the others keep their vectors."""
    old = make_data(tmp_path / "old", rows=300, files=2)
    new = make_data(tmp_path / "new", rows=300, files=2)
    tree = make_schema().model_dump(exclude_none=True, mode="json")
    tree["task"] = tree["task"][::-1]
    save_schema(Schema.model_validate(tree), new / "schema.toml")
    stem = settings(model__kind="stem", embedding__optimizer=optimizer)
    first = run(1, "train", make_config(tmp_path / "a", old), *stem, *settings(train__max_steps=6, train__lr=0.05))
    assert first.codes == [0], first.text
    source = tmp_path / "a" / "run"
    warm = settings(checkpoint__warm_start__from=source)
    second = run(2, "train", make_config(tmp_path / "b", new), *stem, *FROZEN, *warm)
    assert second.codes == [0, 0], second.text
    assert "table video: 2,000 of 2,000 rows" in second.outputs[0]
    found = [json.loads((tmp_path / n / "run" / "evaluation.json").read_text())["test"] for n in ("a", "b")]
    for task in ("like", "follow", "watch"):
        assert found[1][task]["log_loss"] == pytest.approx(found[0][task]["log_loss"], rel=1e-5)
    rows = [open_stored(max((tmp_path / n / "run" / "checkpoints").glob("step-*")))[0] for n in ("a", "b")]
    one, two = (stored.whole("tables/video/weight").view(2000, 4, 8) for stored in rows)
    np.testing.assert_allclose(two[:, [0, 3, 2, 1]], one, atol=1e-7)
    fewer = settings(data__tasks='["watch","like"]')
    third = run(1, "train", make_config(tmp_path / "c", old), *stem, *FROZEN, *warm, *fewer)
    assert third.codes == [0], third.text
    of_third = json.loads((tmp_path / "c" / "run" / "evaluation.json").read_text())["test"]
    assert of_third["like"]["log_loss"] != pytest.approx(found[0]["like"]["log_loss"], rel=1e-5)  # its gate sees one task less
    kept = open_stored(max((tmp_path / "c" / "run" / "checkpoints").glob("step-*")))[0].whole("tables/video/weight")
    names = [task.name for task in make_schema().task]
    order = [0, *(n + 1 for n, name in enumerate(names) if name != "follow")]
    np.testing.assert_allclose(kept.view(2000, 3, 8), one[:, order], atol=1e-7)
