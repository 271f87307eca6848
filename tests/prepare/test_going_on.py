"""A preparation that goes on from an earlier one writes, byte for byte, what one of all days with the same numbers writes."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from home_dist.errors import ConfigError, DataError
from home_dist.prepare.days import DAY_MS
from home_dist.prepare.engine import Lost
from home_dist.prepare.generic import LogOptions, prepare_log
from home_dist.prepare.generic.going_on import NothingNew
from home_dist.prepare.progress import Progress
from home_dist.schema import load_schema
from tests.prepare.test_engine import state_of

QUIET = Progress(lambda text: None)
FIRST_DAY = 19_675
DESCRIPTION = """
log = "log/*"
user = "user"
time = "ms"
utc_offset_hours = 8
train_files = 1
side = [{ files = "video.csv", key = "video" }]
label = [
  { name = "like", group = "a", column = "like" },
  { name = "view", group = "b", column = "seconds", at_least = 3, known = "length" },
  { name = "watched", group = "b", column = "seconds", kind = "regression", unit = "s", cap = 12 },
  { name = "part", group = "b", column = "seconds", kind = "duration_quantile", duration = "length", bad = "unknown" },
  { name = "level", group = "b", column = "seconds", kind = "ordinal", thresholds = 6, known = "length" },
  { name = "spot", group = "a", column = "place", kind = "multiclass", classes = ["place 5", "place 0"], bad = "unknown" },
]
id = [
  { column = "user" },
  { column = "video", min_count = 3 },
  { column = "author" },
  { column = "tags", separator = "|", min_count = 1 },
]
number = [{ column = "length", log = true }, { column = "seconds", buckets = { by = "equal_width", count = 5 } }]
past = [
  { by = ["video"], rates = ["like", "view"], boundaries = { count = [0.5, 2, 3], like = [-2, 0, 1] } },
  { by = ["video"], rates = ["like"], days = 1.5 },
  { by = ["author", "place"], rates = ["view"], until = "morning" },
  { by = ["user"], rates = ["like"] },
  { by = ["place", "user"], rates = ["view"], days = 2 },
]
history = [
  { name = "seen", fields = ["video", "author"], outcomes = ["like", "view"], most = 5 },
  { name = "liked", fields = ["video"], only = "like", most = 3 },
]
"""
SPLIT = "\nsplit = { train_days = %d, validation_days = 1, test_days = 1 }\n"


def make_days(folder: Path, days: int, seed: int = 0, rows: int = 300, csv: bool = False) -> None:
    """A file per day, of users, videos and places that come and go."""
    random = np.random.default_rng(seed)
    (folder / "log").mkdir(parents=True)
    for day in range(days):
        users = random.integers(0, 20, rows) + 3 * day
        videos = random.integers(-1, 15, rows) + 2 * day
        log = pa.table(
            {
                "user": pa.array([None if u % 17 == 0 else f"u{u}" for u in users.tolist()], pa.string()),
                "ms": (FIRST_DAY + day) * DAY_MS - 8 * 3_600_000 + random.integers(0, 24 * 30, rows) * 120_000,
                "video": pa.array(videos),
                "place": pa.array(
                    [None if p == 3 else f"place {p}" for p in random.integers(0, 6, rows).tolist()], pa.string()
                ),
                "like": random.integers(0, 2, rows),
                "seconds": pa.array(np.round(random.exponential(4, rows), 3), mask=random.random(rows) < 0.1),
            }
        )
        if csv and day % 2:
            pacsv.write_csv(log, folder / "log" / f"{day:02d}.csv")
        else:
            pq.write_table(log, folder / "log" / f"{day:02d}.parquet", row_group_size=100)
    videos = np.arange(15 + 2 * days)
    side = pa.table(
        {
            "video": random.permutation(videos),
            "author": pa.array([None if v % 9 == 0 else f"a{v % 8}" for v in videos.tolist()], pa.string()),
            "length": random.integers(0, 20, len(videos)),
            "tags": ["|".join(f"t{t}" for t in range(v % 4)) for v in videos.tolist()],
        }
    )
    pacsv.write_csv(side, folder / "video.csv")


def describe(folder: Path, train_days: int, extra: str = "", text: str = DESCRIPTION) -> Path:
    path = folder / "mylog.toml"
    path.write_text(extra + SPLIT % train_days + text)
    return path


def prepare(folder: Path, out: str, like: str | None = None, until: int | None = None, **options) -> dict:
    chosen = LogOptions(
        like=None if like is None else folder / like,
        last_day=None if until is None else FIRST_DAY + until - 1,
        **{"partitions": 3} | options,
    )
    return prepare_log(folder / "mylog.toml", folder / out, QUIET, chosen)


def digests(out: Path, split: str) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted((out / split).glob("*.parquet"))}


@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 1000),
    base=st.integers(3, 5),
    increments=st.lists(st.integers(1, 2), min_size=1, max_size=3),
    forget=st.sampled_from(["", "forget_days = 1.25", "forget_days = 3"]),
    repeated=st.sampled_from(["", 'repeated = "merge"']),
)
def test_increments_are_a_preparation_of_all_days(seed, base, increments, forget, repeated, tmp_path_factory):
    folder = tmp_path_factory.mktemp("days")
    days = base + sum(increments)
    make_days(folder, days, seed, csv=bool(seed % 2))
    describe(folder, base - 2, f"{forget}\n{repeated}\n")
    prepare(folder, "data0", until=base)
    last, at = "data0", base
    for number, more in enumerate(increments, 1):
        prepare(folder, f"data{number}", last, at + more, partitions=number + 1)
        last, at = f"data{number}", at + more
    # All days at once, with the last increment's numbers, and its days as the last part.
    (folder / "whole.toml").write_text(
        f"{forget}\n{repeated}\nsplit = {{ train_days = 1, validation_days = 1, test_days = {increments[-1]} }}\n" + DESCRIPTION
    )
    prepare_log(folder / "whole.toml", folder / "whole", QUIET, LogOptions(like=folder / last, whole=True, partitions=2))
    assert digests(folder / "whole", "test") == digests(folder / last, "train")
    assert {p.name: p.read_bytes() for p in (folder / "whole/vocabularies").iterdir()} == {
        p.name: p.read_bytes() for p in (folder / last / "vocabularies").iterdir()
    }
    # What is left for the next day is the same, too, but for the counts of rare values, which are of training rows alone.
    mine, theirs = state_of(folder / last), state_of(folder / "whole")
    assert {n: r for n, r in mine.items() if n != "rare"} == {n: r for n, r in theirs.items() if n != "rare"}
    states = [json.loads((folder / name / "state/state.json").read_text()) for name in (last, "whole")]
    assert states[0]["everyone"] == states[1]["everyone"]
    facts = [[t.values for t in load_schema(folder / name / "schema.toml").task] for name in ("data0", last, "whole")]
    assert facts[0] == facts[1] == facts[2]
    assert all(v is not None for v in facts[0][2:])
    assert states[0]["end_day"] == states[1]["end_day"]


@pytest.fixture(scope="module")
def days(tmp_path_factory):
    """Seven days; data0 holds the first five."""
    folder = tmp_path_factory.mktemp("days")
    make_days(folder, 7)
    describe(folder, 3)
    prepare(folder, "data0", until=5)
    return folder


@pytest.fixture
def copy(days, tmp_path):
    """The days, to be spoiled."""
    shutil.copytree(days, tmp_path / "copy")
    return tmp_path / "copy"


def vocabulary(out: Path, name: str) -> dict:
    table = pq.read_table(out / "vocabularies" / f"{name}.parquet")
    return dict(zip(table.column("value").to_pylist(), table.column("row").to_pylist(), strict=True))


def test_a_vocabulary_keeps_its_rows_and_takes_new_values_once_they_are_frequent(days, tmp_path):
    """Against counts by a loop: videos of training days, seen min_count = 3 times since the first one."""
    prepare(days, tmp_path / "data1", "data0", until=6)
    prepare(days, tmp_path / "data2", tmp_path / "data1", until=7)
    first, second, third = (vocabulary(p, "video") for p in (days / "data0", tmp_path / "data1", tmp_path / "data2"))
    logs = [pq.read_table(days / "log" / f"{day:02d}.parquet").column("video").to_pylist() for day in range(7)]
    training = [v for day in (0, 1, 2) for v in logs[day]]
    for before, now, day in ((first, second, 5), (second, third, 6)):
        training += logs[day]
        assert now.items() >= before.items()
        frequent = {v: training.count(v) for v in set(training) if training.count(v) >= 3}
        assert now.keys() == frequent.keys()
        new = sorted(now.keys() - before.keys(), key=lambda v: (-frequent[v], v))
        assert [now[v] for v in new] == list(range(len(before) + 1, len(now) + 1))
        assert new
    tables = {t.name: t for t in load_schema(tmp_path / "data2" / "schema.toml").table}
    assert [a.keys for a in tables["video"].origin.grown_from] == [len(first), len(second)]
    assert tables["video"].rows == len(third) + 1


def test_growth_is_bounded_and_told(copy):
    counts, room = [], len(vocabulary(copy / "data0", "user")) + 1 + 3
    for more in ("", "most_new = 2", f"rows = {room}"):
        extra = f", {more}" if more else ""
        described = (copy / "mylog.toml").read_text().replace('{ column = "user" }', f'{{ column = "user"{extra} }}')
        (copy / "bound.toml").write_text(described)
        told: list[str] = []
        options = LogOptions(like=copy / "data0", partitions=2)
        say = Progress(told.append, bars=False)
        report = prepare_log(copy / "bound.toml", copy / f"out{len(counts)}", say, options)
        before, now = (len(vocabulary(copy / name, "user")) for name in ("data0", f"out{len(counts)}"))
        counts.append(now - before)
        grown = report["vocabularies_grown"]["user"]
        assert grown["new"] == now - before
        assert ("found no row" in str(told)) == (more == f"rows = {room}")
    assert counts[0] > 3
    assert counts[1:] == [2, 3]
    assert load_schema(copy / "out2/schema.toml").table_rows()["user"] == room
    full: list[str] = []
    with pytest.raises(NothingNew):  # told before any work
        prepare_log(copy / "bound.toml", copy / "out3", Progress(full.append, bars=False), LogOptions(like=copy / "out2"))
    assert f"the table of 'user' is full: its {room} rows" in full[0]


@pytest.mark.parametrize("name", ["state.json", "past-0-00000.parquet", "rare-1.parquet", "vocabulary"])
@pytest.mark.parametrize("harm", ["cut", "flipped", "missing"])
def test_a_damaged_state_is_named(name, harm, copy):
    path = copy / "data0/vocabularies/user.parquet" if name == "vocabulary" else copy / "data0/state" / name
    content = bytearray(path.read_bytes())
    if harm == "missing":
        path.unlink()
    else:
        content[len(content) // 2] ^= 4
        path.write_bytes(content[: len(content) // 2] if harm == "cut" else content)
    kind = ConfigError if name == "state.json" and harm == "missing" else DataError
    with pytest.raises(kind, match=name.replace("vocabulary", "user.parquet")):
        prepare(copy, "out", "data0")
    assert not (copy / "out.work").exists()


def test_a_newer_state_and_none_are_told(copy):
    path = copy / "data0/state/state.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 9, "home_dist": "7.1"}))
    with pytest.raises(DataError, match=r"written by home_dist 7\.1, in a newer format"):
        prepare(copy, "out", "data0")
    prepare(copy, "without", until=5, leave_state=False)
    with pytest.raises(ConfigError, match=r"holds no state/state\.json"):
        prepare(copy, "out", "without")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("days = 1.5", "days = 2.5"), r"past\.1\.days: 1\.5 there, 2\.5 here"),
        (("at_least = 3", "at_least = 5"), r"label\.1\.at_least: 3\.0 there, 5\.0 here"),
        (("cap = 12", "cap = 9"), r"label\.2\.cap: 12\.0 there, 9\.0 here"),
        (("most = 5", "most = 9"), r"history\.0\.most: 5 there, 9 here"),
        (("utc_offset_hours = 8", "utc_offset_hours = 7"), r"utc_offset_hours: 8\.0 there, 7\.0 here"),
        (('{ column = "tags", separator = "|", min_count = 1 },', ""), r"id\.3\.column: 'tags' there, 'not set' here"),
        (('{ column = "user" }', '{ column = "user", rows = 5 }'), r"id 'user': rows = 5, but its vocabulary .* values"),
    ],
)
def test_another_description_is_refused_by_its_keys(change, expected, copy):
    path = copy / "mylog.toml"
    path.write_text(path.read_text().replace(*change))
    with pytest.raises(ConfigError, match=expected):
        prepare(copy, "out", "data0")


def test_days_that_overlap_or_are_missing_are_refused(copy):
    late = pq.read_table(copy / "log/03.parquet").slice(0, 7)
    pq.write_table(late, copy / "log/03-late.parquet")
    with pytest.raises(DataError, match=r"log/03-late\.parquet: 7 rows of days that it holds \(2023-11-17 to 2023-11-17\)"):
        prepare(copy, "out", "data0")
    (copy / "log/03-late.parquet").unlink()
    rows = pq.read_table(copy / "log/03.parquet")
    pq.write_table(rows.slice(1), copy / "log/03.parquet")  # another file of this name
    with pytest.raises(DataError, match=r"log/03\.parquet: 29\d rows of days that it holds .*, of which it read 300"):
        prepare(copy, "out", "data0")
    pq.write_table(rows, copy / "log/03.parquet")
    (copy / "log/05.parquet").unlink()
    with pytest.raises(DataError, match=r"goes on at 2023-11-20, but .* ends with 2023-11-18: 1 days are missing"):
        prepare(copy, "out", "data0")
    prepare(copy, "out", "data0", allow_gap=True)
    (copy / "log/06.parquet").unlink()
    with pytest.raises(NothingNew, match=r"the log holds no rows after 2023-11-18, the last day of"):
        prepare(copy, "more", "data0")
    assert not (copy / "more.work").exists()


def test_a_file_that_grew_by_later_days_is_read_from_there(copy):
    """One file for all days, which grows: rows that were read are left out."""
    tables = [pq.read_table(copy / "log" / f"{day:02d}.parquet") for day in range(7)]
    for file in (copy / "log").iterdir():
        file.unlink()
    pq.write_table(pa.concat_tables(tables[:5]), copy / "log/all.parquet")
    prepare(copy, "one0")
    pq.write_table(pa.concat_tables(tables), copy / "log/all.parquet")
    report = prepare(copy, "one1", "one0")
    assert report["rows_in"] == report["rows_out"] == 600
    (copy / "log/all.parquet").rename(copy / "log/later.parquet")
    with pytest.raises(DataError, match=r"later\.parquet: 1,500 rows of days that it holds"):
        prepare(copy, "one2", "one0")


def test_keys_of_another_type_and_columns_of_nulls(copy):
    path = copy / "log/05.parquet"
    table = pq.read_table(path)
    numbers = pa.array(range(len(table)))
    pq.write_table(table.set_column(0, "user", numbers), path)
    (copy / "log/06.parquet").unlink()
    with pytest.raises(DataError, match=r"column 'user' has type int64, but texts in .*types = \{ user = \"text\" \}"):
        prepare(copy, "out", "data0")
    pq.write_table(table.set_column(0, "user", pa.nulls(len(table))), path)
    report = prepare(copy, "out", "data0")
    assert report["coverage"]["user"]["train"] == 0


def test_users_are_held_out_day_by_day(days, tmp_path):
    prepare(days, tmp_path / "half", "data0", hold_out=0.5)
    prepare(days, tmp_path / "all", "data0")
    rows = [pq.read_table(tmp_path / "half" / split) for split in ("train", "validation")]
    keys = [set(zip(t.column("group").to_pylist(), _days(t), strict=True)) for t in rows]
    assert not {k for k in keys[0] if k[0] is not None} & keys[1]
    assert 0.3 < len(keys[1]) / len(keys[0] | keys[1]) < 0.7
    users = {day: {u for u, d in keys[1] if d == day} for day in {d for _, d in keys[1]}}
    assert len(set(map(frozenset, users.values()))) == 2  # others each day
    whole = pq.read_table(tmp_path / "all" / "train")
    assert sum(map(len, rows)) == len(whole)
    assert not (tmp_path / "all" / "validation").exists()
    # Without a base, all days are for training but for the users who are held out.
    prepare(days, tmp_path / "first", until=5, hold_out=0.25)
    assert sum(len(pq.read_table(tmp_path / "first" / s)) for s in ("train", "validation")) == 1500


def _days(table: pa.Table) -> list[int]:
    return ((table.column("time_ms").to_numpy() + 8 * 3_600_000) // DAY_MS).tolist()


def test_boundaries_are_kept_given_or_fitted_anew_where_asked(days, tmp_path):
    prepare(days, tmp_path / "kept", "data0")
    prepare(days, tmp_path / "anew", "data0", anew=("seconds", "user_count"))
    old, kept, anew = (
        {f.name: f for f in load_schema(p / "schema.toml").feature if f.kind == "statistic"}
        for p in (days / "data0", tmp_path / "kept", tmp_path / "anew")
    )
    assert old == kept
    assert {n for n in old if old[n] != anew[n]} == {"seconds", "user_count"}
    assert old["video_count"].boundaries == (0.5, 2, 3)
    assert old["video_like"].boundaries == (-2, 0, 1)
    with pytest.raises(ConfigError, match=r"--anew price: no statistic of .*; there are: length, seconds"):
        prepare(days, tmp_path / "x", "data0", anew=("price",))


def test_a_killed_preparation_goes_on_where_it_was(days, tmp_path, monkeypatch):
    prepare(days, tmp_path / "whole", "data0")

    def killed(*_args, **_kwargs):
        raise Lost("killed")

    with monkeypatch.context() as patch:
        patch.setattr("home_dist.prepare.generic.log_preparation.fit", killed)
        with pytest.raises(Lost):
            prepare(days, tmp_path / "out", "data0")
    told: list[str] = []
    options = LogOptions(like=days / "data0", partitions=3)
    prepare_log(days / "mylog.toml", tmp_path / "out", Progress(told.append, bars=False), options)
    assert any("going on in" in line for line in told)
    assert digests(tmp_path / "out", "train") == digests(tmp_path / "whole", "train")
    assert state_of(tmp_path / "out") == state_of(tmp_path / "whole")


def test_what_is_forgotten_leaves_the_state(copy):
    """After forget_days without an event, users and values are gone from what is left, however long the log."""
    path = copy / "mylog.toml"
    path.write_text("forget_days = 1.0\n" + path.read_text())
    prepare(copy, "short", until=5)
    last = "data0"
    sizes = []
    for name in (last, "short"):
        rows = state_of(copy / name)
        sizes.append({kind: len(of_kind) for kind, of_kind in rows.items()})
    assert all(sizes[1][kind] <= sizes[0][kind] for kind in sizes[0])
    end = (FIRST_DAY + 5) * DAY_MS - 8 * 3_600_000
    assert sizes[1]["past-2"] < sizes[0]["past-2"]  # by user, without a window
    assert all(row["time"] >= end - DAY_MS for row in pq.read_table(copy / "short/state/past-2-00000.parquet").to_pylist())


def test_late_rows_can_be_left_out_and_are_counted(copy):
    late = pq.read_table(copy / "log/03.parquet").slice(0, 7)
    pq.write_table(late, copy / "log/03-late.parquet")
    told: list[str] = []
    options = LogOptions(like=copy / "data0", skip_late=True)
    report = prepare_log(copy / "mylog.toml", copy / "out", Progress(told.append, bars=False), options)
    assert report["rows_in"] == 600
    assert any("late rows are left out: log/03-late.parquet: 7 rows" in line for line in told)
    (copy / "log/03-late.parquet").unlink()
    prepare(copy, "without", "data0")
    assert digests(copy / "out", "train") == digests(copy / "without", "train")
    record = json.loads((copy / "without/state/state.json").read_text())
    assert sorted(record["read"]) == [f"log/{day:02d}.parquet" for day in range(7)]  # not of files that are gone


def test_another_file_of_the_same_name_and_size_is_read(copy):
    """A CSV that is written anew under one name each day, with as many bytes."""
    for file in sorted((copy / "log").iterdir())[5:]:
        file.unlink()
    rows = pq.read_table(copy / "log/04.parquet")
    prepare(copy, "base")
    for number, out in ((1, "first"), (2, "second")):
        later = rows.set_column(1, "ms", pc.add(rows.column("ms"), number * DAY_MS))
        pacsv.write_csv(later, copy / "log/today.csv")
        sizes = (copy / "log/today.csv").stat().st_size
        if number == 1:
            prepare(copy, out, "base")
            before = sizes
    assert sizes == before
    with pytest.raises(DataError, match=r"log/today\.csv: 0 rows of days that it holds \(none\), of which it read 300"):
        prepare(copy, "second", "first")
    assert prepare(copy, "second", "first", skip_late=True)["rows_in"] == 300


def test_a_list_of_nulls_stays_a_list(tmp_path):
    (tmp_path / "log").mkdir()
    for day in range(4):
        tags = [[f"t{n % 3}", "x"] for n in range(60)] if day < 3 else [None] * 60
        ms = [(FIRST_DAY + day) * DAY_MS + n for n in range(60)]
        table = pa.table({"user": [f"u{n % 7}" for n in range(60)], "ms": ms, "tags": tags, "like": [0, 1] * 30})
        pq.write_table(table, tmp_path / "log" / f"{day}.parquet")
    text = """
