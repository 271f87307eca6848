"""How a training step grows: with rows per table, tasks, batch, features and the length of histories. And what used to grow
with a run's size until the run stopped, before and after (benchmarks/growth_walls.py).

    python benchmarks/growth.py                 # some half an hour, up to 20 GB of memory
    python benchmarks/growth.py --missing       # only points that the stored results lack; the others stay as they are
    python benchmarks/growth.py --quick         # two points of one axis, small walls, under 50 s; writes nothing
    python benchmarks/growth.py --part steps    # without the walls

Each point is `home-dist bench` of HoME on generated logs, one process: 32 features of width 16 in tables of 100,000 rows, 8
tasks in two groups, batch 2048, no history, and one of these changed. Tables are sharded and updated by FBGEMM's row-wise
Adagrad. The limit that is drawn in is what the step cannot go below on this machine: its matrix products at the speed of a
large one, or the bytes that it must move at the speed of a copy, whichever takes longer (home_dist/speed/measure.py).

A point for which the machine has not enough memory is refused by home-dist; the table tells its message. Each point keeps the
machine, and the load average before, of the run that measured it. Points measured beside other work are hollow in the picture,
and no claim compares them with calm ones.
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
import pyarrow as pa
import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
mpl.use("agg")

from matplotlib import pyplot as plt  # noqa: E402

from benchmarks.claims import claim  # noqa: E402
from benchmarks.id_log import GROUP, describe, power_law, rare_labels  # noqa: E402
from benchmarks.machine import processor, vectors  # noqa: E402
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
    precision: str = "fp32"
    """Of the tables' weights."""
    encoder: str = "din"
    """Of the history."""


@dataclass(frozen=True)
class Axis:
    field: str
    """Of Point, which changes."""
    title: str
    """What changes, with its unit."""
    points: list[Point]
    label: str = ""
    """Tells axes of the same field from each other."""

    def values(self, points: list[dict[str, Any]]) -> list[int]:
        return [p[self.field] for p in points]


BASE = Point()
FITTING = 7 * 10**8
"""Rows that this machine has memory for, beside other work."""
SHORT = Point(features=8, batch=64)
LONG = [replace(SHORT, batch=16, history=n, encoder="twin") for n in (100, 1000, 10_000, 100_000)]
ROWS, EVENTS = "rows of each table (width 8)", "events of a history"
AXES: dict[str, Axis] = {
    "rows": Axis("rows", ROWS, [Point(rows=10**n, features=2, dim=8) for n in range(4, 9)], "2 tables"),
    "rows, fp16": Axis(
        "rows", ROWS, [Point(rows=n, features=1, dim=8, precision="fp16") for n in (10**7, 10**8, FITTING, 10**9)], "1 of fp16"
    ),
    "tasks": Axis("tasks", "tasks", [replace(BASE, tasks=n) for n in (2, 4, 8, 16, 32, 48, 96)]),
    "batch": Axis("batch", "batch", [replace(BASE, batch=n) for n in (256, 1024, 4096, 16384)]),
    "features": Axis("features", "features", [replace(BASE, features=n) for n in (8, 32, 100, 200, 400)]),
    "history": Axis("history", EVENTS, [replace(SHORT, history=n) for n in (10, 100, 1000, 10_000)], "DIN, batch 64"),
    "history, TWIN": Axis("history", EVENTS, LONG, "TWIN, batch 16"),
    "history, SIM": Axis("history", EVENTS, [replace(p, encoder="sim") for p in LONG], "SIM, batch 16"),
}
QUICK = {"tasks": replace(AXES["tasks"], points=[AXES["tasks"].points[i] for i in (0, 2)])}


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
        f'embedding = {{ dim = {point.dim}, replicate_rows = 0, precision = "{point.precision}" }}',
        f"train = {{ batch_size = {point.batch} }}",
        'model = { kind = "home", expert_hidden = [256], expert_dim = 128 }',
        "insight = { every_steps = 0 }",
        f'sequence = [{{ name = "watched", kind = "{point.encoder}" }}]' if point.history else "",
    ]
    (folder / "run.toml").write_text("\n".join(config) + "\n")
    return folder / "run.toml"


