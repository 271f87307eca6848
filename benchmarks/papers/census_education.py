"""Census-Income with the class of education as a task: is it learned, and does it cost income anything?

    python benchmarks/papers/census_education.py RAW            # two seeds of three runs, some five minutes of one core
    python benchmarks/papers/census_education.py RAW --quick    # one seed, one epoch, under 50 s; writes nothing

MMoE as configs/census_education.toml has it, all columns, the published test file split 60/20/20. Tasks: income over 50,000 and
never married, which are binary, and education_level, one of 17 classes. Education is no feature. Runs: all three tasks; all
three with 8 units in the tower of education as in the others'; the two binary tasks alone, on the same features.

Beside education_level: the shares of the classes in the training part; multinomial logistic regression on ids and buckets as
indicators and standardised numbers, whose penalty the validation part chooses; LightGBM on the same columns, which the
validation part stops.
"""

import argparse
import statistics
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pyarrow.parquet as pq
import scipy.sparse as sp
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.claims import claim  # noqa: E402
from benchmarks.papers.runs import Job, evaluation, spread, train_all, write  # noqa: E402
from benchmarks.start import machine  # noqa: E402
from home_dist.metrics.classes import class_accuracy, class_auc, class_log_loss  # noqa: E402
from home_dist.prepare.census import CensusOptions, prepare_census  # noqa: E402
from home_dist.schema import IdFeature, Schema, StatisticFeature, load_schema  # noqa: E402

CONFIG = ROOT / "configs" / "census_education.toml"
LEVEL = "education_level"
RUNS = {
    "all three tasks": [],
    "all three, narrow tower": [f"model.towers.{LEVEL}=[8]"],
    "income and never_married": ['data.tasks=["income", "never_married"]', "model.towers={}"],
}
METRICS = {"accuracy": "accuracy", "log_loss": "log loss", "macro_auc": "macro AUC"}
Floats = NDArray[np.float64]


def wide(folder: Path, schema: Schema) -> sp.csr_matrix:
    """Indicators of ids and buckets, and standardised numbers."""
    table, rows, parts = pq.read_table(folder), schema.table_rows(), []
    for feature in schema.feature:
        values = table[feature.column].to_numpy()
        if isinstance(feature, IdFeature):
            parts.append(_indicators(values, rows[feature.table]))
        if isinstance(feature, StatisticFeature):
            parts.append(_indicators(1 + np.searchsorted(feature.boundaries, values, side="right"), feature.buckets))
            parts.append(sp.csr_matrix(((values - feature.mean) / feature.std)[:, None]))
    return sp.hstack(parts, format="csr", dtype=np.float32)


def _indicators(values: NDArray[np.int64], size: int) -> sp.csr_matrix:
    return sp.csr_matrix((np.ones(len(values), np.float32), values, np.arange(len(values) + 1)), (len(values), size))


def labels(folder: Path) -> NDArray[np.int64]:
    return pq.read_table(folder)[f"label_{LEVEL}"].to_numpy().astype(np.int64)


def told(y: NDArray[np.int64], probabilities: Floats) -> dict[str, float]:
    return {
        "accuracy": class_accuracy(y, probabilities),
        "log_loss": class_log_loss(y, probabilities),
        "macro_auc": class_auc(y, probabilities),
    }


def _of_all_classes(model: LogisticRegression, x: sp.csr_matrix, classes: int) -> Floats:
    found = np.zeros((x.shape[0], classes))
    found[:, model.classes_] = model.predict_proba(x)
    return found


def baselines(data: Path, quick: bool) -> dict[str, dict[str, float]]:
    schema = load_schema(data / "schema.toml")
    classes = next(t.classes for t in schema.task if t.name == LEVEL) or 0
    y = {split: labels(data / split) for split in ("train", "validation", "test")}
    shares = np.bincount(y["train"], minlength=classes) / len(y["train"])
    result = {"class shares": told(y["test"], np.tile(shares, (len(y["test"]), 1)))}
    x = {split: wide(data / split, schema) for split in y}
    best: tuple[float, float, Floats] | None = None
    for strength in (0.1,) if quick else (0.1, 1.0, 10.0):
        model = LogisticRegression(C=strength, max_iter=10 if quick else 200).fit(x["train"], y["train"])
        loss = class_log_loss(y["validation"], _of_all_classes(model, x["validation"], classes))
        if best is None or loss < best[0]:
            best = (loss, strength, _of_all_classes(model, x["test"], classes))
    assert best is not None
    result["logistic regression"] = told(y["test"], best[2]) | {"C": best[1]}
    result["LightGBM"] = told(y["test"], _light_gbm(data, schema, y, classes, 10 if quick else 400))
    return result


