"""How long commands take that compute nothing, beside an import of torch and of torchrec, and training takes to its first step.

    python benchmarks/start.py           # medians of 9 starts, results/start.json
    python benchmarks/start.py --quick   # of 1; writes nothing

A run of two steps is trained first, which the commands look at, and copied 100 times with the records of 40,000 steps. Each
round starts all commands once. The first step: from the start of `python -m home_dist.cli train configs/kuairand_pure.toml` to
its line about the first step, new run and TensorBoard included; warm: with the C++ libraries of an earlier run; cold: with an
empty cache of libraries, in a third of the rounds.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.claims import claim  # noqa: E402
from benchmarks.machine import processor, write_result  # noqa: E402
from benchmarks.sample_run import SINGLE, output_of, set_options  # noqa: E402

GOAL = 1.0
"""Seconds that a command without torch may take."""
FIRST_STEP_GOAL = 8.0
LIGHT = ("--help", "buckets", "runs", "runs, 100 of them", "checkpoints ls", "checkpoints prune")
"""Commands that go without torch."""
TOLD = "first step done"
SHORT = ("train.max_steps=2", "train.batch_size=64", "data.validation=''", "data.test=''", "log.tensorboard=false")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer starts; writes nothing")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        output_of([*SINGLE, "train", ROOT / "configs" / "kuairand_pure.toml", *set_options([f"run.dir={run}", *SHORT])])
        commands = {
            "import torch": [sys.executable, "-c", "import torch"],
            "import torchrec": [sys.executable, "-W", "ignore", "-c", "import torchrec"],
            "--help": [*SINGLE, "--help"],
            "buckets": [*SINGLE, "buckets", str(run), "tab_count"],
            "runs": [*SINGLE, "runs", folder],
            "runs, 100 of them": [*SINGLE, "runs", str(copies(run, Path(folder) / "copies", 100))],
            "checkpoints ls": [*SINGLE, "checkpoints", "ls", str(run)],
            "checkpoints prune": [*SINGLE, "checkpoints", "prune", "--dry-run", str(run)],
            "checkpoints show": [*SINGLE, "checkpoints", "show", str(run)],
            "checkpoints diff": [*SINGLE, "checkpoints", "diff", str(run), str(run)],
        }
        starts: dict[str, list[dict[str, float]]] = {name: [] for name in commands}
        steps: dict[str, list[float]] = {"warm": [], "cold": []}
        for number in range(1 if chosen.quick else 9):
            for name, command in commands.items():
                starts[name].append(started(command))
            steps["warm"].append(first_step(None))
            if number % 3 == 0:
                steps["cold"].append(first_step(Path(folder) / f"cache-{number}"))
    first_steps = {name: statistics.median(seconds) for name, seconds in steps.items()}
    medians = {
        name: {key: statistics.median(s[key] for s in of_name) for key in of_name[0]} for name, of_name in starts.items()
    }
    for name, figures in medians.items():
        seconds, processor, memory = figures["seconds"], figures["processor_seconds"], figures["megabytes"]
        print(f"{name:18} {seconds:6.2f} s, {processor:6.2f} s of processor time, {memory:5.0f} MB")
    libraries = medians["import torchrec"]["seconds"]
    print(
        f"first step of training: {first_steps['warm']:.2f} s, of which importing torch and torchrec takes {libraries:.2f} s; "
        f"{first_steps['cold']:.2f} s if C++ is compiled first"
    )
    if not chosen.quick:
        result: dict[str, Any] = {"machine": machine(), "starts": len(starts["--help"]), "commands": medians}
        result["first_step_seconds"] = {"warm": steps["warm"], "cold": steps["cold"], "medians": first_steps}
        write_result(ROOT / "benchmarks" / "results" / "start.json", result)
    for name in (*LIGHT, "checkpoints show", "checkpoints diff"):
        print(claim(f"seconds of home-dist {name}", medians[name]["seconds"], GOAL, at_most=True))
    print(claim("seconds until the first step", first_steps["warm"], FIRST_STEP_GOAL, at_most=True))
    slowest = max(medians[n]["processor_seconds"] for n in LIGHT)
    print(claim("slowest listing over import torch", slowest / medians["import torch"]["processor_seconds"], 1, at_most=True))


def copies(run: Path, folder: Path, number: int) -> Path:
    """A folder of runs, each with some 2.7 MB of curves, as 40,000 steps leave."""
    curves = (run / "insight" / "curves.jsonl").read_text().splitlines()[-1] + "\n"
    for copy in range(number):
        shutil.copytree(run, folder / f"run-{copy}", ignore=shutil.ignore_patterns("checkpoints"))
        (folder / f"run-{copy}" / "insight" / "curves.jsonl").write_text(curves * 2000)
    return folder


def started(command: list[str]) -> dict[str, float]:
    """Wall-clock, processor time and peak memory of one start."""
    began = time.perf_counter()
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"failed: {' '.join(command)}")
    return {"seconds": seconds, "processor_seconds": used.ru_utime + used.ru_stime, "megabytes": used.ru_maxrss / 1000}


def first_step(cache: Path | None) -> float:
    """Seconds from the start of a new run to its line about the first step. cache: folder of compiled libraries; None: the
    user's."""
    variables = {**os.environ, "PYTHONUNBUFFERED": "1"} | ({} if cache is None else {"XDG_CACHE_HOME": str(cache)})
    with tempfile.TemporaryDirectory() as folder:
        settings = set_options([f"run.dir={folder}/run"])
        command = [*SINGLE, "train", str(ROOT / "configs" / "kuairand_pure.toml"), *settings]
        began = time.perf_counter()
        process = subprocess.Popen(command, cwd=ROOT, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        told = any(line.startswith(TOLD) for line in process.stdout or ())
        seconds = time.perf_counter() - began
        process.kill()
        said = process.communicate()[1]
    if not told:
        sys.exit(f"no first step: {' '.join(command)}\n{said[-2000:]}")
    return seconds


def machine() -> str:
    return f"{len(os.sched_getaffinity(0))} cores, {processor()}"


if __name__ == "__main__":
    main()
