"""Seconds watched on the sample: four ways to learn them beside the eight yes or no tasks, against trees and a mean by
duration.

    python benchmarks/watch_time.py            # three seeds: results/watch_time.json, .md and .png
    python benchmarks/watch_time.py --quick    # few steps and trees, under 50 s; its figures tell that the parts work

Each kind is HoME by configs/kuairand_watch_time.toml with another [objective.watch_seconds]; a regression is tried with three
losses first, and the one with the lowest error on the validation days is taken. "Without" is the same run on the eight tasks
alone: what the ninth costs or gives them. Baselines: LightGBM of the mean (squared error) and of the median (absolute error),
on the same features, rounds chosen on the validation days; mean and median watch time of the training rows of like duration.
All figures are of the two test days.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import lightgbm
import matplotlib as mpl
import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
mpl.use("agg")

from matplotlib import pyplot as plt  # noqa: E402

from benchmarks import quality_baselines as baselines  # noqa: E402
from benchmarks.claims import claim  # noqa: E402
from benchmarks.machine import write_result  # noqa: E402
from benchmarks.sample_run import SINGLE, output_of, set_options  # noqa: E402
from home_dist.insight.kept_scores import kept_scores, of_family  # noqa: E402
from home_dist.metrics import bootstrap, evaluate_number, mean_bootstrap, paired_test  # noqa: E402
from home_dist.schema import load_schema  # noqa: E402

CONFIG, DATA = ROOT / "configs" / "kuairand_watch_time.toml", ROOT / "examples" / "kuairand_pure"
TASK = "watch_seconds"
REGRESSIONS = {
    "squared": "{kind='regression'}",
    "huber of log": "{kind='regression', loss='huber', transform='log1p'}",
    "median": "{kind='regression', loss='quantile', quantile=0.5}",
}
KINDS = {
    "duration_quantile": "{kind='duration_quantile'}",
    "weighted_logistic": "{kind='weighted_logistic'}",
    "ordinal": "{kind='ordinal'}",
}
METRICS = ("mae", "rmse", "xauc", "user_xauc", "calibration")
LABELS = {"mae": "MAE, s", "rmse": "RMSE, s", "xauc": "XAUC", "user_xauc": "XAUC per user", "calibration": "calibration"}
Figures = dict[str, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "watch_time", help="folder of the runs")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        runs = Path(scratch) if chosen.quick else chosen.runs
        result = measured(runs, 1 if chosen.quick else chosen.seeds, chosen.quick)
    text = table(result)
    print(text)
    if not chosen.quick:
        write_result(chosen.out / "watch_time.json", result)
        (chosen.out / "watch_time.md").write_text(text + "\n")
        picture(result, chosen.out / "watch_time.png")
    for line in claims(result):
        print(line)


def measured(runs: Path, seeds: int, quick: bool) -> dict[str, Any]:
    systems: dict[str, list[Figures]] = {name: [figures] for name, figures in baseline_figures(quick).items()}
    losses = {"squared": REGRESSIONS["squared"]} if quick else REGRESSIONS
    tried = {name: train(runs / name.replace(" ", "_"), 0, section, quick) for name, section in losses.items()}
    errors = {name: of_task(run, "validation")["mae"] for name, run in tried.items()}
    regression = min(errors, key=errors.__getitem__)
    folders: dict[str, list[Path]] = {}
    kinds = {"regression": (regression.replace(" ", "_"), REGRESSIONS[regression]), **{k: (k, v) for k, v in KINDS.items()}}
    if quick:
        kinds = {"regression": kinds["regression"]}
    for name, (folder, section) in kinds.items():
        # A run that is complete is not trained again.
        folders[name] = [train(runs / folder, seed, section, quick) for seed in range(seeds)]
        systems[f"HoME, {name}"] = [of_task(run, "test") for run in folders[name]]
    without = [train(runs / "without", seed, None, quick) for seed in range(seeds)]
    return {
        "systems": systems,
        "validation": {name: [of_task(run, "validation") for run in of_kind] for name, of_kind in folders.items()},
        "regressions": {
            name: {"validation": of_task(r, "validation"), "test": of_task(r, "test")} for name, r in tried.items()
        },
        "regression": regression,
        "others": {name: others(with_it, without, 50 if quick else 1000) for name, with_it in folders.items()},
        "seeds": seeds,
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        "quick": quick,
    }


def train(folder: Path, seed: int, section: str | None, quick: bool) -> Path:
    """Trains, or finds the finished run. section: of the objective; None leaves the task out."""
    run = folder / f"seed-{seed}"
    settings = [f"run.dir={run}", f"train.seed={seed}", "insight.every_steps=0", "log.tensorboard=false"]
    settings += ["train.max_steps=10"] if quick else []
    if section is None:
        binary = [t.name for t in load_schema(DATA / "schema.toml").task if t.kind == "binary"]
        settings += [f"data.tasks={binary}"]
    else:
        settings += [f"objective.{TASK}={section}"]
    output_of([*SINGLE, "train", CONFIG, *set_options(settings)])
    print(f"trained {folder.name}, seed {seed}", flush=True)
    return run


def of_task(run: Path, split: str) -> Figures:
    entry = json.loads((run / "evaluation.json").read_text())[split][TASK]
    return {name: entry[name] for name in METRICS}


def others(with_it: list[Path], without: list[Path], resamples: int) -> dict[str, float]:
    """Mean AUC of the eight tasks with the watch time minus without it, over seeds, with an interval over users."""
    drawn = []
    for one, two in zip(with_it, without, strict=True):
        both = []
        for run in (one, two):
            kept = kept_scores(run, "test")
            if kept is None:
                sys.exit(f"{run}: kept no scores")
            names = list(json.loads((run / "evaluation.json").read_text())["test"])
            both.append(bootstrap(*of_family(kept, names, "binary"), kept["groups"], resamples)[0])
        drawn.append(both)
    test = paired_test(*(mean_bootstrap([both[side] for both in drawn]) for side in (0, 1)))
    means = [mean_bootstrap([both[side] for both in drawn]).interval().estimate for side in (0, 1)]
    interval = test.interval
    return {"with": means[0], "without": means[1], "difference": interval.estimate, "low": interval.low, "high": interval.high}


def baseline_figures(quick: bool) -> dict[str, Figures]:
    schema = load_schema(DATA / "schema.toml").only([TASK])
    [task] = schema.task
    parts = [baselines.load(DATA / split, schema) for split in ("train", "validation", "test")]
    durations = [pq.read_table(DATA / s, columns=[task.duration])[0].to_numpy(zero_copy_only=False) for s in ("train", "test")]
    train, _, test = parts
    known, y = train.weights[:, 0] > 0, train.labels[:, 0].astype(np.float64)
    facts = task.values
    if facts is None:
        sys.exit(f"{DATA}: no facts of {TASK}")
    group = [np.searchsorted(facts.duration_boundaries, np.nan_to_num(d), side="right") for d in durations]
    predictions: dict[str, NDArray[np.float64]] = {}
    for name, middle in (("mean by duration", np.mean), ("median by duration", np.median)):
        by_group = np.array([middle(y[known & (group[0] == g)]) for g in range(len(facts.duration_boundaries) + 1)])
        predictions[name] = by_group[group[1]]
    for name, objective in (("LightGBM, mean", "regression"), ("LightGBM, median", "regression_l1")):
        predictions[name] = trees(schema, *parts, objective, durations, 5 if quick else 500)
    weights = test.weights[:, 0]
    return {
        name: {m: getattr(evaluate_number(TASK, test.labels[:, 0], weights, p, test.users), m) for m in METRICS}
        for name, p in predictions.items()
    }


def trees(
    schema: Any,
    train: baselines.Part,
    validation: baselines.Part,
    test: baselines.Part,
    objective: str,
    durations: list[NDArray[np.float64]],
    rounds: int,
) -> NDArray[np.float64]:
    settings = {
        "objective": objective, "learning_rate": 0.05, "num_leaves": 63, "min_data_in_leaf": 100, "feature_fraction": 0.5,
        "bagging_fraction": 0.8, "bagging_freq": 1, "lambda_l2": 5.0, "seed": 0, "num_threads": 2, "verbose": -1,
    }  # fmt: skip
    wide, categories = baselines.wide_inputs(schema)
    x = [wide(part) for part in (train, validation, test)]
    sets = [
        lightgbm.Dataset(m, p.labels[:, 0], weight=p.weights[:, 0], categorical_feature=categories, free_raw_data=False)
        for m, p in zip(x[:2], (train, validation), strict=True)
    ]
    stop = lightgbm.early_stopping(30, verbose=False)
    model = lightgbm.train(settings, sets[0], rounds, valid_sets=[sets[1]], callbacks=[stop])
    return np.asarray(model.predict(x[2], num_iteration=model.best_iteration), np.float64)


def table(result: dict[str, Any]) -> str:
    lines = [f"| system | {' | '.join(LABELS[m] for m in METRICS)} |", "|---|" + "---|" * len(METRICS)]
    for name, seeds in result["systems"].items():
        cells = []
        for metric in METRICS:
            values = [s[metric] for s in seeds]
            spread = f" ± {statistics.stdev(values):.{_digits(metric)}f}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.{_digits(metric)}f}{spread}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += ["", "| kind | mean AUC of the eight, with | without | difference, 95 % over users |", "|---|---|---|---|"]
    for name, o in result["others"].items():
        told = f"{o['difference']:+.4f} ({o['low']:+.4f} to {o['high']:+.4f})"
        lines.append(f"| {name} | {o['with']:.4f} | {o['without']:.4f} | {told} |")
    lines += ["", "| regression, seed 0 | validation MAE | test MAE | test XAUC | calibration |", "|---|---|---|---|---|"]
    for name, r in result["regressions"].items():
        test = r["test"]
        cells = f"{r['validation']['mae']:.2f} | {test['mae']:.2f} | {test['xauc']:.4f} | {test['calibration']:.3f}"
        lines.append(f"| {name} | {cells} |")
    seeds = f"{result['seeds']} seeds, mean ± standard deviation" if result["seeds"] > 1 else "1 seed"
    return "\n".join([*lines, "", f"{seeds}; {result['machine']}."])


def _digits(metric: str) -> int:
    return 2 if metric in ("mae", "rmse") else 4 if "xauc" in metric else 3


def picture(result: dict[str, Any], path: Path) -> None:
    """Error against order: each seed a point."""
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for name, seeds in result["systems"].items():
        marker = "o" if name.startswith("HoME") else "s"
        axes.plot([s["mae"] for s in seeds], [s["xauc"] for s in seeds], marker, label=name, markersize=6, alpha=0.8)
    axes.set_xlabel("MAE, seconds (lower is better)")
    axes.set_ylabel("XAUC (higher is better)")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def claims(result: dict[str, Any]) -> list[str]:
    """The best kind against the best baseline, and the least that the other tasks lose."""
    systems = {n: {m: statistics.mean(s[m] for s in seeds) for m in METRICS} for n, seeds in result["systems"].items()}
    home = {n: f for n, f in systems.items() if n.startswith("HoME")}
    rest = {n: f for n, f in systems.items() if n not in home}
    best_xauc, best_mae = max(f["xauc"] for f in rest.values()), min(f["mae"] for f in rest.values())
    worst = min(o["difference"] for o in result["others"].values())
    return [
        claim("watch_time_xauc", max(f["xauc"] for f in home.values()), best_xauc, form=".4f", goal_form=".4f"),
        claim("watch_time_user_xauc", *_best(home, rest, "user_xauc"), form=".4f", goal_form=".4f"),
        claim("watch_time_mae", min(f["mae"] for f in home.values()), best_mae, at_most=True, goal_form=".2f"),
        claim("watch_time_others_auc_difference", worst, -0.005, form="+.4f"),
    ]


def _best(home: dict[str, Figures], rest: dict[str, Figures], metric: str) -> tuple[float, float]:
    return max(f[metric] for f in home.values()), max(f[metric] for f in rest.values())


if __name__ == "__main__":
    main()
