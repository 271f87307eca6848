"""A log that is described in TOML: against the KuaiRand pipeline on the same rows, and against loops."""

import datetime
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from home_dist.errors import ConfigError, DataError
from home_dist.prepare.days import DAY_MS
from home_dist.prepare.generic import prepare_log
from home_dist.prepare.kuairand import KuaiRandOptions, prepare_kuairand
from home_dist.prepare.progress import Progress
from home_dist.schema import load_schema
from tests.factory import CONFIG
from tests.prepare.raw import START_MS, make_log, side_tables, write_raw
from tests.ranks import run

QUIET = Progress(lambda text: None)
DESCRIPTION = """
log = "raw/log_*.csv"
user = "user_id"
time = "time_ms"
utc_offset_hours = 8
train_files = 2

[split]
train_days = 3
validation_days = 1
test_days = 1

[[side]]
files = "raw/video_features_basic_small.csv"
key = "video_id"

[[label]]
name = "like"
group = "interaction"
column = "is_like"
[[label]]
name = "long_view"
group = "watch"
column = "long_view"
known = "duration_ms"
[[label]]
name = "watched"
group = "watch"
column = "play_time_ms"
at_least = 7000

[[id]]
column = "user_id"
[[id]]
column = "video_id"
min_count = 1
[[id]]
column = "author_id"
[[id]]
column = "tag"
separator = ","
min_count = 1

[[number]]
column = "duration_ms"
log = true

[[past]]
by = ["user_id"]
rates = ["long_view"]
strength = 5
[[past]]
by = ["user_id"]
rates = ["like"]
until = "morning"
strength = 5
days = 30
[[past]]
by = ["video_id"]
rates = ["like"]
days = 1

[[history]]
name = "seen"
fields = ["video_id", "author_id"]
outcomes = ["like", "long_view"]
most = 4
[[history]]
name = "liked"
fields = ["video_id"]
only = "like"
"""


def distinct_log(seed: int = 0) -> dict[str, np.ndarray]:
    """Without repeated rows, which the KuaiRand pipeline merges."""
    log = make_log(seed=seed)
    _, first = np.unique(np.stack([log["time_ms"], log["user_id"], log["video_id"]]), axis=1, return_index=True)
    return {name: values[np.sort(first)] for name, values in log.items()}


def write(folder: Path, description: str = DESCRIPTION, log: dict[str, np.ndarray] | None = None) -> Path:
    write_raw(folder / "raw", distinct_log() if log is None else log)
    (folder / "mylog.toml").write_text(description)
    return folder / "mylog.toml"


def rows_of(out: Path) -> list[dict]:
    return [{"split": s, **r} for s in ("train", "validation", "test") for r in pq.read_table(out / s).to_pylist()]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("generic")
    prepare_log(write(folder), folder / "out", QUIET)
    return folder


def test_statistics_and_labels_are_those_of_the_kuairand_pipeline(prepared):
    options = KuaiRandOptions(train_days=3, validation_days=1, test_days=1)
    prepare_kuairand(prepared / "raw", prepared / "kuairand", options, lambda text: None)
    names = {
        "stat_user_id_count": "stat_user_count",
        "stat_user_id_long_view": "stat_user_long_view",
        "stat_user_id_30d_like": "stat_user_like",
        "stat_video_id_1d_count": "stat_video_day_count",
        "stat_video_id_1d_like": "stat_video_day_like",
        "label_like": "label_like",
        "label_long_view": "label_long_view",
        "known_long_view": "watch_known",
        "hour": "hour",
        "weekday": "weekday",
    }

    def comparable(out: Path, columns) -> list[str]:
        # Equal impressions may stand in another order.
        return sorted(json.dumps([r["split"], r["time_ms"], *(r[c] for c in columns)]) for r in rows_of(out))

    mine = comparable(prepared / "out", names)
    assert len(mine) > 300
    assert mine == comparable(prepared / "kuairand", names.values())


