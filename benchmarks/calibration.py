"""Why the sum of predictions is not that of labels on later days, and what a calibration on the validation day mends.

    python benchmarks/calibration.py            # of quality.py's runs: results/calibration.json, results/calibration.md
    python benchmarks/calibration.py --quick    # of drawn scores, a second: tells that the parts work; writes nothing

Three factors, whose product is predictions / labels on the test day exactly:

    fit       predictions / labels on the training rows: what the model and its weight decay do to the rate
    inputs    mean prediction on the test day / on the training rows: impressions whose inputs are others
    drift     rate of the training rows / rate of the test day: the base rate moved

Training rows are scored by `home-dist evaluate --split train`. A calibration is fitted on each origin's validation day, as
`home-dist export --calibrate` does, and applied to its test day; test days are pooled. The look at them is logged with those of
quality.py, in results/quality_looks.jsonl.
"""

import argparse
import datetime
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.claims import claim  # noqa: E402
from benchmarks.machine import write_result  # noqa: E402
from benchmarks.quality import commit  # noqa: E402
from benchmarks.sample_run import SINGLE, output_of  # noqa: E402
from home_dist.export.calibration import Method, TaskCalibration, fit_task  # noqa: E402
from home_dist.files.json_files import append_entries  # noqa: E402
from home_dist.insight.kept_scores import Kept, kept_scores  # noqa: E402
from home_dist.metrics import bootstrap, bootstrap_log_loss  # noqa: E402
from home_dist.schema import load_schema  # noqa: E402

