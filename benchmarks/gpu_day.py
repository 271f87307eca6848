"""The first ten minutes with a GPU: are the kernels right there, does the host wait, how fast are bank, models and histories?

    python benchmarks/gpu_day.py              # on a GPU: ten minutes at most; writes results/gpu/DEVICE.json, .md and .png
    python benchmarks/gpu_day.py --quick      # small sizes, under 50 s; writes nothing
    python benchmarks/gpu_day.py --report benchmarks/results/gpu/DEVICE.json    # table and picture of a file that came back

Needs torch 2.11 or later, triton, numpy and pydantic alone: machines that are lent often have no more, and no network. Steps
run one after the other, each in a process of its own that is ended when its time is up; what it has found by then is kept, and
the file is written anew after each step. Without a GPU the sizes are tiny, and Triton's interpreter computes: that proves that
the program works, and nothing else. Sizes are those of gpu_day_steps.py.
"""

import argparse
import json
import os
import re
import selectors
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.claims import claim  # noqa: E402
from benchmarks.gpu_day_report import picture, table  # noqa: E402
from benchmarks.machine import processor  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "gpu"
SANITIZERS = ("compute-sanitizer", "/usr/local/cuda/bin/compute-sanitizer")


@dataclass(frozen=True)
class Step:
    name: str
    seconds: float
    """After which it is ended: 580 s in all."""


STEPS = (
    Step("machine", 30),
    Step("kernels", 90),
    Step("sanitizer", 80),
    Step("waits", 50),
    Step("bank", 100),
    Step("sparse bank", 40),
    Step("models", 80),
    Step("histories", 50),
    Step("compiled", 60),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small sizes, under 50 s; writes nothing")
    parser.add_argument("--report", type=Path, help="write table and picture of this file alone")
    parser.add_argument("--steps", nargs="+", choices=[s.name for s in STEPS], help="these alone; writes nothing")
    parser.add_argument("--results", type=Path, help="folder of the results, also of a quick run")
    chosen = parser.parse_args()
    if chosen.report is not None:
        written(chosen.report, json.loads(chosen.report.read_text()))
        return
    import torch

    on_gpu = torch.cuda.is_available()
    name = torch.cuda.get_device_name() if on_gpu else processor()
    folder = chosen.results or (RESULTS if on_gpu and not chosen.quick and not chosen.steps else None)
    found: dict[str, Any] = {
        "device": name,
        "gpu": on_gpu,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "python": ".".join(map(str, sys.version_info[:3])),
        "quick": chosen.quick,
        "steps": {},
    }
    print(f"{name}, torch {torch.__version__}", flush=True)
    for step in STEPS:
        if chosen.steps and step.name not in chosen.steps:
            continue
        began = time.perf_counter()
        found["steps"][step.name] = taken(step, on_gpu, chosen.quick)
        found["steps"][step.name]["seconds"] = round(time.perf_counter() - began, 1)
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            written(folder / f"{re.sub(r'[^A-Za-z0-9]+', '_', name).strip('_')}.json", found)
    print("\n".join(claims(found)))


def taken(step: Step, on_gpu: bool, quick: bool) -> dict[str, Any]:
    """{"items": what the step's process found, "ended": why it found no more, where it did not come to its end}."""
    program = [sys.executable, "-W", "ignore", str(Path(__file__).parent / "gpu_day_steps.py")]
    small = ["--quick"] if quick or not on_gpu else []
    if not on_gpu:  # nobody pays for the minutes of a busy CPU
        step = replace(step, seconds=4 * step.seconds)
    if step.name == "sanitizer":
        sanitizer = next(filter(None, map(shutil.which, SANITIZERS)), None)
        if not on_gpu or sanitizer is None:
            reason = "no compute-sanitizer here" if on_gpu else "without a GPU there is nothing to watch"
            print(f"sanitizer: left out: {reason}", flush=True)
            return {"items": {}, "ended": reason}
        options = ["--tool", "memcheck", "--error-exitcode", "9"]
        return run_step(step, [sanitizer, *options, *program, "kernels", "--quick"], on_gpu)
    return run_step(step, [*program, step.name, *small], on_gpu)


def run_step(step: Step, command: Sequence[str], on_gpu: bool) -> dict[str, Any]:
    before = os.environ.get("PYTHONPATH")
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join([str(ROOT), *([before] if before else [])]))
    if not on_gpu:
        environment |= {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    items: dict[str, Any] = {}
    others: list[str] = []
    deadline, ended = time.monotonic() + step.seconds, ""
    for line in lines_until(process, deadline):
        if line.startswith('{"item"'):
            values = json.loads(line)
            items[values.pop("item")] = values
            print(f"{step.name}: {line.strip()}", flush=True)
        elif line.strip():
            others.append(line.rstrip())
    if time.monotonic() >= deadline:
        ended = f"not done after {step.seconds:g} s"
    process.kill()
    code = process.wait()
    if not ended and code:
        ended = f"exit code {code}: {' | '.join(others[-8:])[-1500:]}"
    if ended:
        print(f"{step.name}: {ended}", flush=True)
    return {"items": items, "ended": ended} if ended else {"items": items}


def lines_until(process: subprocess.Popen, deadline: float):
    """The lines of a process's output, until it ends or the time is up."""
    output = process.stdout
    assert output is not None
    os.set_blocking(output.fileno(), False)
    waiting, text = selectors.DefaultSelector(), b""
    waiting.register(output, selectors.EVENT_READ)
    while (left := deadline - time.monotonic()) > 0:
        if not waiting.select(left):
            break
        read = os.read(output.fileno(), 65536)
        if not read:
            break
        text += read
        *whole, text = text.split(b"\n")
        yield from (line.decode(errors="replace") for line in whole)
    if text:
        yield text.decode(errors="replace")


def claims(found: dict[str, Any]) -> list[str]:
    """Of a GPU alone, at the sizes of a whole run: nothing on a CPU says how fast a GPU is."""
    if not found["gpu"] or found["quick"]:
        return []
    bank = found["steps"].get("bank", {}).get("items", {}).get("large, 24 experts, bf16", {})
    models = found["steps"].get("models", {}).get("items", {})
    lines = []
    if bank.get("products") and bank.get("home_dist"):
        lines.append(claim("bank in bf16, share of its products", bank["products"] / bank["home_dist"], 0.75))
    if bank.get("loop") and bank.get("home_dist"):
        lines.append(claim("bank in bf16, times the speed of module loops", bank["loop"] / bank["home_dist"], 3))
    own, plain = models.get("home, bf16", {}), models.get("home of plain modules, compiled, bf16", {})
    if own.get("samples_per_s") and plain.get("samples_per_s"):
        best = max(own["samples_per_s"], own.get("with_graph", {}).get("samples_per_s", 0))
        lines.append(claim("HoME in bf16, times torch.compile of plain modules", best / plain["samples_per_s"], 2))
    return lines


def written(path: Path, found: dict[str, Any]) -> None:
    path.write_text(json.dumps(found, indent=1) + "\n")
    path.with_suffix(".md").write_text(table(found))
    picture(found, path.with_suffix(".png"))


if __name__ == "__main__":
    main()