def _light_gbm(data: Path, schema: Schema, y: dict[str, NDArray[np.int64]], classes: int, rounds: int) -> Floats:
    columns = [f.column for f in schema.feature]
    tables = {split: pq.read_table(data / split) for split in y}
    x = {split: np.stack([t[c].to_numpy().astype(np.float32) for c in columns], 1) for split, t in tables.items()}
    settings = {
        "objective": "multiclass", "num_class": classes, "learning_rate": 0.1, "num_leaves": 31, "min_data_in_leaf": 50,
        "feature_fraction": 0.5, "lambda_l2": 5.0, "seed": 0, "num_threads": 1, "verbose": -1,
    }  # fmt: skip
    categories = [i for i, f in enumerate(schema.feature) if isinstance(f, IdFeature)]
    train = lightgbm.Dataset(x["train"], y["train"], categorical_feature=categories)
    watched = lightgbm.Dataset(x["validation"], y["validation"], reference=train)
    stop = lightgbm.early_stopping(20, verbose=False)
    model = lightgbm.train(settings, train, rounds, valid_sets=[watched], callbacks=[stop])
    return np.asarray(model.predict(x["test"]))


def table(result: dict[str, Any]) -> str:
    lines = [
        f"{result['rows']['train']:,} training and {result['rows']['test']:,} test rows, {result['seeds']} seeds, on "
        f"{result['machine']}. Test part; mean ± standard deviation over seeds.",
        "",
        "| education_level | " + " | ".join(METRICS.values()) + " |",
        "|---|" + "---|" * len(METRICS),
    ]
    for name, one in result["baselines"].items():
        lines.append(f"| {name} | " + " | ".join(f"{one[m]:.4f}" for m in METRICS) + " |")
    for name, runs in result["runs"].items():
        if LEVEL in runs[0]:
            cells = [spread([run[LEVEL][m] for run in runs]) for m in METRICS]
            lines.append(f"| MMoE, {name} | " + " | ".join(cells) + " |")
    lines += ["", "| MMoE | income AUC | never_married AUC |", "|---|---|---|"]
    for name, runs in result["runs"].items():
        lines.append(f"| {name} | {spread(auc(runs, 'income'))} | {spread(auc(runs, 'never_married'))} |")
    return "\n".join(lines)


def auc(runs: list[dict[str, Any]], task: str) -> list[float]:
    return [run[task]["auc"] for run in runs]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("raw", type=Path, help="folder with the published files")
    parser.add_argument("--quick", action="store_true", help="one seed, one epoch, under 50 s; writes nothing")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--at-once", type=int, default=1, help="runs beside each other")
    parser.add_argument(
        "--work", type=Path, default=ROOT / "runs" / "papers" / "census_education", help="what is there is not done again"
    )
    options = parser.parse_args()
    warnings.filterwarnings("ignore", category=ConvergenceWarning)  # the penalty and the iterations are told
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch) if options.quick else options.work
        data = work / "data"
        if not data.is_dir():
            prepare_census(options.raw, data, CensusOptions("levels", "all"))
        chosen = {name: RUNS[name] for name in RUNS if not options.quick or name != "all three, narrow tower"}
        jobs = {
            (name, seed): Job(
                f"{name.replace(' ', '-').replace(',', '')}-{seed}",
                CONFIG,
                (*settings, f"data.path={data}", f"train.seed={seed}", *(["train.epochs=1"] if options.quick else [])),
            )
            for name, settings in chosen.items()
            for seed in range(1 if options.quick else options.seeds)
        }
        found = train_all(list(jobs.values()), work, evaluation, None if options.quick else options.at_once)
        result: dict[str, Any] = {
            "machine": machine(),
            "seeds": options.seeds,
            "rows": {split: len(labels(data / split)) for split in ("train", "validation", "test")},
            "baselines": baselines(data, options.quick),
            "runs": {n: [found[job.name]["test"] for (of, _), job in jobs.items() if of == n] for n in chosen},
        }
    if not options.quick:
        print(table(result))
        write("census_education", result, table(result))
    ours = {m: statistics.mean(run[LEVEL][m] for run in result["runs"]["all three tasks"]) for m in METRICS}
    base = result["baselines"]
    print(claim(f"{LEVEL}: log loss of the class shares above MMoE's", base["class shares"]["log_loss"] - ours["log_loss"], 0))
    for name in ("logistic regression", "LightGBM"):
        print(claim(f"{LEVEL}: log loss of {name} above MMoE's", base[name]["log_loss"] - ours["log_loss"], 0, form=".4f"))
        print(claim(f"{LEVEL}: macro AUC of MMoE above {name}'s", ours["macro_auc"] - base[name]["macro_auc"], 0, form=".4f"))
    beside, alone = (statistics.mean(auc(result["runs"][n], "income")) for n in ("all three tasks", "income and never_married"))
    print(claim("income: AUC beside education_level less AUC without", beside - alone, -0.002, form=".4f"))


if __name__ == "__main__":
    main()
