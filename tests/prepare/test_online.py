"""Columns that a server makes of a request are those that a preparation of the next day writes, to the bit."""

import re
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from home_dist.errors import DataError
from home_dist.prepare.days import DAY_MS
from home_dist.prepare.generic import log_preparation
from home_dist.prepare.generic.encode import rows_of_vocabulary
from home_dist.prepare.generic.log_spec import LogSpec
from home_dist.prepare.generic.state import Base, key_sets
from home_dist.prepare.online import OnlineColumns, UnfitColumn
from home_dist.prepare.online.key_pasts import KeyPasts
from home_dist.prepare.online.sorted_events import SortedEvents
from home_dist.prepare.online.user_histories import UserHistories
from tests.prepare.next_day import DAYS, MOMENT, OF_USER, ROWS, inputs_of, next_day, prepared_rows
from tests.prepare.test_going_on import FIRST_DAY, describe, make_days, prepare


@pytest.fixture(scope="module", params=["", "forget_days = 1.25\n", 'forget_days = 3\nrepeated = "merge"\n'])
def base(request, tmp_path_factory):
    """The state of DAYS days."""
    folder = tmp_path_factory.mktemp("online")
    make_days(folder, DAYS, seed=5)
    describe(folder, DAYS - 2, request.param)
    prepare(folder, "data")
    return Base.open(folder / "data")


@pytest.fixture(scope="module")
def days(base):
    """(columns from the state, rows of the next day as in the log with its side table, what a preparation makes of them)"""
    folder = base.folder.parent
    rows = next_day(folder)
    return OnlineColumns(base, inputs_of(base)), rows, prepared_rows(folder, rows)


def asked(online, rows):
    """One request per row: the user's columns once."""
    columns = [n for n in rows.column_names if n not in ("id", "like")]
    made = []
    for number in range(ROWS):
        row = rows.slice(number, 1).select(columns)
        user, candidates = online.of(row.select(OF_USER), row.drop_columns(list(OF_USER)))
        made.append(
            pa.table(
                dict(zip(user.column_names, user.columns, strict=True)) | {n: candidates[n] for n in candidates.column_names}
            )
        )
    return pa.concat_tables(made)


def same(made, expected):
    assert made.num_columns > 20
    for name in made.column_names:
        one, other = (t[name].combine_chunks() for t in (made, expected))
        assert one.type == other.type, name
        assert one.to_pylist() == other.to_pylist(), name


def test_a_request_per_row_gives_what_a_preparation_writes(days):
    online, rows, expected = days
    same(asked(online, rows), expected)


def test_all_rows_at_once_give_what_a_preparation_writes(days):
    online, rows, expected = days
    user, candidates = online.of(pa.table({}), rows)
    assert user.num_columns == 0
    same(candidates, expected)


def test_the_user_s_columns_are_made_once(days):
    online, rows, _ = days
    row = rows.slice(0, 1)
    user, candidates = online.of(row.select(OF_USER), rows.select(["video", "author", "length", "tags", "seconds"]))
    assert {"seen_video", "liked_video", "hour", "stat_user_like", "stat_place_user_2d_view"} <= set(user.column_names)
    assert {"stat_video_like", "stat_author_place_view", "video", "tags", "stat_length"} <= set(candidates.column_names)
    assert (len(user), len(candidates)) == (1, ROWS)


def test_given_columns_are_taken_as_they_are(days):
    online, rows, _ = days
    given = {"stat_user_like": pa.array([0.5], pa.float32()), "hour": pa.array([3], pa.int32())}
    user = rows.slice(0, 1).select(OF_USER)
    for name, values in given.items():
        user = user.append_column(name, values)
    made, _ = online.of(user, rows.select(["video", "author", "length", "tags", "seconds"]))
    assert made["stat_user_like"].to_pylist() == [0.5]
    assert made["hour"].to_pylist() == [3]
    assert "stat_user_count" in made.column_names


