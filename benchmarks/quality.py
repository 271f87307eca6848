"""Does HoME order impressions better than what needs no neural network? Mean AUC and GAUC over tasks, with a rolling origin.

    python benchmarks/quality.py            # results/quality.json, results/quality.md; a look in results/quality_looks.jsonl
    python benchmarks/quality.py --quick    # one origin, few steps and trees, on its validation day, under 50 s; writes nothing

For each day t of 8 to 12 all systems learn on days 1 to t, choose on day t + 1 (rounds, penalties, HoME's number of epochs),
and are tested on day t + 2; vocabularies, boundaries and rates are fitted on days 1 to t. Test days are pooled. GAUC is within
user and day. Intervals resample users with their rows of all days; a difference takes both systems in the same draws, after
averaging seeds. The rest of HoME's recipe is the README's: learning rates were chosen on days 5 to 9 (recipe.py), before the
first test day; dropout and how many ids to keep on days 11 and 12, test days of the origins 9 and 10.

HoME is trained by the command of the README, as two ranks. What has been computed is not computed again. Each look at the test
days is logged with date and commit.
"""

import argparse
import datetime
import os
import platform
import subprocess
import sys
import tempfile
import time
import warnings
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.claims import claim  # noqa: E402
from benchmarks.machine import write_result  # noqa: E402
from benchmarks.quality_pool import (  # noqa: E402
    LOGISTIC,
    TREES,
    Effort,
    Pool,
    home_pool,
    home_tasks,
    origins_of,
    train_home,
    with_baselines,
)
from benchmarks.recipe_teachers import write_taught  # noqa: E402
from home_dist import process  # noqa: E402
from home_dist.files.json_files import append_entries  # noqa: E402
from home_dist.insight.svg import pyplot  # noqa: E402
from home_dist.metrics import Bootstrap, bootstrap, mean_bootstrap, power_of_difference  # noqa: E402
from home_dist.schema import load_schema  # noqa: E402

CONFIG, DATA = ROOT / "configs" / "kuairand_pure.toml", ROOT / "examples" / "kuairand_pure"
METRICS = ("AUC", "GAUC")
ENSEMBLE = "mean of HoME's seeds"
"""A system of its own: of each row the mean of the predictions of all seeds."""
DISTILLED = "HoME distilled from that mean"
"""One model that learned labels and the mean of the seeds' predictions, half and half."""
COMPARED = {"HoME": "home_minus", ENSEMBLE: "ensemble_minus", DISTILLED: "distilled_minus"}
"""By system: the part of a result that compares it with others."""
EFFECT = 0.005
"""Of mean GAUC: half a percent, as papers tell it."""
ROLLING, GRID = "8:12", "train.epochs=1,2,3"
QUICK = ("2:2", "train.epochs=1")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--seeds", type=int, default=3, help="of HoME")
    parser.add_argument("--tree-seeds", type=int, default=3, help="of LightGBM; 0 leaves it out")
    parser.add_argument("--distilled-seeds", type=int, default=0, help="of HoME that learns of these seeds; by default 0")
    parser.add_argument("--rolling", default=ROLLING, help=f"first and last origin; by default {ROLLING}")
    parser.add_argument("--grid", default=GRID, help=f"settings of HoME to choose from; by default {GRID}")
    parser.add_argument("--tasks", default="", help="tasks to compare, with commas between; by default all. HoME trains all")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "quality", help="folder for runs and scores")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--why", default="published figures", help="noted with the look at the test days")
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE")
    chosen = parser.parse_args()
    tasks = home_tasks(load_schema(DATA / "schema.toml"))
    wanted = chosen.tasks.split(",") if chosen.tasks else tasks
    if unknown := sorted({*wanted} - {*tasks}):
        parser.error(f"--tasks: no task {', '.join(unknown)}; there are {', '.join(tasks)}")
    if chosen.distilled_seeds and (chosen.seeds == 1 or "," in chosen.grid):
        parser.error("--distilled-seeds: teachers are several --seeds of one setting; give --grid one, and more than one seed")
    process.silence_libraries()
    if chosen.quick:
        warnings.filterwarnings("ignore", category=ConvergenceWarning)  # few iterations are what quick means
        with tempfile.TemporaryDirectory() as scratch:
            overrides = ["train.max_steps=15", *chosen.overrides]
            wanted = wanted if chosen.tasks else tasks[::3]
            result = measured(Path(scratch), *QUICK, (1, 0, 1), "validation", Effort.quick(), overrides, 50, wanted)
    else:
        seeds = (chosen.seeds, chosen.distilled_seeds, chosen.tree_seeds)
        result = measured(chosen.runs, chosen.rolling, chosen.grid, seeds, "test", Effort(), chosen.overrides, 1000, wanted)
        look(chosen.out / "quality_looks.jsonl", result, chosen.why)
    text = table(result)
    print(text)
    if not chosen.quick:
        write_result(chosen.out / "quality.json", result | {"commit": commit()})
        (chosen.out / "quality.md").write_text(text + "\n")
        power_picture(result, chosen.out / "quality_power.png")
    for line in claims(result):
        print(line)


