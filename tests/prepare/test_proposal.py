"""A proposed description names what a log holds, and prepares it."""

import json
import tomllib

import numpy as np
import pyarrow as pa
import pyarrow.orc as paorc
import pyarrow.parquet as pq
import pytest

from home_dist.errors import ConfigError, DataError
from home_dist.prepare.days import DAY_MS
from home_dist.prepare.generic import prepare_log
from home_dist.prepare.proposal import propose
from home_dist.schema import load_schema
from tests.prepare.test_formats import as_iso, as_lines
from tests.prepare.test_going_on import FIRST_DAY, QUIET

ROWS, DAYS = 400, 5


def shop_log(day):
    """A day of a log that was not made for home_dist."""
    random = np.random.default_rng(day)
    play = random.exponential(9000, ROWS).astype(np.int64)
    return pa.table(
        {
            "user_id": [f"u{n}" for n in random.integers(0, 40, ROWS)],
            "event_time": (FIRST_DAY + day) * DAY_MS + np.sort(random.integers(0, DAY_MS, ROWS)),
            "video_id": random.integers(0, 60, ROWS),
            "author": [f"a{n}" for n in random.integers(0, 9, ROWS)],
            "tags": ["|".join(f"t{t}" for t in range(n)) for n in random.integers(0, 4, ROWS)],
            "price": np.round(random.lognormal(2, 2, ROWS), 2),
            "hour": random.integers(0, 24, ROWS),
            "is_click": random.integers(0, 2, ROWS),
            "play_ms": play,
            "comment_stay_ms": play // 7,
            "duration_ms": random.integers(2000, 60_000, ROWS),
            "empty": pa.nulls(ROWS, pa.string()),
        }
    )


def proposed(folder, suffix):
    propose(str(folder / f"*.{suffix}"), folder / "mylog.toml")
    return tomllib.loads((folder / "mylog.toml").read_text())


def check(found, folder):
    assert (found["user"], found["time"], found["time_unit"]) == ("user_id", "event_time", "ms")
    assert found["split"] == {"train_days": DAYS - 2, "validation_days": 1, "test_days": 1}
    assert [x["name"] for x in found["label"]] == ["is_click", "play_seconds"]
    assert {k: found["label"][1][k] for k in ("column", "scale", "duration")} == {
        "column": "play_ms",
        "scale": 0.001,
        "duration": "duration_ms",
    }
    assert [i["column"] for i in found["id"]] == ["user_id", "video_id", "author", "tags"]
    assert found["id"][3]["separator"] == "|"
    assert found["number"] == [{"column": "price", "log": True}]  # what is known only afterwards is none
    assert found["history"] == [{"name": "seen", "fields": ["video_id", "author"], "outcomes": ["is_click"]}]
    text = (folder / "mylog.toml").read_text()
    assert "# comment_stay_ms: it seems to be known only after the impression" in text
    assert "# hour: hour and weekday are made of the time" in text
    prepare_log(folder / "mylog.toml", folder / "data", QUIET)
    assert {t.name for t in load_schema(folder / "data/schema.toml").task} == {"is_click", "play_seconds"}


def write_tabs(table, path):
    as_lines(table, path, "\t")


def write_semicolons(table, path):
    as_lines(table, path, ";")


WRITERS = {"parquet": pq.write_table, "orc": paorc.write_table, "tsv": write_tabs, "csv": write_semicolons}


@pytest.mark.parametrize("suffix", WRITERS)
def test_a_proposal_names_roles_and_prepares_the_log(suffix, tmp_path):
    for day in range(DAYS):
        WRITERS[suffix](shop_log(day), tmp_path / f"{day}.{suffix}")
    found = proposed(tmp_path, suffix)
    assert found.get("format") == ({"delimiter": ";"} if suffix == "csv" else None)
    check(found, tmp_path)


def test_json_lines_with_nested_objects(tmp_path):
    for day in range(DAYS):
        rows = as_iso(shop_log(day).rename_columns(["user_id", "ms", *shop_log(day).column_names[2:]])).to_pylist()
        texts = [json.dumps({**row, "seen": [{"id": 1}], "colours": ["red", "blue"]}) for row in rows]
        (tmp_path / f"{day}.jsonl").write_text("\n".join(texts) + "\n")
    found = proposed(tmp_path, "jsonl")
    assert (found["time"], found.get("time_unit")) == ("ms", None)
    assert [i["column"] for i in found["id"]] == ["user_id", "video_id", "author", "tags", "colours"]
    assert "# seen: list<item: struct<id: int64>> is no feature; it may be a history" in (tmp_path / "mylog.toml").read_text()
    prepare_log(tmp_path / "mylog.toml", tmp_path / "data", QUIET)


def test_days_of_all_files_are_told_by_footers(tmp_path):
    for day in (0, 1, 9, 2):
        pq.write_table(shop_log(day), tmp_path / f"{day}.parquet")
    (tmp_path / "9.parquet").rename(tmp_path / "1b.parquet")
    pq.write_table(shop_log(3), tmp_path / "3.parquet")
    assert proposed(tmp_path, "parquet")["split"]["train_days"] == 8


