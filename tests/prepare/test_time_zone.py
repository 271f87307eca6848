"""Logs with a time zone, against zoneinfo, pandas, and a preparation of all days at once."""

import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from home_dist.errors import ConfigError
from home_dist.prepare.days import DAY_MS, HOUR_MS
from home_dist.prepare.generic import LogOptions, prepare_log
from home_dist.prepare.generic.log_days import log_days
from home_dist.prepare.generic.log_spec import load_spec
from home_dist.prepare.generic.state import Base, _sum
from home_dist.prepare.local_clock import LocalClock
from home_dist.prepare.online import OnlineColumns, UnfitColumn
from home_dist.schema import load_schema
from tests.prepare.next_day import DAYS, ROWS, inputs_of, next_day, prepared_rows
from tests.prepare.test_going_on import DESCRIPTION, FIRST_DAY, QUIET, describe, digests, make_days, prepare
from tests.prepare.test_online import same
from tests.ranks import REPOSITORY

pd = pytest.importorskip("pandas")

SPRING, AUTUMN = 19_813, 20_023  # 2024-03-31 and 2024-10-27: days of 23 and of 25 hours in Berlin
ZONED = DESCRIPTION.replace("utc_offset_hours = 8", 'time_zone = "Europe/Berlin"')
SHANGHAI = DESCRIPTION.replace("utc_offset_hours = 8", 'time_zone = "Asia/Shanghai"')
MINUTE_MS = 60_000
CHANGES = [
    ("Europe/Berlin", "2024-03-31"),
    ("Europe/Berlin", "2024-10-27"),
    ("America/New_York", "2024-11-03"),
    ("Australia/Lord_Howe", "2024-04-07"),  # by half an hour
    ("America/Sao_Paulo", "2018-11-04"),  # midnight is leapt over
    ("America/Sao_Paulo", "2018-02-17"),  # and here the last hour of the day comes twice
    ("America/St_Johns", "1988-10-30"),  # set back at 00:01: the date of the day before is shown again
    ("Pacific/Apia", "2011-12-30"),  # a date that never was
    ("Antarctica/Casey", "2010-03-05"),  # by three hours
    ("Asia/Kolkata", "2024-03-31"),
]


def shown(zone, times_ms):
    """What zoneinfo's clock shows, in ms since 1970 of that clock."""
    found = []
    for ms in times_ms:
        at = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=int(ms))
        found.append(int(ms) + int(at.astimezone(ZoneInfo(zone)).utcoffset().total_seconds() * 1000))
    return np.array(found)


