"""The same multi-task model trained by home_dist and by what users would pick instead, on the same files.

    python benchmarks/peers.py --peers-python PEERS/bin/python --peer-path NAME=CHECKOUT ..     # half an hour with all of them
    python benchmarks/peers.py --quick                                                          # under 50 s; writes nothing

Sample: the KuaiRand-Pure sample as 67 columns of ids (37 ids, 30 statistics by bucket), all of width 16, 8 tasks, 8 experts of
[256, 128] (PLE: two layers, 1 expert per task and 2 shared; HoME: 2 shared, 2 per group, 1 per task; AdaTT: one layer, 1 per
task), towers of [64], batch normalisation behind every layer of experts (AdaTT: none), batch 2048, AdamW or Adam on everything
(ours with embedding.replicate_rows above all tables, so that they take the dense optimizer, too). Large: 20 tables of a million
rows, ids by a power law; ours is then sharded, and FBGEMM's row-wise Adagrad updates the rows that a batch has, where the Adam
of others updates all.

Data are read from Parquet by each system's own reader: home_dist shuffles, torch-rechub permutes rows that it holds in memory,
FuxiCTR shuffles a buffer, plain torch reads in order. TorchEasyRec's modules and AdaTT's train on TorchRec's tables and on our
reader (torchrec_peers.py). One process, as many threads as cores; beside other work, --threads 1 disturbs ratios less.

torch.compile is plain torch's network through inductor, warm: the step that compiles comes before the timed ones, and its
seconds are told beside (compiled_peers.py). --quick leaves it out, as it compiles for longer than --quick may take.

Systems take turns, `--repeats` times; each is a process of its own; medians and ratios of medians are told. torch-rechub and
FuxiCTR run in another environment; FuxiCTR's multi-task models, TorchEasyRec and AdaTT are read from checkouts of
reczoo/FuxiCTR, alibaba/TorchEasyRec and facebookresearch/AdaTT:

    python3.11 -m venv PEERS && PEERS/bin/pip install torch torch-rechub==0.9.0 fuxictr==2.3.0 polars==0.20.31 pandas pyarrow

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
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.claims import claim  # noqa: E402
from benchmarks.machine import processor, vectors  # noqa: E402
from benchmarks.peers_data import BATCH, SAMPLE, large, sample_as_ids  # noqa: E402
from benchmarks.sample_run import SINGLE, output_of, set_options, torchrun  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
SAMPLE_DATA, LARGE_DATA = "sample", "20 x 1M rows"
OVERRIDES = {
    "mmoe": [],
    "ple": ["model.kind=ple", "model.layers=2", "model.task_experts=1", "model.shared_experts=2"],
    "home": ["model.kind=home"],
    "adatt": ["model.kind=adatt", "model.layers=1", "model.shared_experts=0", "model.expert_norm=false"],
}
QUIET = {"PYTHONWARNINGS": "ignore"}
FP32, BF16 = "home_dist, fp32", "home_dist, bf16"
COMPILED = "torch.compile"
PEERS = ("torch-rechub", "FuxiCTR", "TorchEasyRec", "AdaTT")
GOALS = {"torch-rechub": 1.8, "FuxiCTR": 1.8, "TorchEasyRec": 1.5, "AdaTT": 1.5, "plain": 2.0, COMPILED: 1.3}
"""Of samples/s, ours in fp32 over theirs."""
HOME_GOALS = {"plain": 3.0}
LARGE_GOALS = {"torch-rechub": 10.0, "FuxiCTR": 10.0}
BF16_GOALS = {"torch-rechub": 3.0, "FuxiCTR": 3.0}
HOME_BF16 = 2.0
Figures = dict[str, Any]


@dataclass(frozen=True)
class System:
    models: tuple[str, ...]
    run: Callable[[Path, str, int, int], Figures]
    """Folder of data, model, steps and those before them -> samples_per_second and peak_memory_bytes."""


def ours(precision: str, threads: int) -> Callable[[Path, str, int, int], Figures]:
    def run(folder: Path, model: str, steps: int, warm_up: int) -> Figures:
        out = folder / "bench.json"
        settings = [*OVERRIDES[model], f"kernel.precision={precision}", f"distributed.threads={threads}"]
        command = [*SINGLE, "bench", folder / "run.toml", "--out", out, "--steps", str(steps), "--warm-up", str(warm_up)]
        output_of([*command, "--traced", "1", *set_options(settings)], QUIET)
        found = json.loads(out.read_text())
        kept = (
            "samples_per_second",
            "peak_memory_bytes",
            "kernel",
            "evaluation_samples_per_second",
            "forward_samples_per_second",
        )
        return {k: found[k] for k in kept}

    return run


def theirs(python: str, script: str, system: str, threads: int, checkout: str = "") -> Callable[[Path, str, int, int], Figures]:
    def run(folder: Path, model: str, steps: int, warm_up: int) -> Figures:
        command = [python, str(ROOT / "benchmarks" / script), system, model, str(folder)]
        numbers = [str(n) for n in (BATCH, steps, warm_up, threads)]
        environment = QUIET if python == sys.executable else {**QUIET, "PYTHONPATH": ""}
        told = output_of([*command, *numbers, *([checkout] if checkout else [])], environment)
        return json.loads(told.splitlines()[-1])

    return run


def systems_at_hand(
    python: str, checkouts: dict[str, str], threads: int, compiled: bool
) -> tuple[dict[str, System], dict[str, str]]:
    """And, of those that cannot be run, why."""
    own, with_peers, torchrec = ("mmoe", "ple", "home", "adatt"), "models_peers.py", "torchrec_peers.py"
    found = {FP32: System(own, ours("fp32", threads)), BF16: System(own, ours("bf16", threads))}
    found["plain"] = System(("mmoe", "ple", "home"), theirs(sys.executable, with_peers, "plain", threads))
    why = {}
    if compiled:
        found[COMPILED] = System(("mmoe", "home"), theirs(sys.executable, "compiled_peers.py", COMPILED, threads))
    else:
        why[COMPILED] = "compiles for longer than --quick may take"
    if python:
        found["torch-rechub"] = System(("mmoe", "ple"), theirs(python, with_peers, "torch-rechub", threads))
    else:
        why["torch-rechub"] = "no --peers-python"
    if python and "FuxiCTR" in checkouts:
        run = theirs(python, with_peers, "FuxiCTR", threads, checkouts["FuxiCTR"])
        found["FuxiCTR"] = System(("mmoe", "ple"), run)
    else:
        why["FuxiCTR"] = "its package holds no multi-task models: needs --peers-python and --peer-path"
    for name, models in (("TorchEasyRec", ("mmoe", "ple")), ("AdaTT", ("adatt",))):
        if name in checkouts:
            found[name] = System(models, theirs(sys.executable, torchrec, name, threads, checkouts[name]))
        else:
            why[name] = "no --peer-path"
    return found, why


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
    output_of([*SINGLE, "train", folder / "run.toml", *set_options(settings)], QUIET)
    found = json.loads((run / "evaluation.json").read_text())["test"]
    return float(np.mean([figures["auc"] for figures in found.values()]))


def table(result: dict[str, Any]) -> str:
    lines = [
        f"{result['cores']} cores, one process, {result['threads']} threads, batches of {BATCH:,}; medians of turns, with the "
        "lowest and highest.",
        "",
        "| data, model | system | turns | samples/s | ours in fp32 over it | ours in bf16 over it | peak MB |",
        "|---|---|---|---|---|---|---|",
    ]
    for case, systems in result["cases"].items():
        for system, runs in systems.items():
            rates = [r["samples_per_second"] for r in runs]
            peak = middle_of(runs, "peak_memory_bytes") / 1e6
            spread = f"{statistics.median(rates):,.0f} ({min(rates):,.0f} to {max(rates):,.0f})"
            over = [middle_of(systems[own]) / middle_of(runs) for own in (FP32, BF16)]
            lines.append(f"| {case} | {system} | {len(runs)} | {spread} | {over[0]:.2f} | {over[1]:.2f} | {peak:,.0f} |")
    compiled = {case: max(r["compile_seconds"] for r in of[COMPILED]) for case, of in result["cases"].items() if COMPILED in of}
    if compiled:
        told = "; ".join(f"{case}: {seconds:,.0f} s" for case, seconds in compiled.items())
        lines += ["", f"The first step of {COMPILED}, which compiles and is not timed: {told}."]
    for case in result["cases"]:
        about = result["measured"].get(case)
        told = f"{about['machine']}, load average {about['load_before']:.1f} before the run" if about else "machine not told"
        lines += ["", f"{case}: {told}."]
    lines += ["", *(f"Not run: {name}: {why}" for name, why in result["not run"].items())]
    return "\n".join(lines).rstrip()


def middle_of(runs: list[Figures], figure: str = "samples_per_second") -> float:
    return statistics.median(r[figure] for r in runs)


def claims(result: dict[str, Any]) -> list[str]:
    lines = []
    for case, systems in result["cases"].items():
        large_ = case.startswith(LARGE_DATA)
        goals = GOALS | (LARGE_GOALS if large_ else HOME_GOALS if case.endswith("home") else {})
        others = [s for s in systems if s not in (FP32, BF16)]
        for other in others:
            speed = middle_of(systems[FP32]) / middle_of(systems[other])
            lines.append(claim(f"{case}: samples/s over {other}, fp32", speed, goals[other]))
            if other in BF16_GOALS and not large_:
                speed = middle_of(systems[BF16]) / middle_of(systems[other])
                lines.append(claim(f"{case}: samples/s over {other}, bf16", speed, BF16_GOALS[other]))
        if BF16 in systems and case.endswith("home"):
            lines.append(
                claim(f"{case}: samples/s in bf16 over fp32", middle_of(systems[BF16]) / middle_of(systems[FP32]), HOME_BF16)
            )
        peaks = {s: middle_of(systems[s], "peak_memory_bytes") for s in [FP32, *others]}
        leanest = min(others, key=lambda s: peaks[s])
        memory = peaks[FP32] / peaks[leanest]
        lines.append(claim(f"{case}: peak memory over the leanest's ({leanest})", memory, 1, at_most=True))
        forward, evaluation = (middle_of(systems[FP32], f"{of}_samples_per_second") for of in ("forward", "evaluation"))
        lines.append(claim(f"{case}: samples/s of evaluation over the forward of training", evaluation / forward, 1))
    lines.append(claim("seconds from the command to the first step", statistics.median(result["start_up"]), 10, at_most=True))
    if result["auc"]:
        lost = result["auc"]["fp32"] - result["auc"]["bf16"]
        lines.append(claim("AUC lost by bf16", lost, 0.002, at_most=True, form=".4f"))
    return lines


def write(stored: Path, result: dict[str, Any]) -> None:
    stored.write_text(json.dumps(result, indent=1) + "\n")
    stored.with_suffix(".md").write_text(table(result) + "\n")


def main() -> None:
    cores = len(os.sched_getaffinity(0))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="MMoE on the sample, few steps, once; writes nothing")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=16, help="timed steps of each run")
    parser.add_argument(
        "--threads", type=int, default=cores, help="by default one per core; others' results have a file of their own"
    )
    parser.add_argument("--only", default="", help="cases whose names contain this; the stored results keep the others")
    parser.add_argument(
        "--peers-python", default="", help="interpreter of an environment with torch-rechub and FuxiCTR's needs"
    )
    parser.add_argument("--peer-path", action="append", default=[], metavar="NAME=CHECKOUT", help=", ".join(PEERS[1:]))
    options = parser.parse_args()
    if min(options.repeats, options.steps, options.threads) < 1:
        parser.error("--repeats, --steps and --threads: at least 1")
    checkouts = dict(text.partition("=")[::2] for text in options.peer_path)
    for name, path in checkouts.items():
        if name not in PEERS[1:] or not Path(path).is_dir():
            parser.error(f"--peer-path {name}={path}: NAME is one of {', '.join(PEERS[1:])}, CHECKOUT a folder")
    repeats, steps, warm_up = (1, 6, 2) if options.quick else (options.repeats, options.steps, 4)
    threads = options.threads
    systems, why = systems_at_hand(options.peers_python, checkouts, threads, compiled=not options.quick)
    cases = {f"{SAMPLE_DATA}, {model}": (SAMPLE_DATA, model) for model in OVERRIDES}
    cases |= {f"{LARGE_DATA}, mmoe": (LARGE_DATA, "mmoe")}
    cases = {name: case for name, case in cases.items() if options.only in name}
    if options.quick:
        cases = {name: case for name, case in cases.items() if name == f"{SAMPLE_DATA}, mmoe"}
    if not cases:
        parser.error(f"--only {options.only}: no such case")
    whole = not options.quick and not options.only
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as scratch:
        folders = {SAMPLE_DATA: Path(scratch, "sample"), LARGE_DATA: Path(scratch, "large")}
        sample_as_ids(folders[SAMPLE_DATA])
        if any(data == LARGE_DATA for data, _ in cases.values()):
            large(folders[LARGE_DATA], 1_000_000, 40 * BATCH)
        found: dict[str, dict[str, list[Figures]]] = {
            name: {s: [] for s, system in systems.items() if model in system.models} for name, (_, model) in cases.items()
        }
        for turn in range(repeats):
            for case, (data, model) in cases.items():
                for system, runs in found[case].items():
                    print(f"{turn + 1}/{repeats} {case}: {system}", flush=True)
                    slow = data == LARGE_DATA and system in ("plain", COMPILED, "torch-rechub", "FuxiCTR")
                    count, before = (min(steps, 6), 2) if slow else (steps, warm_up)
                    runs.append(systems[system].run(folders[data], model, count, before))
        seconds = [start_up() for _ in range(1 if options.only else repeats)]
        auc = {p: quality(folders[SAMPLE_DATA], "mmoe", p, threads) for p in ("fp32", "bf16")} if whole else {}
    about = {"machine": f"{cores} cores, {processor()}{vectors()}, torch {torch.__version__}", "load_before": load}
    result = {"cores": cores, "threads": threads, "cases": found, "measured": dict.fromkeys(found, about)}
    result |= {"not run": why, "start_up": seconds, "auc": auc}
    print(table(result))
    stored = RESULTS / ("peers.json" if threads == cores else f"peers_{threads}_threads.json")
    if whole:
        RESULTS.mkdir(exist_ok=True)
        write(stored, result)
    elif not options.quick:
        known = json.loads(stored.read_text()) if stored.is_file() else result
        lost = [f"{case}: {s}" for case, of in found.items() for s in known["cases"].get(case, {}) if s not in of]
        if lost or known["cores"] != cores:
            print(f"not written: results had {', '.join(lost) or 'other cores'}")
        else:
            kept = {key: known[key] | result[key] for key in ("cases", "measured")}
            write(stored, {**known, **kept})
    print("\n".join(claims(result)))


if __name__ == "__main__":
    main()