def test_without_a_time_it_is_now(days):
    online, rows, expected = days
    user, _ = online.of(rows.slice(0, 1).select(["user", "place"]), rows.drop_columns(["user", "place", "ms"]), MOMENT)
    assert user["time_ms"].to_pylist() == [MOMENT]
    assert user["seen_video"].to_pylist() == expected["seen_video"].to_pylist()[:1]
    later, _ = online.of(rows.slice(0, 1).select(["user", "place"]), rows.drop_columns(["user", "place", "ms"]))
    assert later["time_ms"].to_pylist()[0] > MOMENT


def test_the_past_is_told(days):
    """The rows that are compared have one."""
    _, _, expected = days
    assert all(expected[n].null_count < ROWS for n in expected.column_names if n.startswith("stat_"))
    for history in ("seen_video", "liked_video"):
        assert sum(map(len, expected[history].to_pylist())) > ROWS


@pytest.mark.parametrize(
    ("column", "values", "told"),
    [
        ("user", [17], "has type int64, but texts are needed"),
        ("video", ["7"], "has type string, but whole numbers are needed"),
        ("video", [7.5], "holds no keys: 7.5 is no whole number"),
        ("length", ["long"], "has type string, but numbers are needed"),
        ("tags", [["a"]], "has type list<item: string>, but texts with '|' between values are needed"),
        ("ms", ["today"], "holds what is no time: request: column 'ms' holds 'today' in row 1"),
        ("ms", [0.5], "has type double, but whole numbers (ms) or times are needed"),
        ("ms", [None], "has type null"),
        ("ms", [MOMENT - 2 * DAY_MS], "lies before 2023-11-17, the last day that the state knows"),
        ("ms", [10**15], "holds what is no time"),
        ("seen_age", [[1]], "column 'seen_author' is missing: give all of seen_age, seen_author, seen_outcome, seen_video"),
        ("author", None, "column 'author' is missing: give it under user or candidates"),
    ],
)
def test_a_column_that_does_not_fit_is_named(days, column, values, told):
    online, rows, _ = days
    given = {n: rows[n].slice(0, 1) for n in rows.column_names} | {column: values and pa.array(values)}
    with pytest.raises(UnfitColumn, match=re.escape(told)) as refused:
        online.of(pa.table({}), pa.table({n: v for n, v in given.items() if v is not None}))
    assert refused.value.column == ("seen_author" if column == "seen_age" else column)


def test_a_column_on_both_sides_is_refused(days):
    online, rows, _ = days
    with pytest.raises(UnfitColumn, match="column 'user' stands there 2 times"):
        online.of(rows.select(["user"]).slice(0, 1), rows)


def test_nulls_dictionaries_and_views_are_read_as_in_a_log(days):
    online, rows, expected = days
    row = rows.slice(0, 1)
    encoded = row.set_column(row.schema.get_field_index("user"), "user", row["user"].combine_chunks().dictionary_encode())
    same(online.of(pa.table({}), encoded)[1], expected.slice(0, 1))
    views = [f.with_type(pa.string_view()) if pa.types.is_string(f.type) else f for f in row.schema]
    same(online.of(pa.table({}), row.cast(pa.schema(views)))[1], expected.slice(0, 1))
    nothing = {n: pa.nulls(1) for n in rows.column_names} | {"ms": pa.array([MOMENT])}
    _, made = online.of(pa.table({}), pa.table(nothing))
    assert made.select(["user", "video", "author", "tags", "seen_video"]).to_pylist() == [
        {"user": 0, "video": 0, "author": 0, "tags": [], "seen_video": []}
    ]
    assert made["stat_video_like"].to_pylist() == made["stat_length"].to_pylist() == [None]


def test_candidates_without_a_needed_column_are_counted(base, days):
    """As of a model that reads the user's columns alone."""
    rows = days[1]
    _, candidates = OnlineColumns(base, {"user", "hour"}).of(rows.slice(0, 1).select(OF_USER), rows.select(["video"]))
    assert (candidates.num_rows, candidates.num_columns) == (ROWS, 0)


