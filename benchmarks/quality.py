"""Does HoME order impressions better than what needs no neural network? Mean test AUC and GAUC over the sample's tasks.

    python benchmarks/quality.py            # three seeds: results/quality.json, results/quality.md
    python benchmarks/quality.py --quick    # few steps and trees, under 50 s; its figures tell that the parts work

HoME is trained by the command of the README, as two ranks. All systems read the same files, split by days; what is chosen
(rounds, penalties, HoME's recipe) is chosen on the validation days. Intervals resample users; the difference to a baseline
has an interval of its own, from the same draws.
"""

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import quality_baselines as baselines  # noqa: E402
from benchmarks.claims import claim  # noqa: E402
from benchmarks.machine import write_result  # noqa: E402
from benchmarks.sample_run import set_options, torchrun  # noqa: E402
from home_dist import process  # noqa: E402
from home_dist.config import DistributedSection  # noqa: E402
from home_dist.data.inputs import open_inputs  # noqa: E402
from home_dist.distributed.ranks import Ranks, form_ranks  # noqa: E402
from home_dist.evaluation.scores import Families, scored  # noqa: E402
from home_dist.metrics import Bootstrap, bootstrap, log_loss  # noqa: E402
from home_dist.schema import load_schema  # noqa: E402
from home_dist.training.build import build  # noqa: E402
from home_dist.training.checkpoint.folder import Checkpoints  # noqa: E402
from home_dist.training.checkpoint.loading import load  # noqa: E402
from home_dist.training.run_folder import RunFolder  # noqa: E402

CONFIG, DATA = ROOT / "configs" / "kuairand_pure.toml", ROOT / "examples" / "kuairand_pure"
GOALS = {"AUC": 0.775, "GAUC": 0.585}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "quality", help="folder for HoME's runs")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE")
    chosen = parser.parse_args()
    process.silence_libraries()
    if chosen.quick:
        warnings.filterwarnings("ignore", category=ConvergenceWarning)  # few iterations are what quick means
    seeds, rounds, iterations, resamples = (chosen.seeds, 500, 400, 1000) if not chosen.quick else (1, 15, 5, 50)

    schema = load_schema(DATA / "schema.toml")
    schema = schema.only(t.name for t in schema.task if t.kind == "binary")
    train, validation, test = (baselines.load(DATA / s, schema) for s in ("train", "validation", "test"))
    if chosen.quick:
        train = _head(train, 30_000)

    def loss(scores: NDArray, task: int) -> float:
        return log_loss(validation.labels[:, task], scores, validation.weights[:, task])

    scores: dict[str, list[NDArray]] = {}
    seconds = {}
    for name, run in {
        "logistic regression": lambda s: baselines.logistic_regression(schema, train, validation, test, iterations, loss),
        "LightGBM": lambda s: baselines.light_gbm(schema, train, validation, test, rounds, s),
    }.items():
        began = time.perf_counter()
        scores[name] = [run(seed)[1] for seed in range(1 if name == "logistic regression" else seeds)]
        seconds[name] = time.perf_counter() - began
        print(f"{name}: {seconds[name]:.0f} s", flush=True)
    ranks = form_ranks(DistributedSection())
    scores["HoME"] = []
    began = time.perf_counter()
    for seed in range(seeds):
        overrides = [f"train.seed={seed}", *(["train.max_steps=40"] if chosen.quick else []), *chosen.overrides]
        with tempfile.TemporaryDirectory() as scratch:
            run = Path(scratch) / "run" if chosen.quick else chosen.runs / f"seed-{seed}"
            _train(run, overrides)
            scores["HoME"].append(_scores(run, ranks, test))
        print(f"HoME, seed {seed}: {time.perf_counter() - began:.0f} s", flush=True)
    seconds["HoME"] = time.perf_counter() - began

    result = _result(schema, test, scores, resamples) | {
        "seconds": seconds,
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        "quick": chosen.quick,
        "resamples": resamples,
    }
    text = _table(result)
    print(text)
    if not chosen.quick:
        write_result(chosen.out / "quality.json", result)
        (chosen.out / "quality.md").write_text(text + "\n")
    for line in _claims(result):
        print(line)


def _head(part: baselines.Part, rows: int) -> baselines.Part:
    cut = {n: v[:rows] if n != "lists" else [m[:rows] for m in v] for n, v in vars(part).items()}
    return baselines.Part(**cut)