def measure(point: Point, steps: int, warm_up: int) -> dict[str, Any]:
    """Figures of a step, or `refused`: the message of home-dist when tables do not fit into memory."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        # Logs of long histories are read more than once.
        config = write(folder / "log", point, 4 if point.history > 100 else min(12, warm_up + steps))
        out = folder / "bench.json"
        command = [*SINGLE, "bench", config, "--out", out, "--traced", "1", "--steps", str(steps), "--warm-up", str(warm_up)]
        try:
            output_of(command, timeout=1800)
        except SystemExit as failure:
            _, refusal, message = str(failure).partition("no plan fits")
            if not refusal:
                raise
            return {"refused": (refusal + message).strip()}
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


def measured(points: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [p for p in points if "seconds" in p]


def busy(point: dict[str, Any]) -> bool:
    """Whether other work was running when its run began."""
    return point.get("load_before", 0.0) >= 1


def comparable(points: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The calm ones; all, if none is."""
    return [p for p in points if not busy(p)] or points


def picture(result: dict[str, list[dict[str, Any]]], path: Path) -> None:
    fields = list(dict.fromkeys(AXES[name].field for name in result))
    figure, panels = plt.subplots(2, len(fields), figsize=(3.8 * len(fields), 6.4), layout="constrained", squeeze=False)
    for column, field in enumerate(fields):
        above, below = panels[0][column], panels[1][column]
        ticks: set[int] = set()
        for n, (name, axis) in enumerate((name, AXES[name]) for name in result if AXES[name].field == field):
            points, color = measured(result[name]), f"C{n}"
            x = axis.values(points)
            ticks.update(x)
            fill = {"color": color, "markerfacecolor": "white", "linestyle": "none"}
            above.loglog(x, [p["seconds"] * 1e3 for p in points], "o-", color=color, label=axis.label or "measured")
            above.loglog(
                x, [p["limit_seconds"] * 1e3 for p in points], "--", color=color, alpha=0.5, label="limit of the machine"
            )
            below.loglog(x, [p["peak_memory_bytes"] / 1e6 for p in points], "s-", color=color)
            beside = [p for p in points if busy(p)]
            above.loglog(axis.values(beside), [p["seconds"] * 1e3 for p in beside], marker="o", **fill)
        below.set_xlabel(AXES[next(name for name in result if AXES[name].field == field)].title)
        above.legend(fontsize=7)
        if not column:
            above.set_ylabel("step, ms")
            below.set_ylabel("peak memory, MB")
        for part in (above, below):
            part.grid(True, which="both", alpha=0.2)
            part.set_xticks(sorted(ticks), [tick(n) for n in sorted(ticks)], rotation=45)
            part.tick_params(axis="x", which="minor", bottom=False, labelbottom=False)
    figure.savefig(path, dpi=110)


def tick(number: int) -> str:
    """Numbers from 10^5 on as powers of ten, those between as nothing."""
    if number < 10**5:
        return f"{number:,}"
    exponent = round(math.log10(number))
    return f"$10^{{{exponent}}}$" if number == 10**exponent else ""


