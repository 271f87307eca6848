"""How fast the reader is, how much memory it takes, and how long training waits for it.

    python benchmarks/reader.py                    # 5 million impressions, generated once into --data
    python benchmarks/reader.py --quick            # small, under 50 s; writes nothing
    python benchmarks/reader.py --peers-python PEERS/bin/python

Impressions have 20 ids, 10 statistics, two histories of mean length 30 and 8 labels. Systems take turns, `--repeats` times, and
medians are told. `bare`: pyarrow decodes the same columns of the same files and throws them away, by its dataset scanner or row
group by row group on threads, whichever is faster. `ours`: the Reader of one rank, an epoch in shuffled order, batches thrown
away. Peers read a part of the rows, unshuffled, with as many workers as there are cores: torch-rechub's ParquetIterableDataset
in a DataLoader, and FuxiCTR's ParquetBlockDataLoader (of release 2.3.0; later ones fail at lists). Lists are padded to their
longest for them, as they refuse ragged ones, and row groups are as large as a batch, as torch-rechub 0.9 fails at lists that
are cut. They are run by the interpreter of another environment, for example

    python3.11 -m venv PEERS && PEERS/bin/pip install torch torch-rechub==0.9.0 fuxictr==2.3.0 polars==0.20.31 pandas

Memory: the peak of a process that reads the same rows, in row groups of 10 thousand and all in one, under the same
data.memory_mb, without what Python and torch take before a file is opened. Requests: the rows of small/ in requests of 1 to 30
impressions, geometric of mean 8, with and without data.request: the scan before the first step, the share of padding, and real
rows per second. Waiting: the share of time between two lines of
progress in which training (HoME on the sample) had no batch to go on with.
"""

import argparse
import importlib.metadata
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pd
import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.claims import claim  # noqa: E402
from benchmarks.machine import write_result  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "reader.json"
IDS, STATISTICS, HISTORIES, LABELS = 20, 10, 2, 8
TABLE_ROWS = 200_000
SHORTEST, LONGEST = 10, 50
GROUP, FILE = 10_000, 250_000
BATCH = 4096
MEMORY_MB = 256
LARGEST = 30
LISTS = [f"history_{i}" for i in range(HISTORIES)]


def make_rows(rows: int, seed: int) -> pa.Table:
    random = np.random.default_rng(seed)

    def ids(count: int) -> np.ndarray:
        """Few ids make up most of the impressions."""
        return (TABLE_ROWS * random.random(count, dtype=np.float32) ** 3).astype(np.int32)

    columns: dict[str, Any] = {f"id_{i}": ids(rows) for i in range(IDS)}
    columns |= {f"statistic_{i}": random.normal(size=rows).astype(np.float32) for i in range(STATISTICS)}
    for name in LISTS:
        offsets = np.concatenate([[0], np.cumsum(random.integers(SHORTEST, LONGEST + 1, rows))]).astype(np.int32)
        columns[name] = pa.ListArray.from_arrays(offsets, ids(int(offsets[-1])))
    columns |= {f"label_{i}": (random.random(rows, dtype=np.float32) < 0.1).astype(np.int8) for i in range(LABELS)}
    return pa.table(columns)


def schema_tree() -> dict[str, Any]:
    boundaries = np.linspace(-2, 2, 19).round(3).tolist()
    statistics_of = [
        {"kind": "statistic", "name": f"statistic_{i}", "column": f"statistic_{i}", "boundaries": boundaries}
        for i in range(STATISTICS)
    ]
    return {
        "table": [{"name": f"table_{i}", "rows": TABLE_ROWS} for i in range(IDS)],
        "feature": [{"kind": "id", "name": f"id_{i}", "column": f"id_{i}", "table": f"table_{i}"} for i in range(IDS)]
        + statistics_of,
        "sequence": [
            {"name": name, "events": [{"column": name, "table": f"table_{i}", "target": f"id_{i}"}]}
            for i, name in enumerate(LISTS)
        ],
        "task": [{"name": f"label_{i}", "group": "all", "column": f"label_{i}"} for i in range(LABELS)],
    }


def padded(table: pa.Table) -> pa.Table:
    for name in LISTS:
        lists = table.column(name).combine_chunks()
        lengths = np.asarray(lists.value_lengths())
        full = np.zeros((len(table), LONGEST), np.int32)
        full[np.arange(LONGEST) < lengths[:, None]] = np.asarray(lists.flatten())
        offsets = np.arange(0, full.size + 1, LONGEST, dtype=np.int32)
        table = table.set_column(table.schema.get_field_index(name), name, pa.ListArray.from_arrays(offsets, full.ravel()))
    return table