def measured(
    runs: Path,
    rolling: str,
    grid: str,
    seeds: tuple[int, int, int],
    split: str,
    effort: Effort,
    overrides: list[str],
    draws: int,
    wanted: list[str],
) -> dict[str, Any]:
    """seeds: of HoME, of HoME that learns of them, and of LightGBM; draws: of users; wanted: tasks to compare."""
    began = time.perf_counter()
    tasks = home_tasks(load_schema(DATA / "schema.toml"))
    ranks = 2 if split == "test" else 1
    folder = train_home(CONFIG, runs, rolling, grid, seeds[0], overrides, ranks)
    print(f"HoME: {time.perf_counter() - began:.0f} s", flush=True)

    def say(text: str) -> None:
        print(f"{text}: {time.perf_counter() - began:.0f} s", flush=True)

    pool = home_pool(folder, seeds[0], split, tasks).only(wanted)
    pool = with_baselines(
        pool, runs, origins_of(rolling), {LOGISTIC: 1, **({TREES: seeds[2]} if seeds[2] else {})}, split, effort, say
    )
    needed = power(pool, draws >= 1000)
    if seeds[0] > 1:
        pool = replace(pool, scores=pool.scores | {ENSEMBLE: [np.mean(pool.scores["HoME"], axis=0)]})
    if seeds[1]:
        write_taught(runs / folder.name, seeds[0], origins_of(rolling), runs / "distilled")
        of_mean = [*overrides, "train.distillation.weight=0.5"]
        taught = train_home(CONFIG, runs / "distilled", rolling, grid, seeds[1], of_mean, ranks)
        pool = pool.beside(DISTILLED, home_pool(taught, seeds[1], split, tasks).only(wanted))
        say(DISTILLED)
    return compared(pool, draws) | {
        "power": needed,
        "rolling": rolling,
        "split": split,
        "grid": grid,
        "overrides": overrides,
        "seconds": time.perf_counter() - began,
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        "tasks": wanted,
        "resamples": draws,
    }


def compared(pool: Pool, resamples: int, level: float = 0.95) -> dict[str, Any]:
    """level: of the intervals of differences."""
    drawn: dict[str, list[tuple[Bootstrap, Bootstrap]]] = {
        name: [bootstrap(pool.tasks, pool.labels, pool.weights, s, pool.users, resamples, within=pool.days) for s in by_seed]
        for name, by_seed in pool.scores.items()
    }
    means = {name: [mean_bootstrap([b[i] for b in by_seed]) for i in range(2)] for name, by_seed in drawn.items()}
    systems: dict[str, Any] = {}
    for name, by_seed in drawn.items():
        systems[name] = {
            metric: {
                "mean": means[name][index].interval().estimate,
                "seeds": [b[index].interval().estimate for b in by_seed],
                "interval": asdict(means[name][index].interval()),
                "tasks": {t: means[name][index].interval(t).estimate for t in pool.tasks},
            }
            for index, metric in enumerate(METRICS)
        }
        systems[name]["calibration"] = {
            t: float(np.mean([(s[:, k] * pool.weights[:, k]).sum() for s in pool.scores[name]]))
            / float((pool.labels[:, k] * pool.weights[:, k]).sum())
            for k, t in enumerate(pool.tasks)
        }

    def minus(system: str, other: str) -> dict[str, Any]:
        between = [means[system][index].minus(means[other][index]) for index in range(2)]
        return {
            metric: asdict(b.interval(level=level)) | {"tasks": {t: asdict(b.interval(t, level)) for t in pool.tasks}}
            for metric, b in zip(METRICS, between, strict=True)
        }

    differences = {"home_minus": {other: minus("HoME", other) for other in drawn if other not in COMPARED}}
    for system in (ENSEMBLE, DISTILLED):
        if system in drawn:
            differences[COMPARED[system]] = {other: minus(system, other) for other in drawn if other not in (system, DISTILLED)}
    positives = {t: int(pool.labels[pool.weights[:, k] > 0, k].sum()) for k, t in enumerate(pool.tasks)}
    days = len(np.unique(pool.days))
    return {"systems": systems, "positives": positives, "rows": len(pool.users), "days": days} | differences


