"""How long commands take that compute nothing, beside an import of torch and of torchrec.

    python benchmarks/start.py           # medians of 9 starts, results/start.json
    python benchmarks/start.py --quick   # means of 2, writes nothing

A run of two steps is trained first, which the commands look at. Each round starts all commands once.
"""

import argparse
import json
import os
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
from benchmarks.machine import processor  # noqa: E402
from benchmarks.sample_run import SINGLE, output_of, set_options  # noqa: E402

GOAL = 1.0
"""Seconds that a command without torch may take."""
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
            "checkpoints ls": [*SINGLE, "checkpoints", "ls", str(run)],
            "checkpoints prune": [*SINGLE, "checkpoints", "prune", "--dry-run", str(run)],
            "checkpoints show": [*SINGLE, "checkpoints", "show", str(run)],
            "checkpoints diff": [*SINGLE, "checkpoints", "diff", str(run), str(run)],
        }
        starts: dict[str, list[dict[str, float]]] = {name: [] for name in commands}
        for _ in range(2 if chosen.quick else 9):
            for name, command in commands.items():
                starts[name].append(started(command))
    medians = {
        name: {key: statistics.median(s[key] for s in of_name) for key in of_name[0]} for name, of_name in starts.items()
    }
    for name, figures in medians.items():
        seconds, processor, memory = figures["seconds"], figures["processor_seconds"], figures["megabytes"]
        print(f"{name:18} {seconds:6.2f} s, {processor:6.2f} s of processor time, {memory:5.0f} MB")
    if not chosen.quick:
        result: dict[str, Any] = {"machine": machine(), "starts": len(starts["--help"]), "commands": medians}
        (ROOT / "benchmarks" / "results" / "start.json").write_text(json.dumps(result, indent=1) + "\n")
    for name in ("--help", "buckets", "runs", "checkpoints ls", "checkpoints prune", "checkpoints show", "checkpoints diff"):
        print(claim(f"seconds of home-dist {name}", medians[name]["seconds"], GOAL, at_most=True))
    slowest = max(medians[n]["processor_seconds"] for n in ("--help", "buckets", "runs", "checkpoints ls", "checkpoints prune"))
    print(claim("slowest listing over import torch", slowest / medians["import torch"]["processor_seconds"], 1, at_most=True))


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


def machine() -> str:
    return f"{len(os.sched_getaffinity(0))} cores, {processor()}"


if __name__ == "__main__":
    main()
