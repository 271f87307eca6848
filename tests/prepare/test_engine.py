"""The same bytes come out however a log is cut, whatever engine ran the tasks, and although the run was killed."""

import gzip
import hashlib
import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from home_dist.errors import DataError
from home_dist.prepare.engine import LocalEngine, Lost, Task, Work
from home_dist.prepare.formats import converting, delimited
from home_dist.prepare.generic import LogOptions, prepare_log
from home_dist.prepare.progress import Progress

QUIET = Progress(lambda text: None)
ROWS = 2000
DESCRIPTION = """
log = "log/*"
user = "user"
time = "ms"
utc_offset_hours = -3
train_files = 3
split = { train_days = 3, validation_days = 1, test_days = 1 }
side = [{ files = "video.csv", key = "video" }]
label = [
  { name = "like", group = "a", column = "like" },
  { name = "view", group = "b", column = "seconds", at_least = 3, known = "length" },
  { name = "watched", group = "b", column = "seconds", kind = "regression", unit = "s", cap = 12, bad = "unknown" },
  { name = "part", group = "b", column = "seconds", kind = "duration_quantile", duration = "length", bad = "unknown" },
  { name = "level", group = "b", column = "seconds", kind = "ordinal", thresholds = 6, known = "length", bad = "unknown" },
  { name = "spot", group = "a", column = "place", kind = "multiclass", classes = ["place 5", "place 0"], bad = "unknown" },
]
id = [
  { column = "user" },
  { column = "video", min_count = 1 },
  { column = "author" },
  { column = "tags", separator = "|", min_count = 1 },
]
number = [{ column = "length", log = true }, { column = "seconds", buckets = { by = "equal_width", count = 5 } }]
past = [
  { by = ["video"], rates = ["like", "view"] },
  { by = ["video"], rates = ["like"], days = 1 },
  { by = ["author", "place"], rates = ["view"], until = "morning" },
  { by = ["user"], rates = ["like"] },
  { by = ["place", "user"], rates = ["view"], days = 2 },
]
history = [
  { name = "seen", fields = ["video", "author"], outcomes = ["like", "view"], most = 5 },
  { name = "liked", fields = ["video"], only = "like", most = 3 },
]
"""


