"""Rows/s and memory of `home-dist prepare LOG.toml`, against the same transformation written by hand in pandas.

    python benchmarks/pipelines.py                   # 500,000 rows, 3 times each in turn, and 4 million: some minutes
    python benchmarks/pipelines.py --quick           # 150,000 rows, once each, under 50 s; writes nothing
    python benchmarks/pipelines.py --rows 50000000   # this library alone: the log is made file by file and streamed through

The log: some users and videos far more frequent than others, three labels, a side table of videos. Asked for: three ids with
vocabularies, counts and rates of the user and of the video strictly before each impression, a history of 20, buckets, a split
by day. What pandas writes is compared with what the library writes, value by value. Memory: resident pages of all processes
together, sampled; pages that two processes share count twice.
"""

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.claims import claim  # noqa: E402
from benchmarks.machine import write_result  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
DAY_MS = 86_400_000
START_MS = 1_700_006_400_000  # midnight in UTC
DAYS, FILE_ROWS = 14, 500_000
ROWS_PER_USER, ROWS_PER_VIDEO = 50, 20
HISTORY = 20
DESCRIPTION = f"""
log = "log/*.parquet"
user = "user_id"
time = "time_ms"
split = {{ train_days = 10, validation_days = 2, test_days = 2 }}
side = [{{ files = "videos.parquet", key = "video_id" }}]
label = [
  {{ name = "like", group = "interaction", column = "is_like" }},
  {{ name = "follow", group = "interaction", column = "is_follow" }},
  {{ name = "view", group = "watch", column = "play_ms", at_least = 7000 }},
]
id = [{{ column = "user_id" }}, {{ column = "video_id" }}, {{ column = "author_id" }}]
number = [{{ column = "duration_ms", log = true }}]
past = [{{ by = ["user_id"], rates = ["like", "view"] }}, {{ by = ["video_id"], rates = ["like", "view"] }}]
history = [{{ name = "seen", fields = ["video_id"], outcomes = ["like", "view"], most = {HISTORY} }}]
"""