METHODS: tuple[Method, ...] = ("platt", "isotonic")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "quality" / "epochs=2" / "seed-0", help="runs by origin")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    chosen = parser.parse_args()
    if chosen.quick:
        tasks, members, training = _drawn()
    else:
        folders = sorted(chosen.runs.glob("origin-*"))
        if not folders:
            parser.error(f"{chosen.runs}: no runs are there; benchmarks/quality.py makes them")
        schema = load_schema(folders[0] / "schema.toml")
        tasks = [t.name for t in schema.task if t.kind == "binary"]
        members = [{s: _kept(folder, s) for s in ("validation", "test")} for folder in folders]
        training = [_training(folder) for folder in folders]
    result = {"tasks": causes(tasks, members, training), "calibrated": effects(tasks, members, 50 if chosen.quick else 500)}
    text = table(result)
    print(text)
    if not chosen.quick:
        chosen.out.mkdir(parents=True, exist_ok=True)
        look = {"date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), "commit": commit()}
        look |= {"why": "calibration of HoME on the test days", "seen": result["calibrated"]}
        append_entries(chosen.out / "quality_looks.jsonl", [look])
        write_result(chosen.out / "calibration.json", result | {"runs": len(members)})
        (chosen.out / "calibration.md").write_text(text + "\n")
    for method in METHODS:
        found = result["calibrated"][method]["log_loss"]
        print(claim(f"mean log loss of {method} minus without, high end of its interval", found["high"], 0.0, True, "+.5f"))


Member = Mapping[str, Kept]
"""Scores of an origin's validation and test day."""


def _kept(folder: Path, split: str) -> Kept:
    kept = kept_scores(folder, split)
    if kept is None:
        raise SystemExit(f"{folder}: kept no scores of {split}")
    return kept


def _training(folder: Path) -> dict[str, tuple[float, float, float]]:
    """By task: sums of predictions and of labels on the training rows, and their number. Kept beside the run."""
    place = folder / "train_evaluation.json"
    if not place.is_file():
        output_of([*SINGLE, "evaluate", folder, "--split", "train", "--out", place])
    measured = json.loads(place.read_text())["train"]
    return {
        name: (m["calibration"] * m["positives"], float(m["positives"]), float(m["samples"])) for name, m in measured.items()
    }


def causes(tasks: list[str], members: list[Member], training: list[dict[str, tuple[float, float, float]]]) -> dict[str, Any]:
    """By task, over all origins: predictions / labels on the test days, and its three factors."""
    found = {}
    for k, task in enumerate(tasks):
        predicted, positives, rows = (sum(t[task][i] for t in training) for i in range(3))
        of_days = {}
        for split in ("validation", "test"):
            weights = [m[split]["weights"][:, k].astype(np.float64) for m in members]
            sums = [
                sum(float((m[split][name][:, k] * w).sum()) for m, w in zip(members, weights, strict=True))
                for name in ("scores", "labels")
            ]
            of_days[split] = (*sums, sum(float(w.sum()) for w in weights))
        p, y, n = of_days["test"]
        found[task] = {
            "positives": y,
            "test": p / y,
            "validation": of_days["validation"][0] / of_days["validation"][1],
            "fit": predicted / positives,
            "inputs": (p / n) / (predicted / rows),
            "drift": (positives / rows) / (y / n),
            "chance": 1.96 / np.sqrt(y),
        }
    return found


def applied(task: TaskCalibration, method: Method, p: NDArray) -> NDArray:
    """(n,) calibrated probabilities, in float64."""
    if method == "isotonic":
        return np.interp(p, task.knots, task.values)
    clipped = np.clip(p, 1e-7, 1 - 1e-7)
    return 1 / (1 + np.exp(-(task.scale * np.log(clipped / (1 - clipped)) + task.shift)))


def effects(tasks: list[str], members: list[Member], draws: int) -> dict[str, Any]:
    """By method, on the pooled test days: predictions / labels by task, and mean log loss, AUC and GAUC minus those without."""
    labels, weights, users, plain = (
        np.concatenate([m["test"][n] for m in members]) for n in ("labels", "weights", "groups", "scores")
    )
    days = np.concatenate([np.full(len(m["test"]["groups"]), n) for n, m in enumerate(members)])

    def measured(scores: NDArray) -> list[Any]:
        rows = tasks, labels, weights, scores, users, draws
        return [bootstrap_log_loss(*rows), *bootstrap(*rows, within=days)]

    before, found = measured(plain), dict[str, Any]()
    for method in METHODS:
        parts = []
        for m in members:
            scores = m["test"]["scores"].copy()
            for k in range(len(tasks)):
                known = m["validation"]["weights"][:, k] > 0
                p, y, w = (m["validation"][n][known, k].astype(np.float64) for n in ("scores", "labels", "weights"))
                if 0 < y.sum() < len(y):
                    scores[:, k] = applied(fit_task(p, y, w, method), method, scores[:, k])
            # As in an exported program, nothing is certain.
            parts.append(np.clip(scores, 1e-6, 1 - 1e-6))
        scores = np.concatenate(parts)
        after = measured(scores)
        ratio = (scores * weights).sum(0) / (labels * weights).sum(0)
        found[method] = {
            "test": dict(zip(tasks, ratio.tolist(), strict=True)),
            "log_loss_by_task": {t: asdict(after[0].minus(before[0]).interval(t)) for t in tasks},
            **{
                name: asdict(a.minus(b).interval())
                for name, a, b in zip(("log_loss", "auc", "gauc"), after, before, strict=True)
            },
        }
    return found


def table(result: dict[str, Any]) -> str:
    lines = [
        "Sum of predictions / sum of labels on the pooled test days, as a product of three factors, and after calibration",
        "on the day before. chance: 1.96 / sqrt(positives), by which a ratio may miss 1 with a right model.",
        "",
        "| task (positives) | test | = fit | x inputs | x drift | chance | validation | platt | isotonic |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for task, f in result["tasks"].items():
        cells = [f"{f[name]:.2f}" for name in ("test", "fit", "inputs", "drift")]
        after = [f"{result['calibrated'][m]['test'][task]:.2f}" for m in METHODS]
        told = f"± {f['chance']:.2f} | {f['validation']:.2f}"
        lines.append(f"| {task} ({f['positives']:,.0f}) | {' | '.join(cells)} | {told} | {' | '.join(after)} |")
    lines += ["", "| calibrated minus not | log loss | AUC | GAUC |", "|---|---|---|---|"]
    for method in METHODS:
        found = result["calibrated"][method]
        cells = [
            f"{found[n]['estimate']:+.5f} ({found[n]['low']:+.5f} to {found[n]['high']:+.5f})"
            for n in ("log_loss", "auc", "gauc")
        ]
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _drawn() -> tuple[list[str], list[Member], list[dict[str, tuple[float, float, float]]]]:
    """Two origins of a model that predicts too little."""
    random = np.random.default_rng(0)

    def day() -> Kept:
        logits = random.normal(-1, 1, (3000, 2))
        labels = (random.random((3000, 2)) < 1 / (1 + np.exp(-logits - 0.4))).astype(np.float32)
        rows = {"labels": labels, "weights": np.ones((3000, 2), np.float32), "groups": random.integers(0, 300, 3000)}
        return {**rows, "scores": 1 / (1 + np.exp(-logits))}

    members = [{"validation": day(), "test": day()} for _ in range(2)]
    return ["like", "view"], members, [{"like": (900.0, 1000.0, 3000.0), "view": (900.0, 900.0, 3000.0)}] * 2


if __name__ == "__main__":
    main()
