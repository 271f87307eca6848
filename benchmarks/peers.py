"""The same multi-task model trained by home_dist and by what users would pick instead, on the same files.

    python benchmarks/peers.py --peers-python PEERS/bin/python        # some fifteen minutes
    python benchmarks/peers.py --quick                                # under 50 s; writes nothing

Sample: the KuaiRand-Pure sample as 67 columns of ids (37 ids, 30 statistics by bucket), all of width 16, 8 tasks, 8 experts of
[256, 128] (PLE: two layers, 1 expert per task and 2 shared), towers of [64], batch normalisation behind every layer of experts,
batch 2048, AdamW or Adam on everything (ours with embedding.replicate_rows above all tables, so that they take the dense
optimizer, too). Large: 20 tables of a million rows, ids by a power law; ours is then sharded, and FBGEMM's row-wise Adagrad
updates the rows that a batch has, where the others' Adam updates all. Data are read from Parquet by each system's own reader:
home_dist shuffles, torch-rechub permutes rows that it holds in memory, plain torch reads in order. One process, as many threads
as cores.

Systems take turns, `--repeats` times; each is a process of its own; medians and ratios of medians are told. torch-rechub runs
in another environment:

    python3.11 -m venv PEERS && PEERS/bin/pip install torch torch-rechub==0.9.0 pandas pyarrow

Start-up: from the command `home-dist train` on two ranks until the first line of progress, on configs/kuairand_pure.toml.
Quality: test AUC after one epoch over the sample's files, of ours with fp32 and with bf16.
"""

import argparse
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.claims import claim  # noqa: E402
from benchmarks.id_log import GROUP, describe, power_law, rare_labels  # noqa: E402
from benchmarks.sample_run import set_options, torchrun  # noqa: E402
from home_dist.schema import IdFeature, StatisticFeature, load_schema  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
SAMPLE = ROOT / "examples" / "kuairand_pure"
PEERS = ROOT / "benchmarks" / "models_peers.py"
BATCH, FEATURES = 2048, 67
CONFIG = """
run = {{ dir = "{folder}/run" }}
data = {{ path = "{folder}", validation = "", test = "{test}" }}
embedding = {{ dim = 16, small_dim = 16, replicate_rows = {replicate}, replicated_weight_decay = 1e-5, lr = 0.02 }}
model = {{ kind = "mmoe", experts = 8, expert_hidden = [256], expert_dim = 128, tower_hidden = [64], expert_norm = true }}
train = {{ batch_size = {batch}, lr = 1e-3, weight_decay = 1e-5, linear_path = false, decay = "none" }}
insight = {{ every_steps = 0 }}
log = {{ tensorboard = false }}
"""
OVERRIDES = {
    "mmoe": [],
    "ple": ["model.kind=ple", "model.layers=2", "model.task_experts=1", "model.shared_experts=2"],
}


def sample_as_ids(folder: Path) -> None:
    """The sample's columns of one id, and its first statistics as their buckets."""
    schema = load_schema(SAMPLE / "schema.toml")
    ids = [f for f in schema.feature if isinstance(f, IdFeature) and f.pooling == "none"]
    statistics_ = [f for f in schema.feature if isinstance(f, StatisticFeature)][: FEATURES - len(ids)]
    rows = {f.name: schema.table_rows()[f.table] for f in ids} | {s.name: s.buckets for s in statistics_}
    for split in ("train", "test"):
        table = pa.concat_tables(pq.read_table(p) for p in sorted((SAMPLE / split).glob("*.parquet")))
        columns: dict[str, Any] = {}
        for f in ids:
            columns[f.name] = table[f.column].combine_chunks().fill_null(0).cast(pa.int32())
        for s in statistics_:
            values = np.nan_to_num(table[s.column].to_numpy().astype(np.float64))
            columns[s.name] = (1 + np.searchsorted(s.boundaries, values, side="right")).astype(np.int32)
        for t in schema.task:
            columns[t.name] = table[t.column].combine_chunks().fill_null(0).cast(pa.int8())
        columns[GROUP] = columns["user"]
        _write(folder / split, pa.table(columns), 8192)
    _describe(folder, rows, {t.name: t.group for t in schema.task}, replicate=100_000, test="test")