def test_histories_are_what_the_user_was_shown_before(prepared):
    log, rows = distinct_log(), rows_of(prepared / "out")
    table = pq.read_table(prepared / "out" / "vocabularies" / "video_id.parquet")
    video = dict(zip(table["value"].to_pylist(), table["row"].to_pylist(), strict=True))
    checked = 0
    for row in rows:
        own = log["user_id"] == row["group"]
        before = np.flatnonzero(own & (log["time_ms"] < row["time_ms"]))
        times = log["time_ms"][before]
        if len(np.unique(times)) < len(times):
            continue  # the order within a moment is free
        checked += 1
        before = before[np.argsort(times)]
        known = log["duration_ms"] > 0
        seen = before[-4:]
        assert row["seen_video_id"] == [video[v] for v in log["video_id"][seen].tolist()]
        outcome = log["is_like"] + 2 * (log["long_view"] * known)
        assert row["seen_outcome"] == outcome[seen].tolist()
        liked = before[log["is_like"][before] == 1]
        assert row["liked_video_id"] == [video[v] for v in log["video_id"][liked].tolist()]
    assert checked > 100


def test_nothing_looks_into_the_future(prepared, tmp_path):
    log, other = distinct_log(), distinct_log(seed=7)
    moment = START_MS + 4 * DAY_MS + DAY_MS // 2
    kept, later = log["time_ms"] < moment, other["time_ms"] >= moment
    changed = {name: np.concatenate([values[kept], other[name][later]]) for name, values in log.items()}
    prepare_log(write(tmp_path, log=changed), tmp_path / "out", QUIET)

    def early(out: Path) -> list[str]:
        return sorted(json.dumps(r, sort_keys=True) for r in rows_of(out) if r["time_ms"] < moment)

    assert len(early(prepared / "out")) > 200
    assert early(prepared / "out") == early(tmp_path / "out")


def test_texts_timestamps_and_parquet_say_the_same_as_numbers(prepared, tmp_path):
    log = distinct_log()
    text = {n: v for n, v in log.items() if n not in ("user_id", "video_id", "time_ms")}
    zone = datetime.timezone(datetime.timedelta(hours=8))  # that of the description's calendar
    moments = [datetime.datetime.fromtimestamp(t / 1000, zone).replace(tzinfo=None) for t in log["time_ms"].tolist()]
    columns = {
        **{n: pa.array(v) for n, v in text.items()},
        "user_id": pa.array([f"u{v:02d}" for v in log["user_id"]]),
        "video_id": pa.array([f"v{v:02d}" for v in log["video_id"]]).dictionary_encode(),
        "time_ms": pa.array(moments, pa.timestamp("us")),
    }
    (tmp_path / "raw").mkdir()
    pq.write_table(pa.table(columns), tmp_path / "raw" / "log_a.parquet")
    side = side_tables()["video_features_basic"]
    side = side.set_column(0, "video_id", pa.array([f"v{v:02d}" for v in side["video_id"].to_pylist()]))
    pacsv.write_csv(side, tmp_path / "raw" / "video_features_basic_small.csv")
    (tmp_path / "mylog.toml").write_text(DESCRIPTION.replace("log_*.csv", "log_*.parquet"))
    prepare_log(tmp_path / "mylog.toml", tmp_path / "out", QUIET)
    mine, theirs = (
        sorted(json.dumps({k: v for k, v in r.items() if k != "group"}, sort_keys=True) for r in rows_of(f / "out"))
        for f in (tmp_path, prepared)
    )
    assert mine == theirs


