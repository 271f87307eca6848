"""Requests whose rows share the user's features and history: training with `data.once_per_request` against the plain layout.

    python benchmarks/once_per_request.py            # results/once_per_request.json and .md, some half an hour
    python benchmarks/once_per_request.py --quick    # one case, few steps, under 50 s; writes nothing
    python benchmarks/once_per_request.py --storage  # bytes and decoding of files alone; writes this part of the results

Generated logs with 1, 8 and 32 candidates per request and histories of 100 and 1,000 events (item, category, watch ratio). 4
user and 3 item features in tables of 100,000 rows, width 16; HoME with 4 tasks; batch 1,024; one process. Both layouts train
the same rows in the same order, data included. Samples/s: both in one process, step by step in turns, median of the ratios.
Memory: a process for each layout; its peak in training (VmHWM) above its memory before the model was built.

Storage: the log as Parquet, with a copy of the request's user side in each row, and as two files, one of rows and one of
requests, which home_dist does not read. Bytes, and processor time of one thread in which pyarrow decodes all columns; medians.
"""

import argparse
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from home_dist import process  # noqa: E402

process.prepare()

import numpy as np  # noqa: E402
import pyarrow as pa  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402

from benchmarks.claims import claim  # noqa: E402
from benchmarks.id_log import EVENTS, GROUP, ITEM, TASKS, USER, WATCHED, describe, power_law, rare_labels  # noqa: E402
from benchmarks.machine import memory, processor, vectors, write_result  # noqa: E402
from benchmarks.sample_run import output_of  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
BATCH, BATCHES, ROWS = 1024, 4, 100_000
ENCODERS = {
    "din": 'kind = "din"',
    "sim": 'kind = "sim", most = 50, heads = 4, head_dim = 16',
    "twin": 'kind = "twin", most = 50, heads = 4, head_dim = 16',
}
LAYOUTS = ("plain", "once")
ONCE = (*USER, "watched")
Case = tuple[str, int, int]
"""Encoder, candidates of a request, events of a history."""
CASES = [(e, c, t) for e in ENCODERS for t in (100, 1000) for c in (1, 8, 32)]
QUICK: list[Case] = [("twin", 32, 1000)]
FAR = (32, 1000)
STORED = list(itertools.product((1, 8, 32), (1000,), ("snappy", "zstd")))
STORED_REPEATS = 7


def write(folder: Path, candidates: int, events: int) -> None:
    """A log of BATCHES batches."""
    random, requests = np.random.default_rng(0), BATCH * BATCHES // candidates
    rows = requests * candidates
    of_row = np.repeat(np.arange(requests), candidates)
    columns: dict[str, Any] = {name: power_law(random, ROWS, requests)[of_row] for name in USER}
    columns |= {name: power_law(random, ROWS, rows) for name in ITEM}
    columns |= rare_labels(random, list(TASKS), rows)
    columns |= {GROUP: columns["user"], "request": of_row}
    (folder / "train").mkdir(parents=True)
    offsets = np.arange(rows + 1, dtype=np.int32) * events
    for name in EVENTS:
        values = power_law(random, ROWS if name != "watched_ratio" else 100, requests * events).reshape(requests, events)
        columns[name] = pa.ListArray.from_arrays(offsets, values[of_row].reshape(-1))
    pq.write_table(pa.table(columns), folder / "train" / "part-0.parquet", row_group_size=BATCH)
    tables = dict.fromkeys((*USER, *ITEM), ROWS)
    more = {"table": [{"name": n, "rows": count} for n, count in (tables | {"ratio": 100}).items()], "sequence": [WATCHED]}
    describe(folder, tables, TASKS, more)