@pytest.mark.parametrize(("zone", "date"), CHANGES)
def test_every_minute_around_a_change_of_the_clock(zone, date):
    middle = int(np.datetime64(date, "D").astype(np.int64)) * DAY_MS
    minutes = middle + np.arange(-36 * 60, 60 * 60) * MINUTE_MS
    expected, clock = shown(zone, minutes), LocalClock(zone=zone)
    assert clock.local_ms(minutes).tolist() == expected.tolist()
    # The first minute at which the clock shows a time or a later one.
    latest = np.maximum.accumulate(expected)
    times = np.arange(latest[0] // MINUTE_MS + 1, latest[-1] // MINUTE_MS) * MINUTE_MS
    first = minutes[np.searchsorted(latest, times, side="left")]
    assert clock.moments(times).tolist() == first.tolist()
    # A day is that of the latest date that was shown.
    days = latest // DAY_MS
    assert clock.days(minutes).tolist() == days.tolist()
    begun = np.unique(days)[1:]
    assert clock.starts(begun).tolist() == [int(minutes[np.argmax(days == day)]) for day in begun]


@settings(max_examples=60, deadline=None)
@given(
    zone=st.sampled_from(["Europe/Berlin", "America/Havana", "Africa/Casablanca", "Pacific/Kwajalein", "Africa/Monrovia"]),
    seconds=st.lists(st.integers(-(2**31), 4 * 10**9), min_size=1, max_size=40),
)
def test_any_moment(zone, seconds):
    times = np.array(seconds) * 1000
    assert LocalClock(zone=zone).local_ms(times).tolist() == shown(zone, times).tolist()


def test_a_time_that_comes_twice_is_the_first_and_one_that_never_comes_the_leap():
    """By pandas, which is told to do so."""
    texts = ["2024-10-27 02:30:00", "2024-10-27 03:00:00", "2024-03-31 02:30:00", "2024-03-31 03:00:00"]
    local = pd.to_datetime(texts)
    expected = [t.tz_localize("Europe/Berlin", ambiguous=True, nonexistent="shift_forward").value // 10**6 for t in local]
    assert LocalClock(zone="Europe/Berlin").moments(local.as_unit("ms").asi8).tolist() == expected
    assert expected[2] == expected[3]


def make_zoned(folder, days, change, place, rows=300):
    """Logs whose day number `place` is the day `change`, by Berlin's winter time."""
    make_days(folder, days, rows=rows)
    shift = (change - place - FIRST_DAY) * DAY_MS + 7 * HOUR_MS
    for path in sorted((folder / "log").glob("*.parquet")):
        table = pq.read_table(path)
        pq.write_table(table.set_column(1, "ms", pc.add(table["ms"], shift)), path)
    return change - place


def last(first, days, like=None, **options):
    return LogOptions(like=like, last_day=first + days - 1, **{"partitions": 3} | options)


@pytest.mark.parametrize("change", [SPRING, AUTUMN])
@pytest.mark.parametrize("place", [pytest.param(2, marks=pytest.mark.slow), 4, pytest.param(5, marks=pytest.mark.slow)])
def test_increments_are_a_preparation_of_all_days(change, place, tmp_path):
    """The change is before the base's last day, on it, or on the day after."""
    first = make_zoned(tmp_path, 7, change, place, rows=200)
    path = describe(tmp_path, 3, text=ZONED)
    prepare_log(path, tmp_path / "data0", QUIET, last(first, 5))
    prepare_log(path, tmp_path / "data1", QUIET, last(first, 6, tmp_path / "data0", partitions=2))
    prepare_log(path, tmp_path / "data2", QUIET, last(first, 7, tmp_path / "data1"))
    describe(tmp_path, 1, text=ZONED)
    prepare_log(path, tmp_path / "whole", QUIET, last(first, 7, tmp_path / "data2", whole=True))
    assert digests(tmp_path / "whole", "test") == digests(tmp_path / "data2", "train")
    states = [json.loads((tmp_path / name / "state/state.json").read_text()) for name in ("data2", "whole")]
    assert states[0]["end_day"] == states[1]["end_day"] == first + 7
    assert log_days(path, Base.open(tmp_path / "data1")).keys() >= {first + 6}


@pytest.mark.parametrize("change", [SPRING, AUTUMN])
def test_splits_calendar_and_mornings_are_those_of_pandas(change, tmp_path):
    first = make_zoned(tmp_path, 5, change, 3)
    text = ZONED.partition("past = [")[0] + '\npast = [{ by = ["video"], until = "morning" }]\n'
    prepare_log(describe(tmp_path, 3, text=text), tmp_path / "data", QUIET, last(first, 5, keep=("ms", "video")))
    log = pd.concat([pq.read_table(p).to_pandas() for p in sorted((tmp_path / "log").glob("*.parquet"))])
    local = pd.to_datetime(log.ms, unit="ms", utc=True).dt.tz_convert("Europe/Berlin")
    log["date"] = local.dt.strftime("%Y-%m-%d")
    dates = sorted(set(log.date))
    wanted = [d for d in dates if d <= str(np.datetime64(first + 4, "D"))]
    parts = {"train": wanted[-5:-2], "validation": wanted[-2:-1], "test": wanted[-1:]}
    assert str(np.datetime64(change, "D")) in parts["validation"]
    step = json.loads((tmp_path / "data/state/state.json").read_text())["steps"]["video_count"]
    for split, days in parts.items():
        rows = pa.concat_tables([pq.read_table(p) for p in (tmp_path / "data" / split).glob("*.parquet")]).to_pandas()
        at = pd.to_datetime(rows.time_ms, unit="ms", utc=True).dt.tz_convert("Europe/Berlin")
        assert sorted(rows.time_ms) == sorted(log[log.date.isin(days)].ms)
        assert rows.hour.tolist() == at.dt.hour.tolist()
        assert rows.weekday.tolist() == at.dt.day_of_week.tolist()
        for row, date in zip(rows.itertuples(), at.dt.strftime("%Y-%m-%d"), strict=True):
            earlier = ((log.video == row.keep_video) & (log.date < date)).sum()
            assert row.stat_video_count == pytest.approx(round(np.log1p(earlier) / step) * step, abs=1e-6)


@pytest.mark.parametrize(("change", "hours"), [(SPRING, 20), (AUTUMN, 1)])
def test_a_request_is_answered_as_the_next_day_is_prepared(change, hours, tmp_path):
    """The state's last day is the one of 23 or 25 hours; the request comes in the hours after it."""
    make_zoned(tmp_path, DAYS, change, DAYS - 1)
    describe(tmp_path, DAYS - 2, text=ZONED)
    prepare(tmp_path, "data", until=change + 1 - FIRST_DAY)
    base = Base.open(tmp_path / "data")
    online = OnlineColumns(base, inputs_of(base))
    end = int(pd.Timestamp(str(np.datetime64(change + 1, "D")), tz="Europe/Berlin").value // 10**6)
    assert online.until * 1000 == end
    rows = next_day(tmp_path)
    rows = rows.set_column(rows.column_names.index("ms"), "ms", pa.array(np.full(ROWS, end + hours * HOUR_MS)))
    _, made = online.of(pa.table({}), rows)
    for path in (tmp_path / "log").glob("*.parquet"):
        path.unlink()
    same(made, prepared_rows(tmp_path, rows))


def test_a_request_before_the_last_day_is_refused(tmp_path):
    make_zoned(tmp_path, DAYS, AUTUMN, DAYS - 1)
    describe(tmp_path, DAYS - 2, text=ZONED)
    prepare(tmp_path, "data", until=AUTUMN + 1 - FIRST_DAY)
    base, rows = Base.open(tmp_path / "data"), next_day(tmp_path).slice(0, 1)
    online = OnlineColumns(base, inputs_of(base))
    morning = int(pd.Timestamp("2024-10-27", tz="Europe/Berlin").value // 10**6)
    for ms, is_refused in ((morning - 1, True), (morning, False)):
        asked_at = rows.set_column(rows.column_names.index("ms"), "ms", pa.array([ms]))
        if is_refused:
            with pytest.raises(UnfitColumn, match="lies before 2024-10-27"):
                online.of(pa.table({}), asked_at)
        else:
            online.of(pa.table({}), asked_at)


def test_another_zone_is_refused_and_a_state_without_one_goes_on(tmp_path):
    make_days(tmp_path, 6)
    describe(tmp_path, 3)
    prepare(tmp_path, "data", until=5)
    record = tmp_path / "data/state/state.json"
    assert "time_zone" in json.loads(record.read_text())["description"]
    describe(tmp_path, 3, text=SHANGHAI)
    with pytest.raises(ConfigError, match=r"time_zone: None there, 'Asia/Shanghai' here"):
        prepare(tmp_path, "next", "data")
    # As an earlier version wrote it: the key is not there.
    tree = json.loads(record.read_text())
    del tree["description"]["time_zone"], tree["sha256"]
    record.write_text(json.dumps(tree | {"sha256": _sum(tree)}))
    describe(tmp_path, 3)
    prepare(tmp_path, "next", "data")


def test_a_zone_without_changes_gives_the_data_of_its_offset(tmp_path):
    make_days(tmp_path, 5)
    for number, text in enumerate((DESCRIPTION, SHANGHAI)):
        describe(tmp_path, 3, text=text)
        prepare(tmp_path, f"data{number}")
    assert all(digests(tmp_path / "data0", s) == digests(tmp_path / "data1", s) for s in ("train", "validation", "test"))
    means = [{t.name: t.means for t in load_schema(tmp_path / f"data{n}/schema.toml").table} for n in range(2)]
    assert (means[0]["hour"], means[1]["hour"]) == ("hour of the impression, UTC+8 h", "hour of the impression, Asia/Shanghai")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            'time_zone = "Europe/Berln"',
            r"time_zone: .*'Europe/Berln' is no time zone of the IANA .*, such as Europe/Berlin",
        ),
        ('time_zone = "../passwd"', r"is no time zone of the IANA database"),
        ('time_zone = ""', r"is no time zone of the IANA database"),
        ('time_zone = "Europe/Berlin"\nutc_offset_hours = 0', r"give time_zone or utc_offset_hours, not both"),
    ],
)
def test_a_wrong_zone_is_told(text, told, tmp_path):
    with pytest.raises(ConfigError, match=told):
        load_spec(describe(tmp_path, 1, text=DESCRIPTION.replace("utc_offset_hours = 8", text)))


def test_machines_without_time_zones_have_those_of_tzdata():
    code = (
        "import numpy as np, zoneinfo; from home_dist.prepare.local_clock import LocalClock; assert not zoneinfo.TZPATH; "
        "print(*LocalClock(zone='Europe/Berlin').local_ms(np.array([1711846799999, 1711846800000])))"
    )
    environment = os.environ | {"PYTHONTZPATH": ""}
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False
    )
    assert ended.stdout.split() == [str(1711846799999 + HOUR_MS), str(1711846800000 + 2 * HOUR_MS)], ended.stderr