@pytest.mark.parametrize("needed", [{"seen_age"}, {"seen_author", "video"}, {"liked_age", "seen_outcome"}])
def test_a_model_may_read_a_part_of_a_history(needed, base, days):
    _, rows, expected = days
    _, made = OnlineColumns(base, needed).of(pa.table({}), rows)
    assert set(made.column_names) == needed
    for name in needed:
        assert made[name].to_pylist() == expected[name].to_pylist(), name


def test_a_description_of_another_version_is_told(base):
    record = base.record.model_copy(update={"description": base.record.description | {"moods": 3}, "home_dist": "9.0"})
    with pytest.raises(DataError, match=r"state\.json: home_dist 9\.0 wrote its description.*moods: unknown key"):
        OnlineColumns(replace(base, record=record), {"user"})


def test_parts_of_a_state_are_read_one_by_one(base, tmp_path):
    """All texts together may be more than an array with offsets of 32 bits holds: here parts differ in width."""
    spec = LogSpec.model_validate(base.record.description)

    def widened(files):
        for number, file in enumerate(files):
            table = pq.read_table(file)
            kinds = [f.with_type(pa.large_string()) if number and pa.types.is_string(f.type) else f for f in table.schema]
            pq.write_table(table.cast(pa.schema(kinds)), tmp_path / file.name)
        assert len({pq.read_schema(tmp_path / f.name) for f in files}) > 1
        return [tmp_path / f.name for f in files]

    users, moments = pa.array([f"u{n}" for n in range(20)]), np.full(20, MOMENT)
    [own] = [p for p in spec.past if p.by == ("user",)]
    files = base.files("past", key_sets(spec).index(own.by))
    told, other = (KeyPasts([own], of, spec).before([users], moments) for of in (files, widened(files)))
    assert {n: v.tolist() for n, v in told.items()} == {n: v.tolist() for n, v in other.items()}
    assert told["user.count"].sum() > 100
    encoders = {n: rows_of_vocabulary(base.vocabulary(n), n, base.record.key_types[n]) for n in ("video", "author")}
    files = base.files("events", 0)
    seen, other = (UserHistories(spec.history[0], of, encoders, spec).before(users, moments) for of in (files, widened(files)))
    assert seen == other


HEAD = """
log = "log/*"
user = "user"
time = "at"
split = { train_days = 2, validation_days = 1, test_days = 1 }
train_files = 1
calendar = false
label = [{ name = "like", group = "a", column = "like" }]
"""
WHOLE_NUMBERS = (
    HEAD
    + """
id = [{ column = "user", min_count = 1 }, { column = "video" }, { column = "tags", min_count = 1 }]
past = [{ by = ["user"], rates = ["like"] }, { by = ["user", "video"], days = 2 }]
history = [{ name = "seen", fields = ["video"], most = 4 }]
"""
)


def test_unsigned_users_lists_and_timestamps(tmp_path):
    random = np.random.default_rng(4)

    def rows(count, days):
        at = FIRST_DAY * DAY_MS + np.sort(random.integers(0, days * DAY_MS, count))
        columns = {
            "id": np.arange(count),
            "user": random.integers(0, 12, count).astype(np.uint64) + np.uint64(2**63),
            "at": pa.array(at, pa.timestamp("ms")),
            "video": random.integers(0, 9, count),
            "tags": pa.array([list(range(n)) for n in random.integers(0, 4, count)], pa.list_(pa.int64())),
            "like": random.integers(0, 2, count),
        }
        return pa.table(columns)

    (tmp_path / "log").mkdir()
    (tmp_path / "mylog.toml").write_text(WHOLE_NUMBERS)
    pq.write_table(rows(300, 4), tmp_path / "log" / "0.parquet")
    prepare(tmp_path, "data")
    moment = pa.array([(FIRST_DAY + 4) * DAY_MS] * 50, pa.timestamp("ms"))
    later = rows(50, 4)
    later = later.set_column(2, "at", moment)
    expected = prepared_rows(tmp_path, later)
    base = Base.open(tmp_path / "data")
    user, made = OnlineColumns(base, inputs_of(base)).of(pa.table({}), later)
    assert set(made.column_names) == inputs_of(base)
    for name in made.column_names:
        assert made[name].to_pylist() == expected[name].to_pylist(), name
    assert sum(map(len, made["seen_video"].to_pylist())) > 100
    one = pa.table({"user": pa.array([2**63 + 3], pa.uint64()), "video": pa.array([4])})
    there = OnlineColumns(base, {"user", "seen_video", "stat_user_video_2d_count"})
    user, _ = there.of(one, pa.table({}), (FIRST_DAY + 4) * DAY_MS)
    assert user["user"].to_pylist()[0] > 0
    assert len(user["seen_video"].to_pylist()[0]) == 4


