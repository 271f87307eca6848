"""Origins cut from a prepared folder: against preparations of the raw log that end earlier, and against changed futures."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from home_dist.config import load_config
from home_dist.errors import ConfigError, DataError
from home_dist.prepare.boundaries import Buckets, choose_boundaries
from home_dist.prepare.generic import prepare_log
from home_dist.prepare.kuairand import KuaiRandOptions, prepare_kuairand
from home_dist.prepare.origins import read_dated, write_origin
from home_dist.prepare.origins.refit import bucket_rule, encoded
from home_dist.prepare.sketch import Sketch
from home_dist.schema import StatisticFeature, load_schema, save_schema
from tests.prepare.raw import START_MS, make_log, write_raw
from tests.prepare.test_generic import DESCRIPTION, QUIET

ROWS = 2400
LABELS = ("is_click", "is_like", "is_follow", "is_comment", "is_forward", "is_profile_enter", "long_view")


def quiet(text: str) -> None:
    pass


def long_log(seed: int = 0) -> dict[str, np.ndarray]:
    """Without repeated rows; with a long tail of videos."""
    log = {name: values[:ROWS] for name, values in make_log(ROWS, seed).items()}
    random = np.random.default_rng(seed)
    log["time_ms"] = np.sort(log["time_ms"] // 60_000 * 60_000 + random.permutation(ROWS) % 60_000)
    log["video_id"] = np.minimum(random.zipf(1.4, ROWS), 2000)
    return log


def prepared(raw: Path, out: Path, *days: int) -> Path:
    prepare_kuairand(raw, out, KuaiRandOptions(*days, train_files=2), quiet)
    return out


def dated(data: Path, hours: float | None = None, **of_data: str):
    text = f"[run]\ndir = '{data}-runs'\n[data]\npath = '{data}'\n" + "".join(f"{k} = {v!r}\n" for k, v in of_data.items())
    config = data.with_name(data.name + ".toml")
    config.write_text(text)
    return read_dated(load_config(config, []), hours)


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    return write_raw(tmp_path_factory.mktemp("origins") / "raw", long_log())


def rows_of(folder: Path, until_ms: int | None = None) -> list[dict]:
    table = pq.read_table(folder)
    rows = [r for r in table.to_pylist() if until_ms is None or r["time_ms"] < until_ms]
    return sorted(rows, key=lambda r: (r["user_id"], r["time_ms"]))


def test_an_earlier_origin_is_what_the_raw_log_would_have_given(raw, tmp_path):
    base = dated(prepared(raw, tmp_path / "base", 4, 1, 1))
    [origin] = base.origins("3")
    write_origin(base, origin, tmp_path / "origin", quiet)
    other = prepared(raw, tmp_path / "other", 3, 1, 2)
    found, expected = (load_schema(folder / "schema.toml") for folder in (tmp_path / "origin", other))
    compared = 0
    for table in expected.table:
        if table.origin is not None:
            mine, theirs = (pq.read_table(f / table.origin.file).to_pylist() for f in (tmp_path / "origin", other))
            # Of a table of few keys the least count is not known: its rarest ones may be left out.
            assert mine == theirs[: len(mine)]
            assert all(key["count"] < 20 for key in theirs[len(mine) :])
            if table.name == "video":
                assert len(mine) == len(theirs)
                compared += len(mine)
    assert compared > 50
    statistics = {f.name: f for f in expected.feature if isinstance(f, StatisticFeature)}
    for feature in found.feature:
        if isinstance(feature, StatisticFeature) and feature.name in statistics:
            assert feature.mean == pytest.approx(statistics[feature.name].mean, abs=0.02)
            assert feature.std == pytest.approx(statistics[feature.name].std, rel=0.05, abs=0.02)
    for task, theirs in zip(found.task, expected.task, strict=True):
        if task.base_rate is not None:
            assert task.base_rate == pytest.approx(theirs.base_rate, abs=1e-6)
    day_6 = int(base.utc_offset_hours and START_MS + 5 * 86_400_000)
    for split, until in (("train", None), ("validation", None), ("test", day_6)):
        mine, theirs = rows_of(tmp_path / "origin" / split), rows_of(other / split, until)
        assert len(mine) == len(theirs) > 100
        for name in ("video", "watched_video", "time_ms", "label_like", "watch_known"):
            assert [r[name] for r in mine] == [r[name] for r in theirs], name


def test_the_base_own_last_day_gives_its_own_vocabularies(raw, tmp_path):
    base = dated(prepared(raw, tmp_path / "base", 4, 1, 1))
    [origin] = base.origins("2022-04-28")
    assert origin.number == 4
    write_origin(base, origin, tmp_path / "origin", quiet)
    for table in base.schema.table:
        if table.origin is not None and table.name in ("video", "author", "user"):
            mine, theirs = (pq.read_table(f / table.origin.file) for f in (tmp_path / "origin", tmp_path / "base"))
            assert mine.to_pylist() == theirs.to_pylist()
    assert pq.read_table(tmp_path / "origin" / "train").equals(pq.read_table(tmp_path / "base" / "train"))


def test_nothing_after_the_validation_day_is_seen(raw, tmp_path):
    """Labels of all later days are others: what the origin trains and chooses on is the same to the byte."""
    prepared(raw, tmp_path / "one", 4, 1, 1)
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    end = START_MS + 4 * 86_400_000  # of day 4, origin 3's validation day
    changed = 0
    for path in (tmp_path / "two").glob("*/*.parquet"):
        if path.parent.name == "vocabularies":
            continue
        table = pq.read_table(path)
        later = table["time_ms"].to_numpy() >= end
        for column in [c for c in table.column_names if c.startswith("label_") and c != "label_watch_seconds"]:
            values = table[column].to_numpy().copy()
            values[later] = 1 - values[later]
            changed += int(later.sum())
            table = table.set_column(table.column_names.index(column), column, pa.array(values, table[column].type))
        pq.write_table(table, path)
    assert changed > 1000
    for name in ("one", "two"):
        base = dated(tmp_path / name)
        write_origin(base, base.origins("3")[0], tmp_path / f"{name}-3", quiet)
    for part in ("train", "validation", "schema.toml", "vocabularies"):
        one, two = (tmp_path / f"{name}-3" / part for name in ("one", "two"))
        files = sorted(p.relative_to(one) for p in one.rglob("*")) if one.is_dir() else [Path()]
        for file in files:
            assert (one / file).read_bytes() == (two / file).read_bytes()
    tests = [pq.read_table(tmp_path / f"{name}-3" / "test") for name in ("one", "two")]
    assert not tests[0].equals(tests[1])


def test_columns_of_keys_and_numbers_are_fitted_on_the_training_days(tmp_path):
    from home_dist.prepare.fit.data_fit import fit_data

    random = np.random.default_rng(0)
    days = np.repeat(np.arange(6), 500)
    table = pa.table(
        {
            "at": START_MS + days * 86_400_000 + random.integers(0, 86_000_000, 3000),
            "item": random.choice(["a", "b", "c"], 3000) + np.where(days > 2, "new", ""),
            "size": random.normal(days * 10.0, 3.0),
            "like": (random.random(3000) < 0.2 + 0.1 * (days > 2)).astype(np.int8),
        }
    )
    for split, first, end in (("train", 0, 4), ("validation", 4, 5), ("test", 5, 6)):
        (tmp_path / "data" / split).mkdir(parents=True)
        pq.write_table(table.filter(pa.array((days >= first) & (days < end))), tmp_path / "data" / split / "p.parquet")
    (tmp_path / "draft.toml").write_text(
        'time_column = "at"\ntable = [{ name = "item", values = { kind = "vocabulary", type = "text", min_count = 1 } }]\n'
        'feature = [{ kind = "id", name = "item", column = "item", table = "item" }, '
        '{ kind = "statistic", name = "size", column = "size", buckets = { count = 8 } }, '
        '{ kind = "dense", name = "raw", column = "size" }]\n'
        'task = [{ name = "like", group = "a", column = "like" }]\n'
    )
    fit_data(tmp_path / "draft.toml", tmp_path / "data", quiet)
    base = dated(tmp_path / "data")
    write_origin(base, base.origins("3")[0], tmp_path / "origin", quiet)
    fitted = load_schema(tmp_path / "origin" / "schema.toml")
    seen = table.filter(pa.array(days < 3))
    keys = pq.read_table(tmp_path / "origin" / "vocabularies" / "item.parquet")["value"].to_pylist()
    assert sorted(keys) == ["a", "b", "c"]
    size = seen["size"].to_numpy()
    statistic, dense = fitted.feature[1:]
    assert statistic.boundaries == pytest.approx(np.quantile(size, np.arange(1, 8) / 8, method="inverted_cdf"))
    assert (statistic.mean, dense.mean, dense.std) == pytest.approx((size.mean(), size.mean(), size.std()))
    assert fitted.task[0].base_rate == pytest.approx(seen["like"].to_numpy().mean())


@pytest.mark.parametrize("by", ["quantile", "equal_width", "logarithmic"])
@pytest.mark.parametrize("count", [5, 20, 7])
def test_a_rule_is_told_by_its_boundaries(by, count):
    seen = Sketch()
    seen.add(np.random.default_rng(1).lognormal(0, 1, 5000))
    rule = Buckets(by=by, count=count)
    found = bucket_rule(choose_boundaries(rule, seen), seen)
    assert found == rule
    assert bucket_rule((0.011, 0.0123, 0.7, 9.1), seen) is None


def test_lists_and_nulls_keep_their_place():
    new = np.array([0, 3, 1, 0, 2], np.int32)
    lists = pa.chunked_array([pa.array([[9], [1, 2], None, [], [4, None]], pa.list_(pa.int32())).slice(1)])
    assert encoded(lists, new, "l").to_pylist() == [[3, 1], None, [], [2, 0]]
    large = lists.cast(pa.large_list(pa.int64()))
    assert encoded(large, new, "l").type == large.type
    assert encoded(pa.chunked_array([pa.array([4, None, 1], pa.int64())]), new, "x").to_pylist() == [2, 0, 3]
    for wrong in (5, -1):
        with pytest.raises(DataError, match=f"column 'x': {wrong} is no row of its table, which has 5"):
            encoded(pa.chunked_array([pa.array([1, wrong])]), new, "x")


def test_a_folder_of_a_log_of_ones_own(tmp_path):
    write_raw(tmp_path / "raw", long_log(1))
    (tmp_path / "mylog.toml").write_text(DESCRIPTION)
    prepare_log(tmp_path / "mylog.toml", tmp_path / "out", QUIET)
    base = dated(tmp_path / "out")
    assert (base.utc_offset_hours, len(base.rows)) == (8.0, 5)
    write_origin(base, base.origins("2")[0], tmp_path / "origin", quiet)
    fitted = load_schema(tmp_path / "origin" / "schema.toml")
    assert fitted.group_column == base.schema.group_column
    assert [f.name for f in fitted.feature] == [f.name for f in base.schema.feature]
    assert [t.means for t in fitted.task] == [t.means for t in base.schema.task]


def test_wrong_origins_and_data_are_refused_with_what_to_do(raw, tmp_path):
    data = prepared(raw, tmp_path / "base", 3, 1, 2)
    base = dated(data)
    for asked, message in (
        ("x", "write the first and the last origin"),
        ("3:2", "last origin comes before"),
        ("0:2", "origins are 1 to 4"),
        ("4:5", "origin 5 needs training days up to it and two days after it; the data's days are 2022-04-25"),
        ("2021-01-01", "origins are 1 to 4"),
        ("2022-13-01", "neither the number of a day nor a date"),
    ):
        with pytest.raises(ConfigError, match=message):
            base.origins(asked)
    write_origin(base, base.origins("2")[0], tmp_path / "origin", quiet)
    before = (tmp_path / "origin" / "schema.toml").stat().st_mtime_ns
    write_origin(base, base.origins("2")[0], tmp_path / "origin", quiet)
    assert (tmp_path / "origin" / "schema.toml").stat().st_mtime_ns == before
    part = next((data / "test").iterdir())
    pq.write_table(pq.read_table(part).slice(1), part)
    with pytest.raises(DataError, match="was made of other data"):
        write_origin(dated(data), base.origins("2")[0], tmp_path / "origin", quiet)
    save_schema(base.schema.model_copy(update={"time_column": None}), data / "schema.toml")
    with pytest.raises(ConfigError, match="has no time_column, so that rows have no days"):
        dated(data)
    save_schema(base.schema.model_copy(update={"time_column": "nowhere"}), data / "schema.toml")
    with pytest.raises(DataError, match="the time column 'nowhere' cannot be read"):
        dated(data)


def test_an_empty_day_is_told(raw, tmp_path):
    data = prepared(raw, tmp_path / "base", 3, 1, 2)
    for path in (data / "validation").iterdir():
        pq.write_table(pq.read_table(path).slice(0, 0), path)
    with pytest.raises(ConfigError, match=r"origin 3 has no validation rows: 2022-04-28 is empty"):
        dated(data, 8).origins("3")