log = "log/*"
user = "user"
time = "ms"
split = { train_days = 1, validation_days = 1, test_days = 1 }
label = [{ name = "like", group = "a", column = "like" }]
id = [{ column = "tags" }]
"""
    (tmp_path / "mylog.toml").write_text(text)
    prepare(tmp_path, "data0", until=3)
    prepare(tmp_path, "data1", "data0")
    schemas = [load_schema(tmp_path / name / "schema.toml") for name in ("data0", "data1")]
    assert [s.feature[0].pooling for s in schemas] == ["mean", "mean"]
    assert pq.read_table(tmp_path / "data1/train").column("tags").to_pylist() == [[]] * 60


def test_a_statistic_that_begins_to_vary_is_told_and_can_be_taken(copy):
    for day in range(5):
        path = copy / "log" / f"{day:02d}.parquet"
        table = pq.read_table(path)
        pq.write_table(table.set_column(5, "seconds", pa.array([4.0] * len(table))), path)
    prepare(copy, "constant", until=5)
    told: list[str] = []
    say = Progress(told.append, bars=False)
    prepare_log(copy / "mylog.toml", copy / "later", say, LogOptions(like=copy / "constant"))
    assert any("seconds is left out, as it had one value or none in" in line for line in told)
    prepare(copy, "taken", "constant", anew=("seconds",))
    names = [{f.name for f in load_schema(copy / n / "schema.toml").feature} for n in ("constant", "later", "taken")]
    assert [("seconds" in n) for n in names] == [False, False, True]


def test_the_log_is_the_same_from_any_working_folder(copy, monkeypatch):
    path = copy / "mylog.toml"
    path.write_text(path.read_text().replace('log = "log/*"', f'log = "{copy}/log/*"'))
    monkeypatch.chdir(copy)
    prepare_log(Path("mylog.toml"), Path("base"), QUIET, LogOptions(last_day=FIRST_DAY + 4))
    report = prepare_log(copy / "mylog.toml", copy / "next", QUIET, LogOptions(like=copy / "base"))
    assert report["rows_in"] == 600


def test_counts_of_all_times_grow_and_are_no_warning(days, tmp_path):
    report = prepare(days, tmp_path / "next", "data0")
    grown = {n for n, entry in report["base"]["statistics"].items() if entry["grows"]}
    assert grown == {"video_count", "video_like", "video_view", "author_place_count", "author_place_view"} | {
        "user_count",
        "user_like",
    }
    about_values = [w for w in report["base"]["warnings"] if "population stability" in w]
    assert not any(w.startswith(n) for w in about_values for n in grown)
    spoiled = tmp_path / "spoiled"
    shutil.copytree(days / "data0", spoiled)
    (spoiled / "report.json").write_text('{"splits": {"train": {"rows": 5}}, "coverage": [1]}')
    warnings = prepare(days, tmp_path / "x", spoiled)["base"]["warnings"]
    assert warnings == [f"{spoiled}/report.json does not tell of training rows: drift cannot be measured"]
