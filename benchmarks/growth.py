"""How a training step grows: with rows per table, tasks, batch, features and the length of histories. And what used to grow
with a run's size until the run stopped, before and after (benchmarks/growth_walls.py).

    python benchmarks/growth.py                 # some fifteen minutes
    python benchmarks/growth.py --quick         # two points of one axis, small walls, under 50 s; writes nothing
    python benchmarks/growth.py --part steps    # without the walls

Each point is `home-dist bench` of HoME on generated logs, one process: 32 features of width 16 in tables of 100,000 rows, 8
tasks in two groups, batch 2048, no history, and one of these changed. Tables are sharded and updated by FBGEMM's row-wise
Adagrad. The limit that is drawn in is what the step cannot go below on this machine: its matrix products at the speed of a
large one, or the bytes that it must move at the speed of a copy, whichever takes longer (home_dist/speed/measure.py).
"""

import argparse
import json
import math
import os
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
mpl.use("agg")

from matplotlib import pyplot as plt  # noqa: E402

from benchmarks.claims import claim  # noqa: E402
from benchmarks.id_log import GROUP, describe, power_law, rare_labels  # noqa: E402
from benchmarks.sample_run import SINGLE, output_of  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"


@dataclass(frozen=True)
class Point:
    rows: int = 100_000
    """Of each table."""
    tasks: int = 8
    batch: int = 2048
    features: int = 32
    history: int = 0
    """Events of each sample; 0: none."""
    dim: int = 16


BASE = Point()
AXES: dict[str, list[Point]] = {
    "rows": [Point(rows=10**n, features=2, dim=8) for n in range(4, 9)],
    "tasks": [replace(BASE, tasks=n) for n in (2, 4, 8, 16, 32, 48)],
    "batch": [replace(BASE, batch=n) for n in (256, 1024, 4096, 16384)],
    "features": [replace(BASE, features=n) for n in (8, 32, 100, 200)],
    "history": [Point(features=8, batch=64, history=n) for n in (10, 100, 1000, 10_000)],
}
TITLES = {
    "rows": "rows of each of 2 tables (width 8)",
    "tasks": "tasks",
    "batch": "batch",
    "features": "features",
    "history": "events of a history (DIN, batch 64)",
}
QUICK = {"tasks": [AXES["tasks"][0], AXES["tasks"][2]]}


def write(folder: Path, point: Point, steps: int) -> Path:
    """A log for so many steps; returns the configuration."""
    random, samples = np.random.default_rng(0), point.batch * steps
    features = {f"id_{i}": point.rows for i in range(point.features)}
    tasks = {f"task_{i}": "ab"[i % 2] for i in range(point.tasks)}
    columns: dict[str, Any] = {name: power_law(random, rows, samples) for name, rows in features.items()}
    columns |= rare_labels(random, list(tasks), samples)
    columns[GROUP] = columns["id_0"]
    more = {}
    if point.history:
        offsets = np.arange(samples + 1, dtype=np.int32) * point.history
        columns["watched"] = pa.ListArray.from_arrays(offsets, power_law(random, point.rows, samples * point.history))
        more["sequence"] = [{"name": "watched", "events": [{"column": "watched", "table": "id_0", "target": "id_0"}]}]
    (folder / "train").mkdir(parents=True)
    pq.write_table(pa.table(columns), folder / "train" / "part-0.parquet", row_group_size=max(256, point.batch))
    describe(folder, features, tasks, more)
    config = [
        f'run = {{ dir = "{folder}/run" }}',
        f'data = {{ path = "{folder}", validation = "", test = "", window_rows = {4 * point.batch} }}',
        f"embedding = {{ dim = {point.dim}, replicate_rows = 0 }}",
        f"train = {{ batch_size = {point.batch} }}",
        'model = { kind = "home", expert_hidden = [256], expert_dim = 128 }',
        "insight = { every_steps = 0 }",
        'sequence = [{ name = "watched", kind = "din" }]' if point.history else "",
    ]
    (folder / "run.toml").write_text("\n".join(config) + "\n")
    return folder / "run.toml"