def power(pool: Pool, whole: bool) -> dict[str, Any]:
    """By baseline: how many impressions it would take to see HoME ahead by EFFECT of mean GAUC in four of five comparisons. Of
    the first seeds. whole: all sizes; otherwise one, of few draws."""
    found = {}
    for name, by_seed in pool.scores.items():
        if name != "HoME":
            pair = pool.scores["HoME"][0], by_seed[0]
            rows = pool.tasks, pool.labels, pool.weights, *pair, pool.users
            sizes, draws = ((0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0), 200) if whole else ((1.0,), 20)
            found[name] = asdict(power_of_difference(*rows, EFFECT, within=pool.days, times=sizes, resamples=draws))
    return found


def power_picture(result: dict[str, Any], path: Path) -> None:
    figure, axes = pyplot.subplots(figsize=(4.6, 3.0))
    for name, found in result["power"].items():
        axes.plot(found["impressions"], found["seen"], marker=".", label=f"HoME against {name}")
    axes.axhline(0.8, color="#9aa3af", linewidth=0.8)
    axes.set_xscale("log")
    axes.set_xlabel("impressions")
    axes.set_ylabel(f"share that see +{EFFECT:.1%} GAUC")
    axes.legend(fontsize=6.5)
    figure.savefig(path, format="png", dpi=120)
    pyplot.close(figure)


def table(result: dict[str, Any]) -> str:
    tasks, days = list(result["positives"]), f"{result['days']} pooled {result['split']} days"
    lines = [
        f"{result['rows']:,} impressions of {days} (origins {result['rolling']}, each row scored by models that have not",
        f"seen its day), {len(tasks)} tasks. HoME chosen from {result['grid']} at each origin. Means over seeds; 95 %",
        "intervals, users resampled.",
        "",
        *systems_table(result),
        "",
        *differences_table(result),
    ]
    for name, found in result["power"].items():
        lines += ["", f"To see HoME ahead of {name} by {EFFECT:.3f} mean GAUC in 80 % of comparisons (95 % interval above 0):"]
        lines.append(f"{found['needed']:,.0f} impressions like these, by resampling the pool.")
    for what, form in (("AUC / GAUC", None), ("sum of predictions / positives", "calibration")):
        lines += ["", "| task (positives) | " + " | ".join(f"{n}, {what}" for n in result["systems"]) + " |"]
        lines.append("|---" * (1 + len(result["systems"])) + "|")
        for task in tasks:
            cells = [
                f"{s[form][task]:.2f}" if form else f"{s['AUC']['tasks'][task]:.3f} / {s['GAUC']['tasks'][task]:.3f}"
                for s in result["systems"].values()
            ]
            lines.append(f"| {task} ({result['positives'][task]:,}) | {' | '.join(cells)} |")
    return "\n".join(lines)


def systems_table(result: dict[str, Any]) -> list[str]:
    lines = ["| system | mean AUC | interval | mean GAUC | interval | seeds |", "|---|---|---|---|---|---|"]
    for name, found in result["systems"].items():
        cells = []
        for metric in METRICS:
            interval = found[metric]["interval"]
            cells += [f"{found[metric]['mean']:.4f}", f"{interval['low']:.3f} to {interval['high']:.3f}"]
        spread = "; ".join(f"{a:.4f}/{g:.4f}" for a, g in zip(found["AUC"]["seeds"], found["GAUC"]["seeds"], strict=True))
        lines.append(f"| {name} | {' | '.join(cells)} | {spread} |")
    return lines


def differences_table(result: dict[str, Any]) -> list[str]:
    lines = []
    for system, against in COMPARED.items():
        if against in result:
            lines += ["", f"| {system} minus | AUC | interval | GAUC | interval |", "|---|---|---|---|---|"]
        for name, found in result.get(against, {}).items():
            cells = [f"{d['estimate']:+.4f} | {d['low']:+.4f} to {d['high']:+.4f}" for d in (found["AUC"], found["GAUC"])]
            lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines[1:]


def claims(result: dict[str, Any]) -> list[str]:
    """A system is ahead beyond chance where the low end of the difference's interval is above 0."""
    return [
        claim(f"{metric} of {system} minus {name}, low end of its interval", found[metric]["low"], 0.0, form="+.4f")
        for system, against in COMPARED.items()
        for name, found in result.get(against, {}).items()
        for metric in METRICS
    ]


def commit() -> str:
    """The checkout's commit, with a mark where files differ from it."""
    asked = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    ended = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True)
    return ended.stdout.strip() or "unknown"


def look(path: Path, result: dict[str, Any], why: str) -> None:
    """Appends a line that tells who looked at what of the test days, when, and what was seen."""
    seen = {name: {m: found[m]["mean"] for m in METRICS} for name, found in result["systems"].items()}
    entry = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "why": why,
        "origins": result["rolling"],
        "rows": result["rows"],
        "grid": result["grid"],
        "overrides": result["overrides"],
        "tasks": result["tasks"],
        "seen": seen,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    append_entries(path, [entry])


if __name__ == "__main__":
    main()