def _train(run: Path, overrides: list[str]) -> None:
    """As a user would. A run that is complete is not trained again."""
    command = [*torchrun(2), "train", str(CONFIG), *set_options([f"run.dir={run}", *overrides])]
    environment = {**os.environ, "OMP_NUM_THREADS": str(max(1, len(os.sched_getaffinity(0)) // 2))}
    subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.DEVNULL, timeout=3600)


def _scores(run: Path, ranks: Ranks, test: baselines.Part) -> NDArray:
    """(N, K) probabilities of the test part, in the order of its rows."""
    folder = RunFolder(run)
    config, schema = folder.open()
    inputs = open_inputs(config, schema, ("test",))
    built = build(inputs, ranks)
    newest = Checkpoints(folder.checkpoints, config.checkpoint).newest()
    if newest is None:
        raise SystemExit(f"{folder.checkpoints}: the run left no checkpoint")
    load(newest, built.model, None)
    families = Families.of(built.objectives)
    own = scored(built.model, inputs.evaluation_reader("test", ranks), ranks, families)
    if not (np.array_equal(own.groups, test.users) and np.array_equal(own.labels, test.labels)):
        raise SystemExit("the reader and the baselines disagree on the order of the test part")
    return own.predictions


def _result(schema, test: baselines.Part, scores: dict[str, list[NDArray]], resamples: int) -> dict[str, Any]:
    tasks = [t.name for t in schema.task]
    drawn: dict[str, list[tuple[Bootstrap, Bootstrap]]] = {
        name: [bootstrap(tasks, test.labels, test.weights, s, test.users, resamples) for s in seeds]
        for name, seeds in scores.items()
    }
    systems: dict[str, Any] = {}
    for name, seeds in drawn.items():
        systems[name] = {}
        for metric, index in (("AUC", 0), ("GAUC", 1)):
            means = [b[index].interval().estimate for b in seeds]
            systems[name][metric] = {
                "mean": float(np.mean(means)),
                "seeds": means,
                "interval": asdict(seeds[0][index].interval()),
                "tasks": {t: float(np.mean([b[index].interval(t).estimate for b in seeds])) for t in tasks},
            }
    differences = {
        other: {
            metric: asdict(drawn["HoME"][0][index].minus(drawn[other][0][index]).interval())
            for metric, index in (("AUC", 0), ("GAUC", 1))
        }
        for other in drawn
        if other != "HoME"
    }
    positives = {t: int(test.labels[test.weights[:, k] > 0, k].sum()) for k, t in enumerate(tasks)}
    return {"systems": systems, "home_minus": differences, "positives": positives, "rows": len(test.users)}


def _table(result: dict[str, Any]) -> str:
    tasks = list(result["positives"])
    lines = [
        f"Test part: {result['rows']:,} impressions; means over seeds, 95 % intervals of the first seed, users resampled.",
        "",
    ]
    lines += ["| system | mean AUC | interval | mean GAUC | interval | seeds |", "|---|---|---|---|---|---|"]
    for name, found in result["systems"].items():
        cells = []
        for metric in ("AUC", "GAUC"):
            interval = found[metric]["interval"]
            cells += [f"{found[metric]['mean']:.4f}", f"{interval['low']:.3f} to {interval['high']:.3f}"]
        spread = "; ".join(f"{a:.4f}/{g:.4f}" for a, g in zip(found["AUC"]["seeds"], found["GAUC"]["seeds"], strict=True))
        lines.append(f"| {name} | {' | '.join(cells)} | {spread} |")
    lines += ["", "| HoME minus | AUC | interval | GAUC | interval |", "|---|---|---|---|---|"]
    for name, found in result["home_minus"].items():
        cells = [f"{d['estimate']:+.4f} | {d['low']:+.3f} to {d['high']:+.3f}" for d in (found["AUC"], found["GAUC"])]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += ["", "| task (positives) | " + " | ".join(f"{n}, AUC / GAUC" for n in result["systems"]) + " |"]
    lines.append("|---" * (1 + len(result["systems"])) + "|")
    for task in tasks:
        cells = [f"{s['AUC']['tasks'][task]:.3f} / {s['GAUC']['tasks'][task]:.3f}" for s in result["systems"].values()]
        lines.append(f"| {task} ({result['positives'][task]:,}) | {' | '.join(cells)} |")
    return "\n".join(lines)


def _claims(result: dict[str, Any]) -> list[str]:
    lines = []
    others = [n for n in result["systems"] if n != "HoME"]
    for metric, goal in GOALS.items():
        value = result["systems"]["HoME"][metric]["mean"]
        best = max(result["systems"][n][metric]["mean"] for n in others)
        for text, bound in (
            (f"mean test {metric} of HoME, against the better baseline", best),
            (f"mean test {metric} of HoME", goal),
        ):
            lines.append(claim(text, value, bound, form=".4f", goal_form=".4f"))
    return lines


if __name__ == "__main__":
    main()