def measure(point: Point, steps: int, warm_up: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        # Logs of long histories are read more than once.
        config = write(folder / "log", point, 4 if point.history > 100 else min(12, warm_up + steps))
        out = folder / "bench.json"
        command = [*SINGLE, "bench", config, "--json", out, "--traced", "1", "--steps", str(steps), "--warm-up", str(warm_up)]
        output_of(command, timeout=900)
        found = json.loads(out.read_text())
    mean = found["step_seconds"]["mean"]
    products = found["flops_per_sample"] * point.batch / found["limits"]["products_flops"]
    return {
        "seconds": found["step_seconds"]["p50"],
        "limit_seconds": max(products, found["used"]["memory"] * mean),
        "peak_memory_bytes": found["peak_memory_bytes"],
        "launches": found["launches_per_step"],
        "samples_per_second": found["samples_per_second"],
    }


def picture(result: dict[str, list[dict[str, float]]], path: Path) -> None:
    figure, axes = plt.subplots(2, len(result), figsize=(3.6 * len(result), 6), layout="constrained")
    for column, (name, points) in enumerate(result.items()):
        x = [p[name] for p in points]
        above, below = axes[0][column], axes[1][column]
        above.loglog(x, [p["seconds"] * 1e3 for p in points], "o-", label="measured")
        above.loglog(x, [p["limit_seconds"] * 1e3 for p in points], "--", color="gray", label="limit of the machine")
        below.loglog(x, [p["peak_memory_bytes"] / 1e6 for p in points], "s-", color="tab:orange")
        below.set_xlabel(TITLES[name])
        if not column:
            above.set_ylabel("step, ms")
            below.set_ylabel("peak memory, MB")
            above.legend()
        for part in (above, below):
            part.grid(True, which="both", alpha=0.2)
            part.set_xticks(x, [f"{n:,}" if n < 10**5 else f"$10^{round(math.log10(n))}$" for n in x], rotation=30)
            part.tick_params(axis="x", which="minor", bottom=False, labelbottom=False)
    figure.savefig(path, dpi=110)


def table(result: dict[str, list[dict[str, float]]], cores: int) -> str:
    lines = [f"HoME, {cores} cores, one process.", ""]
    lines += ["| | | step, ms | limit, ms | samples/s | peak MB | launches |", "|---|---|---|---|---|---|---|"]
    for name, points in result.items():
        for p in points:
            lines.append(
                f"| {TITLES[name]} | {p[name]:,} | {p['seconds'] * 1e3:,.1f} | {p['limit_seconds'] * 1e3:,.1f} "
                f"| {p['samples_per_second']:,.0f} | {p['peak_memory_bytes'] / 1e6:,.0f} | {p['launches']:,.0f} |"
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two points of one axis, small walls, under 50 s; writes nothing")
    parser.add_argument("--part", choices=("all", "steps", "walls"), default="all")
    parser.add_argument("--steps", type=int, default=8, help="timed steps of each point")
    options = parser.parse_args()
    claims = steps(options.quick, options.steps) if options.part != "walls" else []
    if options.part != "steps":
        walls = [sys.executable, ROOT / "benchmarks" / "growth_walls.py", *(["--quick"] if options.quick else [])]
        print(output_of(walls), end="")
    for line in claims:
        print(line)


def steps(quick: bool, timed: int) -> list[str]:
    """Measures steps; returns the claims. timed: steps of each point."""
    result: dict[str, list[dict[str, float]]] = {}
    for name, points in (QUICK if quick else AXES).items():
        for point in points:
            # Weights and one number per row of state, and as much again while they are filled.
            if point.rows * point.features * point.dim * 4 * 1.4 > psutil.virtual_memory().available:
                print(f"{name} {getattr(point, name):,}: left out, it does not fit into memory", flush=True)
                continue
            found = measure(point, 3 if quick else timed, 2)
            result.setdefault(name, []).append({name: getattr(point, name), **found})
            print(f"{name} {getattr(point, name):,}: {found['seconds'] * 1e3:,.1f} ms", flush=True)
    cores = len(os.sched_getaffinity(0))
    text = table(result, cores)
    print(text)
    if not quick:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "growth.json").write_text(json.dumps({"cores": cores, "points": result}, indent=1) + "\n")
        (RESULTS / "growth.md").write_text(text + "\n")
        picture(result, RESULTS / "growth.png")
    claims = []
    for name, points in result.items():
        first, last = points[0], points[-1]
        grown = last["seconds"] / first["seconds"] / (last[name] / first[name])
        # Rows must not cost at all; everything else no more than in proportion.
        goal = 2 * first[name] / last[name] if name == "rows" else 1.0
        claims.append(
            claim(f"growth of a step over that of its {name}", grown, goal, at_most=True, form=".3g", goal_form=".3g")
        )
    return claims


if __name__ == "__main__":
    main()