@pytest.mark.distributed
def test_it_trains(prepared, tmp_path):
    config = CONFIG.format(run=tmp_path / "run", data=prepared / "out", batch_size=64).replace('"watched"', '"seen"')
    (tmp_path / "run.toml").write_text(config)
    ended = run(1, "train", tmp_path / "run.toml")
    assert ended.codes == [0], ended.text
    assert "tasks: interaction: like; watch: long_view, watched" in ended.text


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("train_days = 3", "train_days = 0"), ["split.train_days", "greater than or equal to 1"]),
        (("known =", "knwon ="), ["label.1.knwon", "unknown key"]),
        (('rates = ["long_view"]', 'rates = ["lng_view"]'), ["'lng_view' is no label", "like, long_view, watched"]),
        (('fields = ["video_id"]', 'fields = ["tag"]'), ["history 'liked'", "'tag' is no [[id]] of one value"]),
        (('name = "watched"', 'name = "like"'), ["label 'like' is declared twice"]),
        (('column = "tag"', 'column = "hour"'), ["[[id]] 'hour' and the calendar", "feature 'hour'"]),
        (('column = "tag"', 'column = "group"'), ["[[id]] 'group'", "the column of users", "column 'group'"]),
        (('column = "tag"', 'column = "duration_ms"'), ["'duration_ms'", "[[id]]", "[[number]]"]),
        (
            ('column = "tag"', 'column = "label_like"'),
            ["[[label]] 'like' and [[id]] 'label_like'", "column 'label_like'"],
        ),
        (('column = "tag"', 'column = "seen_age"'), ["[[history]] 'seen': its age and [[id]] 'seen_age'", "table 'seen_age'"]),
        (('column = "tag"', 'column = "liked_video_id"'), ["[[history]] 'liked': its field 'video_id'", "[[id]]"]),
        (('name = "seen"', 'name = "' + 197 * "s" + '"'), ["characters; at most 200 can be"]),
        (('by = ["video_id"]', 'by = ["video id"]'), ["past by video id", "'video id_1d_count'", "Give the entry a `name`"]),
        (('by = ["video_id"]', 'by = ["vidéo"]'), ["past by vidéo", "Give the entry a `name`"]),
        (('name = "like"\ngroup', 'name = "count"\ngroup'), ["is no label"]),
    ],
)
def test_a_wrong_description_names_the_key(change, expected, tmp_path):
    with pytest.raises(ConfigError) as error:
        prepare_log(write(tmp_path, DESCRIPTION.replace(*change)), tmp_path / "out", QUIET)
    for part in expected:
        assert part in str(error.value), error.value
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (('log = "raw/log_*.csv"', 'log = "raw/nothing*.csv"'), ["nothing*.csv", "no such file"]),
        (('column = "is_like"', 'column = "liked"'), ["column 'liked' is missing", "is_like"]),
        (('column = "is_like"', 'column = "play_time_ms"'), ["'play_time_ms' of label 'like'", "0 or 1 is needed", "at_least"]),
        (
            ('time = "time_ms"', 'time = "time_ms"\ntime_unit = "us"'),
            ["split.train_days = 3: the train part would hold no rows"],
        ),
        (('time = "time_ms"', 'time = "time_ms"\ntime_unit = "s"'), ["'time_ms'", "no time since 1970 in s"]),
        (
            ('column = "duration_ms"\nlog', 'column = "upload_dt"\nlog'),
            ["column 'upload_dt' has type"],
        ),
        (('key = "video_id"', 'key = "author_id"'), ["column 'author_id' is missing"]),
    ],
)
def test_a_log_that_does_not_fit_is_named(change, expected, tmp_path):
    with pytest.raises(DataError) as error:
        prepare_log(write(tmp_path, DESCRIPTION.replace(*change)), tmp_path / "out", QUIET)
    for part in expected:
        assert part in str(error.value), error.value
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize("kind", ["of the calendar", "of UTC", "with a zone", "of CSV"])
def test_a_timestamp_is_the_moment_that_it_says(prepared, tmp_path, kind):
    """10 o'clock without a zone is 10 o'clock on the calendar of days and hours, and not shifted again."""
    log = distinct_log()
    zone = datetime.UTC if kind == "of UTC" else datetime.timezone(datetime.timedelta(hours=8))
    moments = [datetime.datetime.fromtimestamp(t / 1000, zone) for t in log["time_ms"].tolist()]
    description = DESCRIPTION
    if kind == "of UTC":
        description = description.replace("utc_offset_hours = 8", 'utc_offset_hours = 8\ntimes_without_zone = "utc"')
    if kind != "with a zone":
        moments = [m.replace(tzinfo=None) for m in moments]
    times = pa.array(moments, pa.timestamp("us", "America/Lima" if kind == "with a zone" else None))
    path = write(tmp_path, description if kind == "of CSV" else description.replace("log_*.csv", "log_*.parquet"))
    for old in (tmp_path / "raw").glob("log_*"):
        old.unlink()
    table = pa.table({**{n: pa.array(v) for n, v in log.items()}, "time_ms": times})
    if kind == "of CSV":
        pacsv.write_csv(table, tmp_path / "raw" / "log_a.csv")
    else:
        pq.write_table(table, tmp_path / "raw" / "log_a.parquet")
    prepare_log(path, tmp_path / "out", QUIET)
    assert sorted((r["time_ms"], r["hour"]) for r in rows_of(tmp_path / "out")) == sorted(
        (r["time_ms"], r["hour"]) for r in rows_of(prepared / "out")
    )