@pytest.mark.parametrize(
    ("drop", "told"),
    [
        (["is_click", "play_ms", "comment_stay_ms"], r"no column that could be a label is found"),
    ],
)
def test_a_log_without_what_is_needed_is_told(drop, told, tmp_path):
    pq.write_table(shop_log(0).drop_columns(drop), tmp_path / "0.parquet")
    with pytest.raises(ConfigError, match=told):
        proposed(tmp_path, "parquet")
    assert not (tmp_path / "mylog.toml").exists()


@pytest.mark.parametrize("drop", [["event_time"], ["user_id"], ["event_time", "user_id"]])
def test_a_log_without_times_or_users(drop, tmp_path):
    for day in range(DAYS):
        pq.write_table(shop_log(day).drop_columns(drop), tmp_path / f"{day}.parquet")
    found = proposed(tmp_path, "parquet")
    assert ("user" in found, "time" in found) == ("user_id" not in drop, "event_time" not in drop)
    if "event_time" in drop:
        assert found["split"] == {"by": "random", "validation": 0.1, "test": 0.1}
        assert not found.keys() & {"past", "history"}
        assert '# order = "files" and split = { by = "files"' in (tmp_path / "mylog.toml").read_text()
    else:
        assert [p["by"] for p in found["past"]] == [["video_id"]]
    prepare_log(tmp_path / "mylog.toml", tmp_path / "data", QUIET)


def test_folders_lists_of_structs_and_tables(tmp_path):
    for day in range(DAYS):
        folder = tmp_path / f"log/date={np.datetime64(FIRST_DAY + day, 'D')}/country=c{day % 3}"
        folder.mkdir(parents=True)
        table = shop_log(day).drop_columns(["event_time"])
        bought = pa.array([[{"sku": 3, "at": 5}]] * len(table))
        pq.write_table(table.append_column("bought", bought), folder / "0.parquet")
    propose(str(tmp_path / "log/*/*/*.parquet"), tmp_path / "mylog.toml")
    text = (tmp_path / "mylog.toml").read_text()
    found = tomllib.loads(text)
    assert found["time"] == "date"
    assert found["split"]["train_days"] == DAYS - 2
    assert "country" in [i["column"] for i in found["id"]]
    assert '# events = { column = "bought", time = "AT", columns = { video_id = "ITEM" } }' in text
    prepare_log(tmp_path / "mylog.toml", tmp_path / "data", QUIET)


def test_a_delta_table(tmp_path):
    deltalake = pytest.importorskip("deltalake")
    for day in range(DAYS):
        deltalake.write_deltalake(str(tmp_path / "table"), shop_log(day).drop_columns(["empty"]), mode="append")
    propose(str(tmp_path / "table"), tmp_path / "mylog.toml")
    found = tomllib.loads((tmp_path / "mylog.toml").read_text())
    assert found["format"] == {"kind": "delta"}
    assert found["split"]["train_days"] == DAYS - 2
    prepare_log(tmp_path / "mylog.toml", tmp_path / "data", QUIET)


def test_nothing_is_overwritten_and_empty_logs_are_told(tmp_path):
    (tmp_path / "mylog.toml").write_text("mine")
    with pytest.raises(ConfigError, match=r"mylog\.toml: is there already"):
        proposed(tmp_path, "parquet")
    (tmp_path / "mylog.toml").unlink()
    with pytest.raises(ConfigError, match=r"cannot be written: .*nowhere is no folder"):
        propose(str(tmp_path / "*.parquet"), tmp_path / "nowhere" / "mylog.toml")
    pq.write_table(shop_log(0).slice(0, 0), tmp_path / "0.parquet")
    with pytest.raises(DataError, match=r"holds no rows"):
        proposed(tmp_path, "parquet")


def test_ids_of_64_bits_and_columns_that_are_not_read(tmp_path):
    table = shop_log(0)
    table = table.set_column(0, "user_id", pa.array([2**60 + n % 40 for n in range(ROWS)]))
    table = table.set_column(2, "video_id", pa.array([2**63 + n % 60 for n in range(ROWS)], pa.uint64()))
    others = {"raw": pa.array([b"\xff", b"b"] * (ROWS // 2)), "took": pa.array([1, 2] * (ROWS // 2), pa.duration("s"))}
    for name, values in others.items():
        table = table.append_column(name, values)
    pq.write_table(table, tmp_path / "log.parquet")
    found = proposed(tmp_path, "parquet")
    assert [i["column"] for i in found["id"]][:2] == ["user_id", "video_id"]
    text = (tmp_path / "mylog.toml").read_text()
    assert "# raw: binary is not read" in text
    assert "# took: duration[s] is not read" in text


def test_columns_whose_names_a_preparation_makes_are_left_out(tmp_path):
    """And a value that no comment of TOML can hold is shown without its control character."""
    table = shop_log(0).append_column("word", pa.array(["a\x7fb", "c"] * (ROWS // 2)))
    for name in ("group", "seen_age", "user_id_count", "video_id_is_click"):
        table = table.append_column(name, pa.array(["a", "b"] * (ROWS // 2)))
    pq.write_table(table, tmp_path / "log.parquet")
    found = proposed(tmp_path, "parquet")
    assert [i["column"] for i in found["id"]] == ["user_id", "video_id", "author", "tags", "word"]
    assert (tmp_path / "mylog.toml").read_text().count("makes a column or a feature of this name") == 4
