"""What the studies share: many runs of `home-dist train`, some at a time, and models of equal size."""

import concurrent.futures
import json
import os
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.sample_run import SINGLE, output_of, set_options  # noqa: E402
from home_dist.config import RunConfig, load_config  # noqa: E402
from home_dist.experts import SparseBank  # noqa: E402
from home_dist.network import Head  # noqa: E402
from home_dist.schema import build_layout, load_schema  # noqa: E402

RESULTS = ROOT / "benchmarks" / "papers" / "results"
K, C = TypeVar("K"), TypeVar("C")


@dataclass(frozen=True)
class Job:
    name: str
    config: Path
    settings: tuple[str, ...]


def train_all(jobs: Sequence[Job], folder: Path, keep: Callable[[Path], Any], at_once: int | None = None) -> dict[str, Any]:
    """By job, what `keep` finds in its run's folder, which is then removed. A job that is in `folder` already is not run again.

    at_once: runs beside each other, each with one thread; by default as many as there are cores.
    """
    folder.mkdir(parents=True, exist_ok=True)
    began, done, owed = time.perf_counter(), 0, 0

    def one(job: Job) -> Any:
        nonlocal done
        kept = folder / f"{job.name}.json"
        if not kept.is_file():
            run = folder / job.name
            shutil.rmtree(run, ignore_errors=True)
            settings = [f"run.dir={run}", "distributed.threads=1", *job.settings]
            output_of([*SINGLE, "train", job.config, *set_options(settings)], {"OMP_NUM_THREADS": "1"}, timeout=3600)
            kept.write_text(json.dumps(keep(run)))
            shutil.rmtree(run)
            done += 1
            left = (time.perf_counter() - began) / done * (owed - done)
            print(f"{done}/{owed} runs, {left / 60:.0f} min left: {job.name}", flush=True)
        return json.loads(kept.read_text())

    owed = sum(not (folder / f"{job.name}.json").is_file() for job in jobs)
    with concurrent.futures.ThreadPoolExecutor(at_once or len(os.sched_getaffinity(0))) as pool:
        try:
            return dict(zip([j.name for j in jobs], pool.map(one, jobs), strict=True))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def tuned(
    trials: Mapping[K, Mapping[C, Job]], folder: Path, keep: Callable[[Path], Any], score: Callable[[Any], float]
) -> tuple[dict[K, C], dict[K, dict[C, Any]]]:
    """Of each one's trials, what the best by `score` (of what `keep` found) was tried with; and what was found of all."""
    runs = train_all([job for of in trials.values() for job in of.values()], folder, keep)
    found = {key: {choice: runs[job.name] for choice, job in of.items()} for key, of in trials.items()}
    return {key: max(of, key=lambda choice: score(of[choice])) for key, of in found.items()}, found


def evaluation(run: Path) -> Any:
    return json.loads((run / "evaluation.json").read_text())


def _head(config: RunConfig) -> Head:
    schema = load_schema(config.schema_path())
    schema = schema.only(config.data.tasks) if config.data.tasks else schema
    return Head(schema, build_layout(schema, config), config)


def parameters(config: RunConfig) -> int:
    """Of the multi-task model and its towers."""
    head = _head(config)
    return sum(p.numel() for part in (head.model, head.towers) for p in part.parameters())


def products(config: RunConfig) -> int:
    """Parameters that a sample is multiplied with: of a pool those of as many experts as it chooses at most."""
    head = _head(config)
    pools = [m for m in head.model.modules() if isinstance(m, SparseBank)]
    unused = sum(p[0].numel() * (bank.total - bank.per_sample) for bank in pools for p in bank.parameters())
    return parameters(config) - unused


def of_size(
    config: Path,
    settings: Iterable[str],
    setting: str,
    size: int,
    most: int = 1024,
    count: Callable[[RunConfig], int] = parameters,
) -> str:
    """setting: one with a number left out, such as "model.expert_dim={}". Returns it with the number with which the model has
    closest to `size` parameters, or what else `count` counts, which grow with it."""
    counts: dict[int, int] = {}

    def off(width: int) -> int:
        if width not in counts:
            counts[width] = count(load_config(config, [*settings, setting.format(width)]))
        return abs(counts[width] - size)

    low, high = 1, most
    while low < high:
        middle = (low + high) // 2
        off(middle)
        low, high = (middle + 1, high) if counts[middle] < size else (low, middle)
    return setting.format(min((w for w in (low - 1, low) if w >= 1), key=off))


def spread(values: Sequence[float], form: str = ".4f") -> str:
    """Mean and standard deviation, as text."""
    deviation = statistics.stdev(values) if len(values) > 1 else float("nan")
    return f"{statistics.mean(values):{form}} ± {deviation:{form}}"


def write(name: str, result: Mapping[str, Any], text: str) -> None:
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")
    (RESULTS / f"{name}.md").write_text(text + "\n")