def renamed(label: str) -> str:
    """With another name for the label like."""
    return DESCRIPTION.replace('"like"', f'"{label}"')


def test_a_label_called_count_does_not_take_the_place_of_the_count(tmp_path):
    with pytest.raises(
        ConfigError, match=r"its rate of 'count' and .*: its count would both be the feature 'user_id_30d_count'"
    ):
        prepare_log(write(tmp_path, renamed("count")), tmp_path / "out", QUIET)


def test_a_past_may_be_by_columns_of_any_name_when_it_has_one_of_its_own(tmp_path):
    path = write(tmp_path, DESCRIPTION.replace('by = ["video_id"]', 'by = ["vidéo id"]\nname = "video_id"'))
    for log in (tmp_path / "raw").glob("log_*.csv"):
        log.write_text(log.read_text().replace("video_id", "vidéo id", 1))
    side = tmp_path / "raw" / "video_features_basic_small.csv"
    side.write_text(side.read_text().replace("video_id", "vidéo id", 1))
    description = path.read_text().replace('key = "video_id"', 'key = "vidéo id"')
    description = description.replace('[[id]]\ncolumn = "video_id"\nmin_count = 1\n', "").replace(
        '"video_id", "author_id"', '"author_id"'
    )
    path.write_text(description.replace('fields = ["video_id"]', 'fields = ["author_id"]'))
    prepare_log(path, tmp_path / "out", QUIET)
    features = {f.name for f in load_schema(tmp_path / "out" / "schema.toml").feature}
    assert {"video_id_1d_count", "video_id_1d_like"} <= features


@pytest.mark.slow
@given(
    label=st.sampled_from(["like", "known_x", "happened_x", "x", "base", "row", "rows", "day", "split", "time"]),
    other=st.sampled_from(["known_long_view", "happened_like", "user", "rows", "count_x", "stat", "label", "key", "number"]),
    history=st.sampled_from(["stat_x", "label_x", "known_x", "row", "id", "base", "happened"]),
)
@settings(max_examples=15)
def test_whatever_the_names_all_of_them_are_in_the_data(label, other, history, tmp_path_factory):
    folder = tmp_path_factory.mktemp("names")
    description = renamed(label).replace('"watched"', f'"{other}"').replace('name = "liked"', f'name = "{history}"')
    prepare_log(write(folder, description), folder / "out", QUIET)
    schema = load_schema(folder / "out" / "schema.toml")
    columns = set(pq.read_schema(folder / "out" / "test" / "part-00000.parquet").names)
    told = {f.column for f in schema.feature} | {t.column for t in schema.task}
    told |= {e.column for s in schema.sequence for e in s.events}
    assert told <= columns
    assert {t.name for t in schema.task} == {label, "long_view", other}