def large(folder: Path, rows: int, samples: int) -> None:
    random = np.random.default_rng(0)
    features = {f"id_{i}": rows for i in range(20)}
    tasks = {f"task_{i}": "a" if i < 4 else "b" for i in range(8)}
    columns: dict[str, Any] = {name: power_law(random, rows, samples) for name in features}
    columns |= rare_labels(random, list(tasks), samples)
    columns[GROUP] = columns["id_0"]
    _write(folder / "train", pa.table(columns), 8192)
    # Such tables are sharded; all others take the dense optimizer.
    _describe(folder, features, tasks, replicate=0, test="")


def _write(folder: Path, table: pa.Table, group: int) -> None:
    folder.mkdir(parents=True)
    for first in range(0, table.num_rows, 10 * group):
        pq.write_table(table.slice(first, 10 * group), folder / f"part-{first:09d}.parquet", row_group_size=group)


def _describe(folder: Path, features: dict[str, int], tasks: dict[str, str], replicate: int, test: str) -> None:
    describe(folder, features, tasks)
    (folder / "about.json").write_text(json.dumps({"features": list(features.items()), "tasks": list(tasks)}))
    (folder / "run.toml").write_text(CONFIG.format(folder=folder, replicate=replicate, batch=BATCH, test=test))


def ours(folder: Path, model: str, steps: int, warm_up: int, threads: int, precision: str) -> dict[str, float]:
    out = folder / "bench.json"
    settings = [*OVERRIDES[model], f"kernel.precision={precision}", f"distributed.threads={threads}"]
    command = [sys.executable, "-m", "home_dist.cli", "bench", str(folder / "run.toml"), "--json", str(out)]
    command += ["--steps", str(steps), "--warm-up", str(warm_up), "--traced", "1"]
    _call([*command, *set_options(settings)])
    found = json.loads(out.read_text())
    return {k: found[k] for k in ("samples_per_second", "peak_memory_bytes")} | {"kernel": found["kernel"]}


def theirs(python: str, system: str, folder: Path, model: str, steps: int, warm_up: int, threads: int) -> dict[str, float]:
    command = [python, str(PEERS), system, model, str(folder), str(BATCH), str(steps), str(warm_up), str(threads)]
    return json.loads(_call(command).splitlines()[-1])


def _call(command: list[str]) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    if command[0] != sys.executable:
        del environment["PYTHONPATH"]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1800)
    if ended.returncode:
        sys.exit(f"{' '.join(command)}\n{ended.stdout[-2000:]}{ended.stderr[-2000:]}")
    return ended.stdout


def start_up() -> float:
    """Seconds until the first step of two ranks is done and told."""
    with tempfile.TemporaryDirectory() as folder:
        command = [*torchrun(2), "train", str(ROOT / "configs/kuairand_pure.toml")]
        command += set_options([f"run.dir={folder}/run", f"data.path={SAMPLE}", "log.every_steps=1"])
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"}
        began = time.perf_counter()
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        try:
            for line in process.stdout or ():
                if re.match(r"step +1/", line):
                    return time.perf_counter() - began
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=120)
    sys.exit("the run ended before its first step")


def quality(folder: Path, model: str, precision: str, threads: int) -> float:
    """Mean test AUC over tasks after an epoch."""
    run = folder / f"run-{model}-{precision}"
    settings = [*OVERRIDES[model], f"kernel.precision={precision}", f"run.dir={run}", f"distributed.threads={threads}"]
    command = [sys.executable, "-m", "home_dist.cli", "train", str(folder / "run.toml")]
    _call([*command, *set_options(settings)])
    found = json.loads((run / "evaluation.json").read_text())["test"]
    return float(np.mean([figures["auc"] for figures in found.values()]))