def configuration(folder: Path, encoder: str, layout: str) -> Path:
    once = f"once_per_request = {json.dumps(ONCE)}, " if layout == "once" else ""
    lines = [
        f'run = {{ dir = "{folder}/run" }}',
        f'data = {{ path = "{folder}", request = "request", {once}validation = "", test = "", window_rows = {BATCH} }}',
        "embedding = { dim = 16, small_dim = 16 }",
        f"train = {{ batch_size = {BATCH} }}",
        'model = { kind = "home", expert_hidden = [128], expert_dim = 64 }',
        f'sequence = [{{ name = "watched", {ENCODERS[encoder]} }}]',
    ]
    path = folder / f"{encoder}-{layout}.toml"
    path.write_text("\n".join(lines) + "\n")
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one case, few steps, under 50 s; writes nothing")
    parser.add_argument("--storage", action="store_true", help="the files alone, see above")
    parser.add_argument("--steps", type=int, default=10, help="timed steps of each layout")
    parser.add_argument("--case", nargs=3, metavar=("ENCODER", "CANDIDATES", "EVENTS"), help="one case only; writes nothing")
    parser.add_argument("--worker", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(train([Path(p) for p in options.worker], options.steps)))
        return
    path = RESULTS / "once_per_request.json"
    if options.storage:
        result = json.loads(path.read_text()) | {"storage": storage()}
        save(path, result)
        print(storage_table(result["storage"]))
        return
    cases = QUICK if options.quick else CASES
    if options.case:
        encoder, candidates, events = options.case
        cases = [(encoder, int(candidates), int(events))]
    found = [measured(case, 3 if options.quick else options.steps) for case in cases]
    result = {"processor": processor() + vectors(), "cores": len(os.sched_getaffinity(0)), "batch": BATCH, "cases": found}
    print(table(result))
    if not options.quick and not options.case:
        save(path, result | {"storage": storage()})
    for line in claims(found):
        print(line)


def save(path: Path, result: dict[str, Any]) -> None:
    write_result(path, result)
    path.with_suffix(".md").write_text(f"{table(result)}\n\n{storage_table(result['storage'])}\n")


def storage() -> dict[str, Any]:
    return {"processor": processor() + vectors(), "cases": [stored(*case) for case in STORED]}


def stored(candidates: int, events: int, compression: str) -> dict[str, Any]:
    """Bytes per row, and microseconds in which one thread decodes a row, of both layouts."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write(folder, candidates, events)
        log = pq.read_table(folder / "train")
        of_user = [*USER, *EVENTS]
        requests = log.select(["request", *of_user]).take(np.arange(0, len(log), candidates))
        layouts = {"plain": {"rows": log}, "once": {"rows": log.drop_columns(of_user), "requests": requests}}
        files: dict[str, list[Path]] = {layout: [] for layout in layouts}
        for layout, tables in layouts.items():
            for name, part in tables.items():
                files[layout].append(folder / f"{layout}-{name}.parquet")
                rows = BATCH * len(part) // len(log)  # row groups of the same requests
                pq.write_table(part, files[layout][-1], row_group_size=rows, compression=compression)
        sizes = {layout: sum(f.stat().st_size for f in found) / len(log) for layout, found in files.items()}
        seconds: dict[str, list[float]] = {layout: [] for layout in files}
        for _ in range(STORED_REPEATS):
            for layout, found in files.items():
                seconds[layout].append(sum(map(decoded, found)))
        times = {layout: statistics.median(found) / len(log) * 1e6 for layout, found in seconds.items()}
    shape = {"candidates": candidates, "events": events, "compression": compression}
    return shape | {"bytes_of_a_row": sizes, "microseconds_of_a_row": times}


def decoded(path: Path) -> float:
    """Processor seconds of this thread in which a file is decoded."""
    file = pq.ParquetFile(path)
    began = time.thread_time()
    for group in range(file.num_row_groups):
        file.read_row_group(group, use_threads=False)
    return time.thread_time() - began


def measured(case: Case, steps: int) -> dict[str, Any]:
    encoder, candidates, events = case
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write(folder, candidates, events)
        paths = [configuration(folder, encoder, layout) for layout in LAYOUTS]
        script = [sys.executable, ROOT / "benchmarks" / "once_per_request.py", "--steps", str(steps), "--worker"]
        both = json.loads(output_of([*script, *paths]).splitlines()[-1])["seconds"]
        alone = [json.loads(output_of([*script, path]).splitlines()[-1])["bytes"] for path in paths]
    seconds = {layout: statistics.median(times) for layout, times in zip(LAYOUTS, both, strict=True)}
    found = {
        "encoder": encoder,
        "candidates": candidates,
        "events": events,
        "samples_per_second": {layout: BATCH / s for layout, s in seconds.items()},
        "speed": statistics.median(plain / once for plain, once in zip(*both, strict=True)),
        "bytes": dict(zip(LAYOUTS, alone, strict=True)),
        "memory": alone[1] / alone[0],
    }
    print(f"{encoder} {candidates} x {events}: speed {found['speed']:.2f}, memory {found['memory']:.2f}", flush=True)
    return found


def train(paths: Sequence[Path], steps: int) -> dict[str, Any]:
    """Trains configurations in turns, step by step. Returns each one's seconds per step, and the peak above the start."""
    from home_dist.config import load_config
    from home_dist.data.inputs import open_inputs
    from home_dist.distributed import ranks
    from home_dist.schema import load_schema
    from home_dist.training.build import build
    from home_dist.training.optimizers import Schedule
    from home_dist.training.pipeline import Pipeline, begin_step

    process.silence_libraries()
    configs = [load_config(path) for path in paths]
    formed = ranks.form_ranks(configs[0].distributed)
    before, runs = memory("VmRSS"), []
    for config in configs:
        inputs = open_inputs(config, load_schema(config.schema_path()), ("train",))
        built = build(inputs, formed)
        built.model.train()
        batches = itertools.islice(inputs.training_reader(formed).epochs(0, 10**6), steps + 2)
        runs.append(
            (config, built, Pipeline.of(built, formed, 1, True), Schedule(built.optimizer, config.train, steps + 2), batches)
        )
    seconds: list[list[float]] = [[] for _ in runs]
    for number in range(steps + 2):
        for place, (config, built, pipeline, schedule, batches) in enumerate(runs):
            began = time.perf_counter()
            begin_step(built, schedule, config.train, number, 0)
            pipeline.progress(batches, is_last_batch=number == steps + 1)
            seconds[place].append(time.perf_counter() - began)
    peak = memory("VmHWM") - before
    ranks.leave_ranks()
    return {"seconds": [times[2:] for times in seconds], "bytes": peak}


