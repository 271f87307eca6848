"""Training beside another busy process: README's HoME in one process with a thread per core, alone and beside a niced loop.

    python benchmarks/beside.py            # five turns of both, results/beside.json
    python benchmarks/beside.py --quick    # one turn, under 50 s; writes nothing

The loop is one process of the lowest priority that wants a core all the time. Both sides take turns; told are medians.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.claims import claim  # noqa: E402
from benchmarks.machine import write_result  # noqa: E402
from benchmarks.peers_data import SAMPLE  # noqa: E402
from benchmarks.sample_run import SINGLE, output_of, set_options  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "beside.json"
GOAL = 1.5
"""Times slower."""


@contextmanager
def busy() -> Iterator[None]:
    """A process that computes for ever, at the lowest priority."""
    process = subprocess.Popen(["nice", "-n", "19", sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def rate(steps: int, threads: int) -> float:
    """Samples/s."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "bench.json"
        config = ROOT / "configs" / "kuairand_pure.toml"
        settings = set_options([f"data.path={SAMPLE}", f"distributed.threads={threads}"])
        output_of([*SINGLE, "bench", config, "--out", out, "--traced", "1", "--steps", str(steps), *settings])
        return float(json.loads(out.read_text())["samples_per_second"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one turn of few steps; writes nothing")
    chosen = parser.parse_args()
    cores, turns, steps = len(os.sched_getaffinity(0)), 1 if chosen.quick else 5, 30 if chosen.quick else 100
    rates: dict[str, list[float]] = {"alone": [], "beside": [], "one thread alone": []}
    load = os.getloadavg()[0]
    for _ in range(turns):
        rates["alone"].append(rate(steps, cores))
        with busy():
            rates["beside"].append(rate(steps, cores))
        if not chosen.quick:
            rates["one thread alone"].append(rate(steps, 1))
    medians = {name: statistics.median(of) for name, of in rates.items() if of}
    for name, median in medians.items():
        print(f"{name:18} {median:8,.0f} samples/s ({min(rates[name]):,.0f} to {max(rates[name]):,.0f})")
    if not chosen.quick:
        write_result(RESULTS, {"load_before": load, "samples_per_second": rates})
    print(claim("beside a busy process of the lowest priority, times slower", medians["alone"] / medians["beside"], GOAL, True))


if __name__ == "__main__":
    main()
