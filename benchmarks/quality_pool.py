"""The scores that quality.py compares: of HoME and of the baselines, on the days of a rolling origin, pooled.

HoME is trained by `home-dist sweep --rolling`, which also cuts the data of each origin. Baselines read the same folders. Scores
of a baseline are kept below the runs, so that a stopped benchmark goes on.
"""

import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks import quality_baselines as baselines
from benchmarks.sample_run import SINGLE, set_options
from home_dist.files.json_files import read_json
from home_dist.files.whole import whole_file
from home_dist.insight.kept_scores import kept_scores, of_family
from home_dist.metrics import log_loss
from home_dist.schema import Schema, load_schema
from home_dist.training.sweep import folder_name

ROOT = Path(__file__).resolve().parent.parent
LOGISTIC, TREES = "logistic regression", "LightGBM"
_HEAD = 8_000  # training rows of a quick run
_KEPT = ("labels", "weights", "users", "scores")


@dataclass(frozen=True)
class Pool:
    """One split of all origins: labels and weights (N, K), users and days (N,), and by system a matrix (N, K) of probabilities
    per seed."""

    tasks: list[str]
    labels: NDArray
    weights: NDArray
    users: NDArray[np.int64]
    days: NDArray[np.int64]
    scores: dict[str, list[NDArray]] = field(default_factory=dict)

    def only(self, tasks: Sequence[str]) -> "Pool":
        """Of some of the tasks, in their order here."""
        at = [k for k, task in enumerate(self.tasks) if task in tasks]
        scores = {name: [s[:, at] for s in by_seed] for name, by_seed in self.scores.items()}
        names = [self.tasks[k] for k in at]
        return Pool(names, self.labels[:, at], self.weights[:, at], self.users, self.days, scores)

    def beside(self, system: str, other: "Pool") -> "Pool":
        """With the scores of another pool's model as those of `system`. Raises SystemExit where it is of other rows."""
        if not (np.array_equal(self.users, other.users) and np.array_equal(self.labels, other.labels, equal_nan=True)):
            raise SystemExit(f"HoME and {system} disagree on the order of the rows")
        [scores] = other.scores.values()
        return replace(self, scores=self.scores | {system: scores})


@dataclass(frozen=True)
class Effort:
    """How much is computed. rounds: of LightGBM; iterations: of logistic regression; rows: of training, None for all."""

    rounds: int = 500
    iterations: int = 400
    rows: int | None = None

    @staticmethod
    def quick() -> "Effort":
        return Effort(5, 3, _HEAD)


def origins_of(text: str) -> list[int]:
    first, _, last = text.partition(":")
    return list(range(int(first), int(last or first) + 1))