def table(result: dict[str, Any]) -> str:
    lines = [
        f"{result['cores']} cores, one process, {result['cores']} threads, batches of {BATCH:,}; medians of "
        f"{result['repeats']}, with the lowest and highest.",
        "",
        "| data, model | system | samples/s | ours in fp32 over it | peak MB |",
        "|---|---|---|---|---|",
    ]
    for case, systems in result["cases"].items():
        own = statistics.median(r["samples_per_second"] for r in systems["home_dist, fp32"])
        for system, runs in systems.items():
            rates = [r["samples_per_second"] for r in runs]
            middle = statistics.median(rates)
            peak = statistics.median(r["peak_memory_bytes"] for r in runs) / 1e6
            spread = f"{middle:,.0f} ({min(rates):,.0f} to {max(rates):,.0f})"
            lines.append(f"| {case} | {system} | {spread} | {own / middle:.2f} | {peak:,.0f} |")
    lines += ["", *(f"{name}: {why}" for name, why in result["not run"].items())]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="MMoE on the sample, few steps, once; writes nothing")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--peers-python", default="", help="interpreter of an environment with torch-rechub")
    options = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    repeats, steps, warm_up = (1, 6, 2) if options.quick else (options.repeats, 24, 6)
    systems = {"home_dist, fp32": "", "home_dist, bf16": "", "plain": sys.executable}
    why = {"TorchEasyRec": "needs a checkout and packages of its own: not tried in this run"}
    why["FuxiCTR"] = "its released package holds no multi-task models; those of its repository's model_zoo were not tried"
    if options.peers_python:
        systems["torch-rechub"] = options.peers_python
    else:
        why["torch-rechub"] = "no --peers-python"
    with tempfile.TemporaryDirectory() as scratch:
        folders = {"sample": Path(scratch, "sample")}
        sample_as_ids(folders["sample"])
        cases = {"sample, mmoe": ("sample", "mmoe")}
        if not options.quick:
            folders["20 x 1M rows"] = Path(scratch, "large")
            large(folders["20 x 1M rows"], 1_000_000, 40 * BATCH)
            cases |= {"sample, ple": ("sample", "ple"), "20 x 1M rows, mmoe": ("20 x 1M rows", "mmoe")}
        found: dict[str, dict[str, list[dict[str, float]]]] = {c: {s: [] for s in systems} for c in cases}
        for turn in range(repeats):
            for case, (data, model) in cases.items():
                few = data != "sample"
                for system, python in systems.items():
                    print(f"{turn + 1}/{repeats} {case}: {system}", flush=True)
                    count, before = (min(steps, 8), 2) if few and python else (steps, warm_up)
                    if python:
                        one = theirs(python, system, folders[data], model, count, before, cores)
                    else:
                        one = ours(folders[data], model, count, before, cores, system.rpartition(" ")[2])
                    found[case][system].append(one)
        seconds = [start_up() for _ in range(repeats)]
        auc = {p: quality(folders["sample"], "mmoe", p, cores) for p in ("fp32", "bf16")} if not options.quick else {}
    result = {"cores": cores, "repeats": repeats, "cases": found, "not run": why, "start_up": seconds, "auc": auc}
    text = table(result)
    print(text)
    if not options.quick:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "peers.json").write_text(json.dumps(result, indent=1) + "\n")
        (RESULTS / "peers.md").write_text(text + "\n")

    def over(case: str, one: str, other: str, figure: str = "samples_per_second") -> float:
        return statistics.median(r[figure] for r in found[case][one]) / statistics.median(r[figure] for r in found[case][other])

    for case in cases:
        if "torch-rechub" in systems:
            goal = 10 if "1M" in case else 1.8
            print(claim(f"{case}: samples/s over torch-rechub, fp32", over(case, "home_dist, fp32", "torch-rechub"), goal))
            if "1M" not in case:
                print(claim(f"{case}: samples/s over torch-rechub, bf16", over(case, "home_dist, bf16", "torch-rechub"), 3))
        print(claim(f"{case}: samples/s over plain torch, fp32", over(case, "home_dist, fp32", "plain"), 2))
        leanest = min((s for s in systems if systems[s]), key=lambda s: found[case][s][0]["peak_memory_bytes"])
        memory = over(case, "home_dist, fp32", leanest, "peak_memory_bytes")
        print(claim(f"{case}: peak memory over the leanest's ({leanest})", memory, 1, at_most=True))
    print(claim("seconds from the command to the first step", statistics.median(seconds), 10, at_most=True))
    if auc:
        print(claim("AUC lost by bf16", auc["fp32"] - auc["bf16"], 0.002, at_most=True, form=".4f"))


if __name__ == "__main__":
    main()