def table(result: dict[str, Any]) -> str:
    lines = [
        f"{result['processor']}, {result['cores']} cores, batch {result['batch']:,}. Once: with `data.once_per_request`.",
        "",
        "| encoder | candidates | events | samples/s, plain | once | ratio | MB, plain | once | ratio |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for found in result["cases"]:
        speed, megabytes = found["samples_per_second"], {layout: n / 1e6 for layout, n in found["bytes"].items()}
        cells = [found["encoder"], found["candidates"], f"{found['events']:,}"]
        cells += [f"{speed['plain']:,.0f}", f"{speed['once']:,.0f}", f"{found['speed']:.2f}"]
        cells += [f"{megabytes['plain']:,.0f}", f"{megabytes['once']:,.0f}", f"{found['memory']:.2f}"]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def storage_table(found: dict[str, Any]) -> str:
    lines = [
        "Files with the user's side in each row, and once per request in a file of their own, which home_dist does not read "
        f"({found['processor']}):",
        "",
        "| compression | candidates | events | bytes of a row, plain | once | decoding of a row, plain | once |",
        "|---|---|---|---|---|---|---|",
    ]
    for case in found["cases"]:
        sizes, times = case["bytes_of_a_row"], case["microseconds_of_a_row"]
        cells = [case["compression"], str(case["candidates"]), f"{case['events']:,}"]
        cells += [f"{sizes[layout]:,.0f}" for layout in LAYOUTS] + [f"{times[layout]:.2f} µs" for layout in LAYOUTS]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def claims(cases: Sequence[dict[str, Any]]) -> Iterator[str]:
    for found in cases:
        name = f"{found['encoder']}, {found['candidates']} candidates x {found['events']:,} events"
        if (found["candidates"], found["events"]) == FAR:
            yield claim(f"once per request, speed: {name}", found["speed"], 3)
            yield claim(f"once per request, share of memory: {name}", found["memory"], 0.25, at_most=True)
        if found["candidates"] == 1:
            yield claim(f"once per request, speed: {name}", found["speed"], 1)


if __name__ == "__main__":
    main()