def train_home(
    config: Path,
    runs: Path,
    rolling: str,
    grid: str,
    seeds: int,
    overrides: Sequence[str],
    ranks: int,
    threads: int | None = None,
) -> Path:
    """As a user would. Runs that are complete are not trained again. grid: settings to choose from at each origin, on its
    validation day. threads: of a rank; by default the machine's cores divided among the ranks. Returns the folder of the chosen
    runs' pools."""
    command = [*SINGLE, "sweep", str(config), "--rolling", rolling, "--grid", grid, "--by", "log_loss"]
    command += ["--seeds", str(seeds), "--ranks", str(ranks), *set_options([f"run.dir={runs}", *overrides])]
    threads = threads or max(1, len(os.sched_getaffinity(0)) // ranks)
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if ended.returncode:
        raise SystemExit(f"failed: {' '.join(command)}\n{ended.stdout[-2000:]}{ended.stderr[-2000:]}")
    return runs / "pooled" / ("chosen" if "," in grid else folder_name(grid))


def home_pool(folder: Path, seeds: int, split: str, tasks: Sequence[str]) -> Pool:
    """HoME's scores of binary tasks, by seed, and the rows that they are of. folder: of pools, one per seed."""
    kept = [kept_scores(folder / f"seed-{seed}", split) for seed in range(seeds)]
    found = [k for k in kept if k is not None]
    if len(found) < seeds:
        raise SystemExit(f"{folder}: the sweep left no scores of {split} for some seed")
    names, labels, weights, _ = of_family(found[0], tasks, "binary")
    pool = Pool(names, labels, weights, found[0]["groups"], found[0]["days"])
    pool.scores["HoME"] = [of_family(k, tasks, "binary")[3] for k in found]
    return pool


def baseline(runs: Path, origin: int, system: str, seed: int, split: str, effort: Effort, task: str) -> dict[str, NDArray]:
    """labels (N, 1), weights (N, 1), users (N,) and scores (N, 1) of a baseline on one origin's split, for one task. What is
    chosen (penalty, rounds) is chosen on the validation day."""
    data = runs / "data" / f"origin-{origin:02d}"
    place = runs / "baselines" / data.name / f"{system.replace(' ', '-')}-{seed}" / f"{task}.npz"
    made_of = f"{read_json(data / 'origin.json', '')} {effort}"
    if place.is_file():
        with np.load(place) as file:
            if str(file["made_of"]) == made_of:
                return {name: file[f"{split}_{name}"] for name in _KEPT}
    whole = load_schema(data / "schema.toml")
    schema, at = whole.only([task]), [t.name for t in whole.task].index(task)
    train, validation, test = (
        replace(part, labels=part.labels[:, [at]], weights=part.weights[:, [at]]) for part in _parts(data, effort.rows)
    )

    def loss(scores: NDArray, place: int) -> float:
        return log_loss(validation.labels[:, place], scores, validation.weights[:, place])

    if system == LOGISTIC:
        both = baselines.logistic_regression(schema, train, validation, test, effort.iterations, loss)
    else:
        both = baselines.light_gbm(schema, train, validation, test, effort.rounds, seed)
    kept = {"made_of": np.array(made_of)}
    for name, part, scores in (("validation", validation, both[0]), ("test", test, both[1])):
        rows = {"labels": part.labels, "weights": part.weights, "users": part.users, "scores": scores}
        kept |= {f"{name}_{key}": value for key, value in rows.items()}
    place.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(place) as file:
        np.savez_compressed(file, allow_pickle=False, **kept)
    return {name: kept[f"{split}_{name}"] for name in _KEPT}


@lru_cache(maxsize=1)
def _parts(data: Path, rows: int | None) -> tuple[baselines.Part, baselines.Part, baselines.Part]:
    """Training, validation and test part of an origin, with all tasks. rows: at most, of training."""
    schema = load_schema(data / "schema.toml")
    train, validation, test = (baselines.load(data / s, schema) for s in ("train", "validation", "test"))
    return _head(train, rows), validation, test


def with_baselines(
    pool: Pool,
    runs: Path,
    origins: Sequence[int],
    seeds: Mapping[str, int],
    split: str,
    effort: Effort,
    say: Callable[[str], None],
) -> Pool:
    """Adds the baselines' scores. Raises SystemExit where their rows are not those that HoME scored."""
    for system, count in seeds.items():
        pool.scores[system] = []
        for seed in range(count):
            of_origins = []
            for origin in origins:
                parts = [baseline(runs, origin, system, seed, split, effort, task) for task in pool.tasks]
                rows = pool.days == origin
                labels = np.concatenate([p["labels"] for p in parts], 1)
                if not (np.array_equal(parts[0]["users"], pool.users[rows]) and np.array_equal(labels, pool.labels[rows])):
                    raise SystemExit("HoME and the baselines disagree on the order of the rows")
                of_origins.append(np.concatenate([p["scores"] for p in parts], 1))
            pool.scores[system].append(np.concatenate(of_origins))
            say(f"{system}, seed {seed}")
    return pool


def _head(part: baselines.Part, rows: int | None) -> baselines.Part:
    if rows is None or len(part.users) <= rows:
        return part
    cut = {n: v[:rows] if n != "lists" else [m[:rows] for m in v] for n, v in vars(part).items()}
    return baselines.Part(**cut)


def home_tasks(schema: Schema) -> list[str]:
    return [t.name for t in schema.task if t.kind == "binary"]