def table(result: dict[str, list[dict[str, Any]]], cores: int) -> str:
    lines = [f"HoME, {cores} cores, one process.", ""]
    lines += [
        "| | | step, ms | limit, ms | samples/s | peak MB | launches | load before |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, points in result.items():
        axis = AXES[name]
        title = f"{axis.title}, {axis.label}" if axis.label else axis.title
        for p in points:
            if "refused" in p:
                lines.append(f"| {title} | {p[axis.field]:,} | refused | | | | | |")
                continue
            load = f"{p['load_before']:.1f}" if "load_before" in p else ""
            lines.append(
                f"| {title} | {p[axis.field]:,} | {p['seconds'] * 1e3:,.1f} | {p['limit_seconds'] * 1e3:,.1f} "
                f"| {p['samples_per_second']:,.0f} | {p['peak_memory_bytes'] / 1e6:,.0f} | {p['launches']:,.0f} | {load} |"
            )
    where: dict[str, list[str]] = {}
    for name, points in result.items():
        for p in points:
            where.setdefault(p.get("machine", "Measured before machines were told"), []).append(
                f"{name} {p[AXES[name].field]:,}"
            )
    for machine, names in where.items():
        lines += ["", f"{machine}: {'; '.join(names)}."]
    for name, points in result.items():
        for p in points:
            if "refused" in p:
                lines += ["", f"{name} {p[AXES[name].field]:,}:", "", "```", p["refused"], "```"]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two points of one axis, small walls, under 50 s; writes nothing")
    parser.add_argument("--part", choices=("all", "steps", "walls"), default="all")
    parser.add_argument("--steps", type=int, default=8, help="timed steps of each point")
    parser.add_argument("--missing", action="store_true", help="only points that the stored results lack; no walls")
    options = parser.parse_args()
    claims = steps(options.quick, options.steps, options.missing) if options.part != "walls" else []
    if options.part != "steps" and not options.missing:
        walls = [sys.executable, ROOT / "benchmarks" / "growth_walls.py", *(["--quick"] if options.quick else [])]
        print(output_of(walls), end="")
    for line in claims:
        print(line)


def steps(quick: bool, timed: int, missing: bool) -> list[str]:
    """Measures steps; returns the claims. timed: steps of each point; missing: keeps the stored points, measures the others."""
    stored = RESULTS / "growth.json"
    known = json.loads(stored.read_text())["points"] if missing and stored.is_file() else {}
    cores, load = len(os.sched_getaffinity(0)), os.getloadavg()[0]
    result: dict[str, list[dict[str, Any]]] = {}
    for name, axis in (QUICK if quick else AXES).items():
        kept = {p[axis.field]: p for p in known.get(name, [])}
        for point in axis.points:
            value = getattr(point, axis.field)
            if value not in kept:
                found = measure(point, 3 if quick else timed, 2)
                about = {"machine": f"{cores} cores, {processor()}{vectors()}", "load_before": load}
                kept[value] = {axis.field: value, **found, **about}
                told = f"{found['seconds'] * 1e3:,.1f} ms" if "seconds" in found else f"refused\n{found['refused']}"
                print(f"{name} {value:,}: {told}", flush=True)
            result.setdefault(name, []).append(kept[value])
        if not quick:
            keep(stored, cores, known | result)
    text = table(result, cores)
    print(text)
    if not quick:
        keep(stored, cores, result)
        stored.with_suffix(".md").write_text(text + "\n")
        picture(result, stored.with_suffix(".png"))
    claims = []
    for name, points in result.items():
        field, ends = AXES[name].field, comparable(measured(points))
        if len(ends) < 2:
            continue
        first, last = ends[0], ends[-1]
        grown = last["seconds"] / first["seconds"] / (last[field] / first[field])
        # Rows must not cost at all; everything else no more than in proportion.
        goal = 2 * first[field] / last[field] if field == "rows" else 1.0
        claims.append(
            claim(
                f"growth of a step over that of its {name}, to {last[field]:,}",
                grown,
                goal,
                at_most=True,
                form=".3g",
                goal_form=".3g",
            )
        )
    return claims


def keep(stored: Path, cores: int, points: dict[str, list[dict[str, Any]]]) -> None:
    stored.parent.mkdir(exist_ok=True)
    stored.write_text(json.dumps({"cores": cores, "points": points}, indent=1) + "\n")


if __name__ == "__main__":
    main()