def generate(folder: Path, rows: int, peer_rows: int) -> None:
    """small/: in row groups of 10 thousand; large/: the same rows in one; requests/: the rows of small/ with their requests;
    padded/: some of them, for the peers."""
    import tomli_w

    done = folder / "done.json"
    wanted = {"rows": rows, "peer_rows": peer_rows, "version": 3}
    if done.is_file() and json.loads(done.read_text()) == wanted:
        return
    for part in ("small", "large", "requests", "padded"):
        (folder / part).mkdir(parents=True, exist_ok=True)
        for old in (folder / part).iterdir():
            old.unlink()
    (folder / "schema.toml").write_text(tomli_w.dumps(schema_tree()))
    tables = []
    for number, first in enumerate(range(0, rows, FILE)):
        table = make_rows(min(FILE, rows - first), number)
        pq.write_table(table, folder / "small" / f"part-{number:03d}.parquet", row_group_size=GROUP)
        sizes = np.minimum(np.random.default_rng(number).geometric(1 / 8, len(table)), LARGEST)
        requests = FILE * number + np.repeat(np.arange(len(table)), sizes)[: len(table)]
        with_requests = table.append_column("request_id", pa.array(requests))
        pq.write_table(with_requests, folder / "requests" / f"part-{number:03d}.parquet", row_group_size=GROUP)
        if first < peer_rows:
            some = padded(table.slice(0, peer_rows - first))
            for at in range(0, len(some), peer_rows // 4):  # several files: peers deal files to their workers
                name = f"part-{number:03d}-{at:07d}.parquet"
                pq.write_table(some.slice(at, peer_rows // 4), folder / "padded" / name, row_group_size=BATCH)
        tables.append(table)
    whole = pa.concat_tables(tables).combine_chunks()
    pq.write_table(whole, folder / "large" / "part-000.parquet", row_group_size=rows)
    done.write_text(json.dumps(wanted))


def scan_dataset(folder: Path) -> int:
    return sum(len(batch) for batch in pd.dataset(folder, format="parquet").to_batches())


def scan_groups(folder: Path) -> int:
    rows = 0
    for path in sorted(folder.iterdir()):
        file = pq.ParquetFile(path)
        rows += sum(len(file.read_row_group(g)) for g in range(file.num_row_groups))
    return rows


def open_reader(folder: Path, part: str, memory_mb: int, run: Path, request: str | None = None) -> Any:
    """As training opens it. request: the column of data.request; the files are then scanned, too."""
    from home_dist.config import load_config
    from home_dist.data import Reader, open_files
    from home_dist.schema import build_layout, load_schema

    file = run / "reader.toml"
    sequences = "".join(f'[[sequence]]\nname = "{name}"\nkind = "din"\n' for name in LISTS)
    file.write_text(f'[run]\ndir = "{run}/run"\n[data]\npath = "{folder}"\ntrain = "{part}"\n{sequences}')
    config = load_config(file, [f"data.memory_mb={memory_mb}"] if "memory_mb" in _data_keys() else [])
    schema = load_schema(config.schema_path())
    layout = build_layout(schema, config)
    options: dict[str, Any] = {"lanes": config.data.lanes, "window_rows": config.data.window_rows, "seed": 0}
    if "memory_mb" in _data_keys():
        options |= {"memory_mb": config.data.memory_mb, "threads": min(4, len(os.sched_getaffinity(0)))}
    if request is None:
        return Reader(open_files(folder / part, schema, layout), schema, layout, batch_size=BATCH, **options)
    from home_dist.data.request_scan import find_requests

    files = open_files(folder / part, schema, layout, (request,))
    found = find_requests(files, threads=options["threads"])
    return Reader(files, schema, layout, batch_size=BATCH, requests=found, **options)


def _data_keys() -> set[str]:
    from home_dist.config import DataSection

    return set(DataSection.model_fields)


def read_all(reader: Any, epoch: int = 0) -> int:
    return sum(int(batch.mask.sum()) for batch in reader.epoch(epoch))


def timed(action: Callable[[], int]) -> tuple[float, int]:
    began = time.perf_counter()
    rows = action()
    return time.perf_counter() - began, rows


def peer(python: Path, name: str, folder: Path, workers: int) -> tuple[float, int]:
    """Raises RuntimeError with the reason when it cannot be run."""
    command = [str(python), str(ROOT / "benchmarks" / "reader_peers.py"), name, str(folder), str(BATCH), str(workers)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=900)
    if ended.returncode:
        raise RuntimeError((ended.stderr.strip().splitlines() or ["no message"])[-1])
    found = json.loads(ended.stdout.splitlines()[-1])
    return found["seconds"], found["rows"]


def measure_speed(folder: Path, repeats: int, python: Path | None, workers: int) -> dict[str, Any]:
    import torch

    torch.set_num_threads(1)
    seconds: dict[str, list[float]] = {}
    rates: dict[str, list[float]] = {}
    left_out: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as run:
        reader = open_reader(folder, "small", 1024, Path(run))
        systems: dict[str, Callable[[], tuple[float, int]]] = {
            "bare, dataset scanner": lambda: timed(lambda: scan_dataset(folder / "small")),
            "bare, row groups": lambda: timed(lambda: scan_groups(folder / "small")),
            "ours": lambda: timed(lambda: read_all(reader)),
        }
        for name in ("torch-rechub", "FuxiCTR"):
            if python is None:
                left_out[name] = "give the interpreter of an environment that has it by --peers-python"
            else:
                systems[name] = lambda name=name: peer(python, name, folder / "padded", workers)  # type: ignore[misc]
        scan_groups(folder / "small")  # files are in the page cache from here on
        for _ in range(repeats):
            for name, run_it in list(systems.items()):
                try:
                    taken, rows = run_it()
                except RuntimeError as error:
                    left_out[name] = str(error)
                    del systems[name]
                    continue
                seconds.setdefault(name, []).append(taken)
                rates.setdefault(name, []).append(rows / taken)
    return {
        "rows_per_second": {name: statistics.median(found) for name, found in rates.items()},
        "seconds": seconds,
        "left_out": left_out,
    }


def measure_requests(folder: Path, repeats: int, rows: int) -> dict[str, Any]:
    """Systems take turns, as in measure_speed."""
    import torch

    from home_dist.data.request_scan import find_requests

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as run:
        plain, kept = (open_reader(folder, "requests", 1024, Path(run), request) for request in (None, "request_id"))
    scans, rates = [], dict[str, list[float]]()
    for _ in range(repeats):
        scans.append(timed(lambda: find_requests(kept.files, threads=kept.threads).largest)[0] * 1e7 / rows)
        for name, reader in (("rows", plain), ("requests", kept)):
            seconds, read = timed(lambda reader=reader: read_all(reader))
            rates.setdefault(name, []).append(read / seconds)
    return {
        "requests": len(kept.requests.sizes),
        "mean_size": rows / len(kept.requests.sizes),
        "scan_seconds_of_10_million_rows": statistics.median(scans),
        "bin_rows": kept.sizes.bin_rows,
        "padding": kept.windows(0).padding,
        "rows_per_second": {name: statistics.median(found) for name, found in rates.items()},
    }


def of_own_memory(key: str) -> float:
    """MB; VmHWM: the peak, of this program alone, unlike getrusage's."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"no {key} in /proc/self/status")


def memory_of(folder: Path, part: str) -> None:
    """In a process of its own."""
    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as run:
        reader = open_reader(folder, part, MEMORY_MB, Path(run))
        before, rows = of_own_memory("VmRSS"), read_all(reader)
    print(json.dumps({"rows": rows, "before": before, "peak": of_own_memory("VmHWM")}))


def measure_memory(folder: Path) -> dict[str, Any]:
    found = {}
    for part in ("small", "large"):
        command = [sys.executable, __file__, "--memory-of", part, "--data", str(folder)]
        ended = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
        if ended.returncode:
            sys.exit(f"reading {part} failed:\n{ended.stderr}")
        found[part] = json.loads(ended.stdout.splitlines()[-1])
    own = {part: f["peak"] - f["before"] for part, f in found.items()}
    return {"budget_mb": MEMORY_MB, "processes": found, "reader_mb": own, "ratio": own["large"] / own["small"]}


def measure_waiting(steps: int, ranks: int) -> dict[str, Any]:
    from benchmarks.sample_run import curves

    with tempfile.TemporaryDirectory() as folder:
        lines = curves(Path(folder, "run"), ranks, {"train.max_steps": steps, "log.every_steps": 10})
    shares = [line["waiting"] for line in lines]
    return {"ranks": ranks, "steps": steps, "shares": shares, "share": statistics.mean(shares)}


def disturbed(result: dict[str, Any]) -> list[str]:
    if result["load_before"] < 0.5:
        return []
    loads = f"{result['load_before']:.1f} before and {result['load_after']:.1f} after"
    return [f"Note: other programs ran on these cores, which disturbs the timing (load {loads})."]


def table(result: dict[str, Any]) -> str:
    rates = result["speed"]["rows_per_second"]
    bare = max(rate for name, rate in rates.items() if name.startswith("bare"))
    lines = [
        f"{result['rows']:,} impressions, {result['cores']} cores, torch {result['torch']}, pyarrow {result['pyarrow']}, "
        f"batches of {BATCH:,}; medians of {result['repeats']}; peers on {result['peer_rows']:,} of the rows.",
        *disturbed(result),
        "",
        "| reader | rows/s | of the bare scan |",
        "|---|---|---|",
    ]
    lines += [f"| {name} | {rate:,.0f} | {rate / bare:.2f} |" for name, rate in rates.items()]
    lines += [f"| {name} | not run: {why} | - |" for name, why in result["speed"]["left_out"].items()]
    memory = result["memory"]
    lines += ["", "| row groups | peak MB of the process | of the reader |", "|---|---|---|"]
    for part, rows in (("small", GROUP), ("large", result["rows"])):
        lines.append(f"| {rows:,} rows | {memory['processes'][part]['peak']:,.0f} | {memory['reader_mb'][part]:,.0f} |")
    if "requests" in result:
        kept = result["requests"]
        by_rows, by_requests = (kept["rows_per_second"][name] for name in ("rows", "requests"))
        lines += [
            "",
            f"data.request, requests of 1 to {LARGEST} rows, {kept['mean_size']:.1f} on average: the scan takes "
            f"{kept['scan_seconds_of_10_million_rows']:.2f} s per 10 million rows before the first step; bins of "
            f"{kept['bin_rows']:,} rows hold {kept['padding']:.1%} padding; {by_requests:,.0f} real rows/s, and {by_rows:,.0f} "
            "without requests.",
        ]
    waiting = result["waiting"]
    lines += ["", f"Training on the sample ({waiting['ranks']} ranks) waited {waiting['share']:.2%} of the time for data."]
    return "\n".join(lines)


def claims(result: dict[str, Any]) -> list[str]:
    rates = result["speed"]["rows_per_second"]
    bare = max(rate for name, rate in rates.items() if name.startswith("bare"))
    found = [claim("reader, speed of the bare scan", rates["ours"] / bare, 0.7)]
    for name in ("torch-rechub", "FuxiCTR"):
        if name in rates:
            found.append(claim(f"reader, speed of {name}", rates["ours"] / rates[name], 5, form=".3g"))
        else:
            found.append(f"note: {name} not run: {result['speed']['left_out'][name]}")
    found.append(claim("reader, memory of one huge row group to small ones", result["memory"]["ratio"], 1.25, at_most=True))
    if "requests" in result:
        kept = result["requests"]
        by_rows, by_requests = (kept["rows_per_second"][name] for name in ("rows", "requests"))
        found.append(claim("reader, speed with requests to that without", by_requests / by_rows, 0.8))
        found.append(claim("reader, padding of requests", kept["padding"], 0.05, at_most=True, form=".3f"))
    found.append(claim("training, share of time waiting for data", result["waiting"]["share"], 0.02, at_most=True, form=".3g"))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--data", type=Path, help="folder that the generated data is kept in")
    parser.add_argument("--peers-python", type=Path, help="interpreter of an environment with torch-rechub and FuxiCTR")
    parser.add_argument("--repeats", type=int)
    parser.add_argument("--memory-of", choices=("small", "large"), help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    kept = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "home_dist"
    folder = chosen.data or kept / ("reader-quick" if chosen.quick else "reader")
    if chosen.memory_of:
        memory_of(folder, chosen.memory_of)
        return
    rows, peer_rows = (300_000, 20_000) if chosen.quick else (5_000_000, 200_000)
    repeats = chosen.repeats or (3 if chosen.quick else 5)
    cores = len(os.sched_getaffinity(0))
    generate(folder, rows, peer_rows)
    result: dict[str, Any] = {"quick": chosen.quick, "rows": rows, "peer_rows": peer_rows, "repeats": repeats, "cores": cores}
    result |= {name: importlib.metadata.version(name) for name in ("torch", "pyarrow")}
    result["load_before"] = os.getloadavg()[0]
    result["speed"] = measure_speed(folder, repeats, chosen.peers_python, cores)
    result["requests"] = measure_requests(folder, repeats, rows)
    result["memory"] = measure_memory(folder)
    result["load_after"] = os.getloadavg()[0]
    result["waiting"] = measure_waiting(*((30, 1) if chosen.quick else (60, 2)))
    print(table(result))
    for line in claims(result):
        print(line)
    if not chosen.quick:
        write_result(RESULTS, result)
        RESULTS.with_suffix(".md").write_text(table(result) + "\n")


if __name__ == "__main__":
    main()