def write_log(folder: Path, rows: int) -> None:
    """A file of FILE_ROWS rows after the other; what stands in one depends on its number alone."""
    users, videos = max(10, rows // ROWS_PER_USER), max(10, rows // ROWS_PER_VIDEO)
    (folder / "log").mkdir(parents=True)
    random = np.random.default_rng(0)
    side = {
        "video_id": np.arange(videos) * 7 + 3,
        "author_id": random.integers(0, videos // 5 + 1, videos),
        "duration_ms": random.integers(3_000, 90_000, videos),
    }
    pq.write_table(pa.table(side), folder / "videos.parquet", compression="zstd")
    for number, first in enumerate(range(0, rows, FILE_ROWS)):
        random, count = np.random.default_rng([1, number]), min(FILE_ROWS, rows - first)
        video = (videos * random.random(count) ** 3).astype(np.int64)
        taste = (video % 10) / 10
        log = {
            "user_id": (users * random.random(count) ** 2).astype(np.int64),
            "video_id": video * 7 + 3,
            # All files span all days, as those of a service's hosts do.
            "time_ms": START_MS + random.integers(0, DAYS * DAY_MS, count),
            "is_like": (random.random(count) < 0.1 * taste).astype(np.int8),
            "is_follow": (random.random(count) < 0.01).astype(np.int8),
            "play_ms": (random.exponential(9_000, count) * (0.5 + taste)).astype(np.int32),
        }
        pq.write_table(pa.table(log), folder / "log" / f"{number:05d}.parquet", compression="zstd", row_group_size=100_000)
    (folder / "log.toml").write_text(DESCRIPTION)


def in_pandas(folder: Path, out: Path) -> None:
    """As one would write it for a log that fits memory: sorts, groupby, cumsum, merges; a loop over users for histories."""
    import pandas as pd

    log = pd.concat([pd.read_parquet(p) for p in sorted((folder / "log").iterdir())], ignore_index=True)
    log = log.merge(pd.read_parquet(folder / "videos.parquet"), on="video_id", how="left")
    log["view"] = (log["play_ms"] >= 7000).astype(np.int8)
    log = log.rename(columns={"is_like": "like", "is_follow": "follow"})
    log = log.sort_values(["user_id", "time_ms"], kind="stable", ignore_index=True)
    day = log["time_ms"] // DAY_MS
    split = np.searchsorted([day.max() - 3, day.max() - 1], day, side="right")
    training = split == 0
    log["one"] = 1

    def before(keys: list[str], columns: list[str]) -> "pd.DataFrame":
        """Sums over the earlier rows of the keys; rows of one moment know nothing of each other."""
        per_moment = log.groupby([*keys, "time_ms"], sort=True)[columns].sum()
        running = per_moment.groupby(level=keys).cumsum() if keys else per_moment.cumsum()
        earlier = (running - per_moment).reset_index()
        return log[[*keys, "time_ms"]].merge(earlier, on=[*keys, "time_ms"], how="left")[columns]

    everyone = before([], ["one", "like", "view"])
    stats = {"duration_ms": np.log1p(log["duration_ms"].to_numpy(np.float64))}
    for key in ("user_id", "video_id"):
        own = before([key], ["one", "like", "view"])
        count = own["one"].to_numpy()
        stats[f"{key}_count"] = np.log1p(count)
        for label in ("like", "view"):
            base = (everyone[label].to_numpy() + 1.0) / (everyone["one"].to_numpy() + 100.0)
            happened = own[label].to_numpy()
            odds = np.log((happened + 20 * base) / (count - happened + 20 * (1 - base)))
            stats[f"{key}_{label}"] = np.where(count > 0, odds, np.nan)

    columns: dict[str, Any] = {"group": log["user_id"], "time_ms": log["time_ms"]}
    for column in ("user_id", "video_id", "author_id"):
        counts = log.loc[training, column].value_counts().reset_index()
        counts = counts[counts["count"] >= 2].sort_values(["count", column], ascending=[False, True], ignore_index=True)
        rows = pd.Series(np.arange(1, len(counts) + 1), index=counts[column])
        columns[column] = log[column].map(rows).fillna(0).astype(np.int32)
    columns["hour"] = (log["time_ms"] // 3_600_000 % 24).astype(np.int32)
    columns["weekday"] = ((day + 3) % 7).astype(np.int32)
    fields: dict[str, list[np.ndarray]] = {"video_id": [], "age": [], "outcome": []}
    outcome = (log["like"] + 2 * log["view"]).to_numpy(np.int32)
    video, time_ms = columns["video_id"].to_numpy(), log["time_ms"].to_numpy()
    bounds = np.append(np.flatnonzero(np.diff(log["user_id"], prepend=-1)), len(log))
    ages = [int(h * 3_600_000) for h in (1 / 6, 1, 6, 24, 72, 168, 720)]
    for first, last in zip(bounds, bounds[1:], strict=False):
        times, videos, outcomes = time_ms[first:last], video[first:last], outcome[first:last]
        for now, stop in zip(times, np.searchsorted(times, times, side="left"), strict=True):
            start = max(0, stop - HISTORY)
            fields["video_id"].append(videos[start:stop])
            fields["age"].append(np.searchsorted(ages, now - times[start:stop], side="right").astype(np.int32))
            fields["outcome"].append(outcomes[start:stop])
    columns |= {f"seen_{name}": values for name, values in fields.items()}
    boundaries = {}
    for name, values in stats.items():
        step = 2.0 ** np.floor(np.log2(np.nanstd(values[training]) / 6))
        columns[f"stat_{name}"] = (np.round(values / step) * step + 0.0).astype(np.float32)
        shares = np.linspace(0, 1, 21)[1:-1]
        boundaries[name] = np.unique(np.nanquantile(columns[f"stat_{name}"][training], shares, method="inverted_cdf")).tolist()
    columns |= {f"label_{label}": log[label] for label in ("like", "follow", "view")}
    whole = pd.DataFrame(columns)
    for index, name in enumerate(("train", "validation", "test")):
        (out / name).mkdir(parents=True)
        part = whole[split == index]
        part.to_parquet(out / name / "part.parquet", compression="zstd", compression_level=3, row_group_size=16384, index=False)
    (out / "boundaries.json").write_text(json.dumps(boundaries))


def in_library(folder: Path, out: Path, processes: int, memory: int) -> None:
    from home_dist.prepare.generic import LogOptions, prepare_log

    prepare_log(folder / "log.toml", out, lambda text: print(text, file=sys.stderr), LogOptions("local", processes, memory))


def agree(mine: Path, theirs: Path) -> None:
    """Raises ValueError where a value differs. Rows of one user and moment may stand in another order."""
    for split in ("train", "validation", "test"):
        one, other = pq.read_table(mine / split), pq.read_table(theirs / split)
        if len(one) != len(other):
            raise ValueError(f"{split}: {len(one)} and {len(other)} rows")
        alone = []
        for table in (one, other):
            user, moment = table.column("group").to_numpy(), table.column("time_ms").to_numpy()
            order = np.lexsort((moment, user))
            same = (np.diff(user[order]) == 0) & (np.diff(moment[order]) == 0)
            alone.append(table.take(order[~(np.append(same, False) | np.append(False, same))]))
        for name in one.column_names:
            ours, hand = (t.column(name).combine_chunks() for t in alone)
            hand = hand.fill_null(float("nan")) if name.startswith("stat_") else hand
            ours = ours.fill_null(float("nan")) if name.startswith("stat_") else ours
            ours, hand = ((a.flatten() if pa.types.is_list(a.type) else a).to_numpy(zero_copy_only=False) for a in (ours, hand))
            if not np.array_equal(ours, hand.astype(ours.dtype), equal_nan=name.startswith("stat_")):
                raise ValueError(f"{split}, {name}: {int((ours != hand).sum())} of {len(ours)} values differ")


def measured(work: Path, folder: Path, out: Path, *what: object) -> dict[str, float]:
    """Seconds of the transformation, start of the interpreter left out, and the highest sum of resident bytes. Processor
    seconds tell more where other programs share the machine."""
    told = work / "seconds.json"
    command = [sys.executable, __file__, "--child", str(folder), str(out), str(told), *map(str, what)]
    running = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"})
    peak, seen = 0, psutil.Process(running.pid)
    while running.poll() is None:
        resident = 0
        try:
            for process in (seen, *seen.children(recursive=True)):
                resident += process.memory_info().rss
        except psutil.Error:
            pass
        peak = max(peak, resident)
        time.sleep(0.05)
    if running.returncode:
        raise RuntimeError(f"{what}: ended with {running.returncode}")
    return json.loads(told.read_text()) | {"peak_bytes": peak}


def child(folder: str, out: str, told: str, kind: str, processes: str = "1", memory: str = "0") -> None:
    if kind == "pandas":
        import pandas  # noqa: F401

        action = lambda: in_pandas(Path(folder), Path(out))  # noqa: E731
    else:
        import home_dist.prepare.generic  # noqa: F401

        action = lambda: in_library(Path(folder), Path(out), int(processes), int(memory))  # noqa: E731
    pa.set_cpu_count(1)  # of the process; the pool's workers do so as well
    began, used = time.perf_counter(), _processor_seconds()
    action()
    Path(told).write_text(json.dumps({"seconds": time.perf_counter() - began, "cpu_seconds": _processor_seconds() - used}))


def _processor_seconds() -> float:
    """Of this process and of those that it started and that have ended."""
    found = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in found)


def compare(work: Path, rows: int, repeats: int, memory: int) -> dict[str, Any]:
    folder = work / "raw"
    write_log(folder, rows)
    kinds: dict[str, tuple[object, ...]] = {
        "pandas": ("pandas",),
        "1 process": ("library", 1, memory),
    }
    found: dict[str, list[dict[str, float]]] = {name: [] for name in kinds}
    for turn in range(repeats):
        for name, what in kinds.items():
            found[name].append(measured(work, folder, work / name, *what))
            print(f"{name}: {rows / found[name][-1]['seconds']:,.0f} rows/s", file=sys.stderr)
        if turn == 0:
            agree(work / "1 process", work / "pandas")
        for name in kinds:
            shutil.rmtree(work / name)
    return {"rows": rows, "memory": memory, "runs": found}


def side_by_side(work: Path, rows: int, memory: int) -> dict[str, Any]:
    """One process and two on the same log: enough rows that the start of a process does not count."""
    write_log(work / "large", rows)
    found = {"rows": rows, "memory": memory}
    for processes in (1, 2):
        found[str(processes)] = measured(work, work / "large", work / "out", "library", processes, memory)
        print(f"{processes} processes: {rows / found[str(processes)]['seconds']:,.0f} rows/s", file=sys.stderr)
        shutil.rmtree(work / "out")
    return found


def stream(work: Path, rows: int, processes: int, memory: int) -> dict[str, Any]:
    needed = rows * 700
    if shutil.disk_usage(work).free < needed:
        raise SystemExit(f"{work}: some {needed / 1e9:,.0f} GB are needed. Give another --folder.")
    began = time.perf_counter()
    write_log(work / "raw", rows)
    print(f"log made in {time.perf_counter() - began:,.0f} s", file=sys.stderr)
    found = measured(work, work / "raw", work / "out", "library", processes, memory)
    told = json.loads((work / "out" / "report.json").read_text())
    size = sum(p.stat().st_size for p in (work / "out").rglob("*") if p.is_file())
    return {"rows": rows, "rows_out": told["rows_out"], "processes": processes, "memory": memory, "bytes_out": size} | found


def middle(result: dict[str, Any], name: str, key: str) -> float:
    return statistics.median(run[key] for run in result["runs"][name])


def table(result: dict[str, Any]) -> str:
    lines = []
    if "runs" in result:
        lines += [
            f"{result['rows']:,} rows, medians of {len(result['runs']['pandas'])}, {result['cores']} cores, "
            f"memory budget {result['memory'] / 1e9:.1f} GB",
            "",
            "| | rows/s | rows per second of processor time | peak memory, MB |",
            "|---|---|---|---|",
        ]
        for name in result["runs"]:
            pace, peak = result["rows"] / middle(result, name, "seconds"), middle(result, name, "peak_bytes")
            per_core = result["rows"] / middle(result, name, "cpu_seconds")
            lines.append(f"| {name} | {pace:,.0f} | {per_core:,.0f} | {peak / 1e6:,.0f} |")
    if "processes" in result:
        both = result["processes"]
        lines += ["", f"{both['rows']:,} rows, memory budget {both['memory'] / 1e9:.1f} GB for all processes together", ""]
        lines += ["| processes | rows/s | seconds of processor time | peak memory, MB |", "|---|---|---|---|"]
        for count in ("1", "2"):
            run = both[count]
            pace, used = both["rows"] / run["seconds"], run["cpu_seconds"]
            lines.append(f"| {count} | {pace:,.0f} | {used:,.0f} | {run['peak_bytes'] / 1e6:,.0f} |")
    for run in result.get("streams", []):
        lines += [
            "",
            f"{run['rows']:,} rows streamed through by {run['processes']} processes: {run['rows'] / run['seconds']:,.0f} "
            f"rows/s, peak memory {run['peak_bytes'] / 1e6:,.0f} MB at a budget of {run['memory'] / 1e9:.1f} GB, "
            f"{run['bytes_out'] / 1e9:.1f} GB written",
        ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--rows", type=int, help="stream so many rows through, without pandas")
    parser.add_argument("--processes", type=int, default=2, help="with --rows")
    parser.add_argument("--memory", type=float, default=1.0, help="GB, for all processes together")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="for the log and what is made of it")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.child:
        child(*chosen.child)
        return
    memory = int(chosen.memory * 1e9)
    path = RESULTS / "pipelines.json"
    kept = json.loads(path.read_text()) if path.is_file() and not chosen.quick else {}
    with tempfile.TemporaryDirectory(dir=chosen.folder) as work:
        if chosen.rows:
            run = stream(Path(work), chosen.rows, chosen.processes, memory)
            result = kept | {"streams": [*(s for s in kept.get("streams", []) if s["rows"] != run["rows"]), run]}
        else:
            result = kept | compare(Path(work), 150_000 if chosen.quick else 500_000, 1 if chosen.quick else 3, memory)
            result |= {"cores": len(os.sched_getaffinity(0)), "arrow": pa.__version__}
            if not chosen.quick:
                result["processes"] = side_by_side(Path(work), 4_000_000, memory)
    text = table(result)
    print(text)
    if chosen.rows:
        print(claim(f"peak memory at {run['rows']:,} rows over the budget", run["peak_bytes"] / memory, 1, at_most=True))
    else:
        by_hand = middle(result, "pandas", "seconds")
        print(claim("rows/s of one process over pandas", by_hand / middle(result, "1 process", "seconds"), 1))
        if not chosen.quick:
            both = result["processes"]
            print(claim("rows/s of two processes over one", both["1"]["seconds"] / both["2"]["seconds"], 1.5))
        print(
            claim(
                "peak memory of one process over pandas",
                middle(result, "1 process", "peak_bytes") / middle(result, "pandas", "peak_bytes"),
                1,
                at_most=True,
            )
        )
    if not chosen.quick:
        write_result(path, result)
        (RESULTS / "pipelines.md").write_text(text + "\n")


if __name__ == "__main__":
    main()
