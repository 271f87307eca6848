"""Measures all stored results anew, one script after the other, with the tables and pictures that are made from them.

    python benchmarks/figures.py                   # everything, several hours; `make figures`
    python benchmarks/figures.py beside sequence   # these alone
    python benchmarks/figures.py --quick           # one script's --quick, under 50 s; writes nothing

Run it on a machine that does nothing else. A script that fails does not stop the others: its stored result stays, and the end
of what it said is told last. Each result holds the machine, its load and the day ("measured_on"). Scripts that need more than
this checkout are started by hand: peers.py (checkouts of other projects) and daily.py (the raw sample).
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BENCHMARKS = ROOT / "benchmarks"
SCRIPTS = (
    "gpu_kernels",
    "start",
    "sequence",
    "expert_bank",
    "sparse_bank",
    "beside",
    "insight",
    "metrics",
    "reader",
    "pipelines",
    "large_keys",
    "checkpoints",
    "serving",
    "once_per_request",
    "scaling",
    "rehearsal",
    "growth",
    "growth_walls",
    "faults",
    "time_to_quality",
    "watch_time",
    "recipe",
    "quality",
    "family",
    "ladder",
)
"""By duration, the shortest first."""
QUICK = "sparse_bank"
_LINES = 20  # of what a failed script said


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK}.py --quick; writes nothing")
    parser.add_argument("scripts", nargs="*", metavar="SCRIPT", help=f"of {', '.join(SCRIPTS)}")
    options = parser.parse_args()
    unknown = sorted({*options.scripts} - {*SCRIPTS})
    if unknown:
        parser.error(f"no such script: {', '.join(unknown)}. There are {', '.join(SCRIPTS)}.")
    wanted = [QUICK] if options.quick else [s for s in SCRIPTS if s in options.scripts or not options.scripts]
    claims, failed = list[tuple[str, str]](), list[str]()
    for number, name in enumerate(wanted):
        print(f"{number + 1}/{len(wanted)} {name}.py", flush=True)
        began = time.perf_counter()
        code, said = run(name, ["--quick"] if options.quick else [])
        claims += [(name, line.removeprefix("claim: ")) for line in said if line.startswith("claim: ")]
        print(f"    {(time.perf_counter() - began) / 60:.1f} minutes{f', failed with {code}' if code else ''}", flush=True)
        if code:
            failed.append(f"{name}.py failed with {code}:\n" + "\n".join(f"    {line}" for line in said[-_LINES:]))
    for name, text in claims:
        print(f"claim: {name}: {text}")
    sys.exit("\n".join(failed) if failed else None)


def run(name: str, arguments: list[str]) -> tuple[int, list[str]]:
    """A script's exit code, and the lines that it said, which are shown as they come."""
    command = [sys.executable, str(BENCHMARKS / f"{name}.py"), *arguments]
    said = []
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        for line in process.stdout or ():
            said.append(line.rstrip())
            print(f"    {said[-1]}", flush=True)
    return process.returncode, said


if __name__ == "__main__":
    main()