def write(folder: Path, seed: int = 0, rows: int = ROWS) -> Path:
    """Texts and integers, missing ones among both; many impressions of one moment; a log of three files of two kinds."""
    random = np.random.default_rng(seed)
    users = random.integers(0, 60, rows)
    log = pa.table(
        {
            "user": pa.array([None if u == 0 else f"u{u}" for u in users.tolist()], pa.string()),
            "ms": 1_700_000_000_000 + random.integers(0, 5 * 24 * 60, rows) * 60_000,
            "video": pa.array(random.integers(-1, 40, rows)),
            "place": pa.array([None if p == 3 else f"place {p}" for p in random.integers(0, 6, rows).tolist()], pa.string()),
            "like": random.integers(0, 2, rows),
            "seconds": pa.array(np.round(random.exponential(4, rows), 3), mask=random.random(rows) < 0.1),
        }
    )
    (folder / "log").mkdir(parents=True)
    pq.write_table(log.slice(0, rows // 2), folder / "log" / "1.parquet", row_group_size=300)
    pq.write_table(log.slice(rows // 2, rows // 4), folder / "log" / "2.parquet")
    pacsv.write_csv(log.slice(rows * 3 // 4), folder / "log" / "3.csv")
    videos = np.arange(35)
    side = pa.table(
        {
            "video": random.permutation(videos),
            "author": pa.array([None if v % 9 == 0 else f"a{v % 8}" for v in videos.tolist()], pa.string()),
            "length": random.integers(0, 20, len(videos)),
            "tags": ["|".join(f"t{t}" for t in range(v % 4)) for v in videos.tolist()],
        }
    )
    pacsv.write_csv(side, folder / "video.csv")
    (folder / "mylog.toml").write_text(DESCRIPTION)
    return folder / "mylog.toml"


def digest(out: Path) -> dict[str, str]:
    """By file; of the state, whose files are the partitions', by what they hold together."""
    files = sorted(p for p in out.rglob("*") if p.is_file() and p.parent.name != "state")
    hashes = {str(p.relative_to(out)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}
    return hashes | {name: hashlib.sha256(repr(rows).encode()).hexdigest() for name, rows in state_of(out).items()}


def state_of(out: Path) -> dict[str, list]:
    """Rows of the parts of each table, in an order that does not depend on the parts: of the same user as they stand."""
    parts: dict[str, list] = {}
    for path in sorted((out / "state").glob("*.parquet")):
        parts.setdefault(path.stem.rpartition("-")[0], []).extend(pq.read_table(path).to_pylist())
    return {name: sorted(rows, key=lambda r: repr(r.get("user", r))) for name, rows in parts.items()}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("engine")
    prepare_log(write(folder), folder / "out", QUIET, LogOptions(partitions=1))
    return folder


@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(partitions=st.integers(2, 24), chunk=st.integers(150, 2000))
def test_partitions_and_chunks_do_not_show(partitions, chunk, prepared, tmp_path_factory):
    out = tmp_path_factory.mktemp("cut") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("home_dist.prepare.generic.log_preparation.chunk_rows", lambda *_: chunk)
        prepare_log(prepared / "mylog.toml", out, QUIET, LogOptions(partitions=partitions))
    assert digest(out) == digest(prepared / "out")


@pytest.mark.slow
def test_more_partitions_than_users(prepared, tmp_path):
    prepare_log(prepared / "mylog.toml", tmp_path / "out", QUIET, LogOptions(partitions=80))
    assert digest(tmp_path / "out") == digest(prepared / "out")


def test_a_pool_of_processes_writes_the_same(prepared, tmp_path):
    prepare_log(prepared / "mylog.toml", tmp_path / "out", QUIET, LogOptions(partitions=7, processes=2))
    assert digest(tmp_path / "out") == digest(prepared / "out")
    assert not (tmp_path / "out.work").exists()


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed: pip install 'home_dist[ray]'")
def test_ray_writes_the_same(prepared, tmp_path):
    prepare_log(prepared / "mylog.toml", tmp_path / "out", QUIET, LogOptions("ray", partitions=5, processes=2))
    assert digest(tmp_path / "out") == digest(prepared / "out")


def test_statistics_are_those_of_a_loop(prepared):
    """Of keys that users share, in float64 and with Python's sums; against what is stored, to within its rounding."""
    parts = [pq.read_table(prepared / "log" / f"{n}.parquet") for n in (1, 2)]
    log = pa.concat_tables([*parts, pacsv.read_csv(prepared / "log" / "3.csv").cast(parts[0].schema)]).to_pylist()
    length = {r["video"]: r["length"] for r in pacsv.read_csv(prepared / "video.csv").to_pylist()}
    for row in log:
        row["known"] = length.get(row["video"], 0) > 0 and row["seconds"] is not None
        row["view"] = row["known"] and row["seconds"] >= 3
    moment = {}
    for row in log:
        moment.setdefault((row["ms"], row["video"]), row)
    stored = pa.concat_tables([pq.read_table(prepared / "out" / s) for s in ("train", "validation", "test")]).to_pylist()
    vocabulary = pq.read_table(prepared / "out" / "vocabularies" / "video.parquet")
    video_of = dict(zip(vocabulary["row"].to_pylist(), vocabulary["value"].to_pylist(), strict=True))
    checked = 0
    for row in stored[::20]:
        before = [r for r in log if r["ms"] < row["time_ms"]]
        own = [r for r in before if r["video"] == video_of.get(row["video"])]
        base = (sum(r["view"] for r in before) + 1.0) / (sum(r["known"] for r in before) + 100.0)
        known, happened = sum(r["known"] for r in own), sum(r["view"] for r in own)
        assert row["stat_video_count"] == pytest.approx(np.log1p(len(own)), abs=0.1)
        if known:
            checked += 1
            expected = np.log((happened + 20 * base) / (known - happened + 20 * (1 - base)))
            assert row["stat_video_view"] == pytest.approx(expected, abs=0.1)
        else:
            assert row["stat_video_view"] is None
    assert checked > 40


_SLOW = """
import sys, time
from pathlib import Path
from home_dist.prepare.generic import LogOptions, log_preparation, partition, prepare_log
from home_dist.prepare.progress import Progress

def slowly(plan, days, part, *rest):
    print("gather", part, flush=True)
    time.sleep(0.2)
    partition.gather(plan, days, part, *rest)

if __name__ == "__main__":
    log_preparation.gather = slowly
    options = LogOptions(partitions=9, processes=int(sys.argv[3]))
    prepare_log(Path(sys.argv[1]), Path(sys.argv[2]), Progress(lambda text: None), options)
"""


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_killed_run_goes_on_at_its_partition(processes, prepared, tmp_path):
    (tmp_path / "slow.py").write_text(_SLOW)
    out, work = tmp_path / "out", tmp_path / "out.work"
    command = [sys.executable, str(tmp_path / "slow.py"), str(prepared / "mylog.toml"), str(out), str(processes)]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + 60
    while len(list(work.glob("gather/0000?"))) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(running.pid, signal.SIGKILL)
    running.communicate()
    done = {p.name: p.stat().st_mtime_ns for p in work.glob("gather/0000?")}
    assert 4 <= len(done) < 9
    assert not out.exists()
    if processes > 1:
        time.sleep(1.0)  # workers end by themselves, or they would write on
        assert len(list(work.glob("gather/0000?"))) <= len(done) + processes
    said: list[str] = []
    kept = {}

    def say(text: str) -> None:
        said.append(text)
        if text.startswith("what was known before"):
            kept.update({p.name: p.stat().st_mtime_ns for p in work.glob("gather/0000?")})

    prepare_log(prepared / "mylog.toml", out, Progress(say), LogOptions(partitions=2))
    assert said[0].startswith("going on in")
    assert any("9 partitions" in line for line in said)  # those that the run began with
    assert {n: kept[n] for n in done} == done  # these were not done again
    assert digest(out) == digest(prepared / "out")


def test_another_description_begins_anew(prepared, tmp_path):
    work = tmp_path / "out.work"
    (work / "scan" / "00000").mkdir(parents=True)
    (work / "plan.json").write_text('{"fingerprint": {"description": "another"}, "chosen": {"partitions": 3}}')
    prepare_log(prepared / "mylog.toml", tmp_path / "out", QUIET)
    assert digest(tmp_path / "out") == digest(prepared / "out")


def test_a_work_folder_keeps_what_is_whole(tmp_path):
    ran: list[int] = []

    def action(number: int, fail: bool):
        def run(folder: Path) -> None:
            ran.append(number)
            (folder / "found").write_text(str(number))
            if fail:
                raise RuntimeError("no")

        return run

    work = Work(tmp_path / "w", {"a": 1}, LocalEngine(1), QUIET)
    with pytest.raises(RuntimeError):
        work.run("s", "s", [Task(action(n, n == 2), 1) for n in range(4)])
    with pytest.raises(DataError, match="another run is at work"):
        Work(tmp_path / "w", {"a": 1}, LocalEngine(1), QUIET)
    work.close()
    again = Work(tmp_path / "w", {"a": 1}, LocalEngine(1), QUIET)
    assert again.goes_on
    folders = again.run("s", "s", [Task(action(n, False), 1) for n in range(4)])
    assert ran == [0, 1, 2, 2, 3]
    assert [(f / "found").read_text() for f in folders] == ["0", "1", "2", "3"]
    again.close()
    assert not Work(tmp_path / "w", {"a": 2}, LocalEngine(1), QUIET).goes_on
    assert not (tmp_path / "w" / "s").exists()


def _die() -> None:
    os._exit(9)


def test_a_lost_worker_is_told(tmp_path):
    engine = LocalEngine(2)
    with pytest.raises(Lost, match="want of memory"):
        list(engine.run([_die, _die]))
    engine.close()


def test_csv_is_read_in_blocks_as_if_at_once(tmp_path, monkeypatch):
    """Columns whose first values look like another kind than the later ones, or are missing."""
    monkeypatch.setattr(delimited, "_BLOCK", 4096)
    rows = 3000
    late = {
        "number": ["1"] * (rows - 1) + ["2.5"],
        "text": ["7"] * (rows - 1) + ["seven"],
        "nothing": [""] * (rows - 1) + ["3"],
        "moment": ["2024-01-01"] * (rows - 1) + ["2024-01-01 10:00:00"],
    }
    lines = ["\n".join([",".join(late), *(",".join(r) for r in zip(*late.values(), strict=True))])]
    (tmp_path / "a.csv").write_text(lines[0] + "\n")
    (tmp_path / "out").mkdir()
    converting.convert(tmp_path / "a.csv", tmp_path / "out")
    found, expected = pq.read_table(tmp_path / "out" / converting.CONVERTED), pacsv.read_csv(tmp_path / "a.csv")
    assert found.to_pylist() == expected.to_pylist()
    with gzip.open(tmp_path / "a.csv.gz", "wt") as file:
        file.write(lines[0] + "\n")
    converting.convert(tmp_path / "a.csv.gz", tmp_path / "out")
    assert pq.read_table(tmp_path / "out" / converting.CONVERTED).equals(found)
    (tmp_path / "b.csv").write_text("a,b\n1,2\n1,2,3\n")
    with pytest.raises(DataError, match=r"b\.csv: cannot be read"):
        converting.convert(tmp_path / "b.csv", tmp_path / "out")


def test_times_before_1970_are_times(tmp_path):
    """Base rates are counted by hours since 1970."""
    random = np.random.default_rng(0)
    minutes = np.sort(random.choice(5 * 24 * 60, 600, replace=False))
    like = random.integers(0, 2, 600)
    rows = {}
    for name, start in (("early", -7 * 86_400_000), ("late", 700 * 86_400_000)):
        folder = tmp_path / name
        (folder / "log").mkdir(parents=True)
        times = pa.array(start + minutes * 60_000).cast(pa.timestamp("ms"))
        log = {"user": np.arange(600) % 7, "ms": times, "video": np.arange(600) % 5, "like": like}
        pq.write_table(pa.table(log), folder / "log" / "1.parquet")
        (folder / "mylog.toml").write_text(
            'log = "log/*"\nuser = "user"\ntime = "ms"\nsplit = { train_days = 3, validation_days = 1, test_days = 1 }\n'
            'label = [{ name = "like", group = "a", column = "like" }]\nid = [{ column = "video" }]\n'
            'past = [{ by = ["video"], rates = ["like"] }]\n'
        )
        prepare_log(folder / "mylog.toml", folder / "out", QUIET, LogOptions(partitions=3))
        rows[name] = pq.read_table(folder / "out" / "train").drop(["time_ms"])
    assert rows["early"].equals(rows["late"])


def test_a_column_of_lists_needs_no_separator(prepared, tmp_path):
    """And dictionaries, within lists or not, say the same as plain texts."""
    write(tmp_path)
    side = pacsv.read_csv(tmp_path / "video.csv")
    split = [[t for t in text.split("|") if t] or None for text in side["tags"].to_pylist()]
    lists = pa.array(split, pa.list_(pa.string()))
    encoded = pa.ListArray.from_arrays(lists.offsets, lists.values.dictionary_encode(), mask=lists.is_null())
    side = side.set_column(side.column_names.index("tags"), "tags", encoded)
    side = side.set_column(side.column_names.index("author"), "author", side["author"].dictionary_encode())
    pq.write_table(side, tmp_path / "video.parquet")
    text = DESCRIPTION.replace("video.csv", "video.parquet").replace('"tags", separator = "|"', '"tags"')
    (tmp_path / "mylog.toml").write_text(text)
    prepare_log(tmp_path / "mylog.toml", tmp_path / "out", QUIET)
    mine, theirs = digest(tmp_path / "out"), digest(prepared / "out")
    assert {n for n in mine if mine[n] != theirs[n]} == {"report.json"}  # which names the side table's file


@pytest.mark.parametrize("ending", ["work", "writing"])
def test_what_we_did_not_make_stays(tmp_path, ending):
    description = write(tmp_path, rows=300)
    mine = tmp_path / f"out.{ending}"
    mine.mkdir()
    (mine / "thesis.md").write_text("years of work")
    with pytest.raises(DataError, match=rf"out.{ending} is in the way"):
        prepare_log(description, tmp_path / "out", QUIET, LogOptions())
    assert [p.name for p in mine.iterdir()] == ["thesis.md"]
    assert not (tmp_path / "out").exists()


def test_the_work_folder_of_an_older_version_is_ours_by_its_plan(tmp_path):
    folder = tmp_path / "w"
    folder.mkdir()
    (folder / "plan.json").write_text('{"fingerprint": {"a": 1}, "chosen": {"partitions": 3}}')
    (folder / "scan").mkdir()
    work = Work(folder, {"a": 1}, LocalEngine(1), QUIET)
    assert work.goes_on
    assert work.choose("partitions", 9) == 3
    work.close()
