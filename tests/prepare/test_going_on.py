"""A preparation that goes on from an earlier one writes, byte for byte, what one of all days with the same numbers writes."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from home_dist.prepare.days import DAY_MS
from home_dist.prepare.generic import LogOptions, prepare_log
from home_dist.prepare.progress import Progress
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
    assert states[0]["end_day"] == states[1]["end_day"]