EVENTS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 30)), max_size=40)


@settings(max_examples=200, deadline=None)
@given(events=EVENTS, queries=EVENTS, window=st.none() | st.integers(1, 20), pause=st.none() | st.integers(0, 10))
def test_sorted_events_are_those_of_a_loop(events, queries, window, pause):
    keys, times = (np.array([e[place] for e in events], np.int64) for place in (0, 1))
    asked_keys, moments = (np.array([q[place] for q in queries], np.int64) for place in (0, 1))
    known = asked_keys > 0
    there = SortedEvents(keys.astype(np.uint64), times, pause)
    first, last = there.before(asked_keys.astype(np.uint64), known, moments, window)
    for number, (key, moment) in enumerate(queries):
        own = [at for at, (k, t) in enumerate(events) if k == key and t < moment and known[number]]
        own.sort(key=lambda at: events[at][1])
        if pause is not None:
            kept, after = [], moment
            for at in reversed(own):
                if after - events[at][1] > pause:
                    break
                kept, after = [at, *kept], events[at][1]
            own = kept
        own = [at for at in own if window is None or events[at][1] >= moment - window]
        assert there.order[first[number] : last[number]].tolist() == own


PART_OF_A_DAY = (
    HEAD
    + """
id = [{ column = "video" }]
past = [
  { by = ["video"], rates = ["like"] },
  { by = ["video"], days = 1, rates = ["like"] },
  { by = ["user"], until = "morning", rates = ["like"] },
  { by = ["place"], rates = ["like"] },
]
"""
)


@pytest.mark.parametrize("piece_rows", [1 << 62, 40])
def test_a_request_on_the_last_day_after_its_events(tmp_path, piece_rows, monkeypatch):
    """A log that ends at noon, asked in the evening: counts are those of a loop over its events."""
    random = np.random.default_rng(2)
    at = FIRST_DAY * DAY_MS + np.linspace(0, 3.5 * DAY_MS, 400).astype(np.int64)
    keys = {name: random.integers(0, 3, len(at)) for name in ("video", "user", "place")}
    like = random.integers(0, 2, len(at))
    (tmp_path / "log").mkdir()
    (tmp_path / "mylog.toml").write_text(PART_OF_A_DAY)
    pq.write_table(pa.table({"at": at, "like": like, **keys}), tmp_path / "log" / "0.parquet")
    monkeypatch.setattr(log_preparation, "piece_rows", lambda *_: piece_rows)
    prepare(tmp_path, "data")
    moment, morning = (FIRST_DAY + 3) * DAY_MS + 18 * 3_600_000, (FIRST_DAY + 3) * DAY_MS
    base = Base.open(tmp_path / "data")
    asked = {name: np.arange(3) for name in keys} | {"at": np.full(3, moment)}
    _, made = OnlineColumns(base, inputs_of(base)).of(pa.table({}), pa.table(asked))
    counted = [("video", "video", 0, moment), ("video_1d", "video", moment - DAY_MS, moment), ("place", "place", 0, moment)]
    for name, key, since, until in [*counted, ("user", "user", 0, morning)]:
        events = [int(np.sum((keys[key] == k) & (at >= since) & (at < until))) for k in range(3)]
        told = made[f"stat_{name}_count"].to_pylist()
        assert np.abs(np.log1p(events) - told).max() <= base.record.steps[f"{name}_count"] / 2, name
