"""Scores of the origins of a rolling sweep as one pool: each row scored by a model that has not seen its day.

A pool's folder holds scores/SPLIT.npz as a run's does, with each row's day beside it, and evaluation.json.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from home_dist.errors import ConfigError
from home_dist.files.json_files import write_json
from home_dist.files.whole import whole_file
from home_dist.ids.no_group import NO_GROUP
from home_dist.insight.kept_scores import Kept, kept_scores
from home_dist.insight.run_figures import RunFigures
from home_dist.metrics import TaskMetrics, evaluate_classes, evaluate_number, evaluate_task

SPLITS = ("validation", "test")


def pool(members: Mapping[int, RunFigures], folder: Path) -> RunFigures:
    """Pools the runs of all origins, by the number of the origin, writes the pool to `folder`, and returns its figures. Raises
    ConfigError for a run that kept no scores, and for runs of other tasks."""
    first = next(iter(members.values()))
    evaluation: dict[str, Any] = {}
    for split in SPLITS:
        parts = [_part(run, split, number, first) for number, run in members.items()]
        kept: Kept = {name: np.concatenate([part[name] for part in parts]) for name in _ROWS}
        kept |= {name: parts[0][name] for name in ("families", "predictions")}
        (folder / "scores").mkdir(parents=True, exist_ok=True)
        with whole_file(folder / "scores" / f"{split}.npz") as file:
            np.savez_compressed(file, allow_pickle=False, **kept)
        grouped = first.schema.group_column is not None
        evaluation[split] = {m.task: m.to_json() for m in measured_pool(kept, first.tasks, grouped)}
    write_json(folder / "evaluation.json", evaluation)
    return replace(first, path=folder, name=folder.name, curves=[], evaluation=evaluation, validations=[])


_ROWS = ("scores", "labels", "weights", "groups", "days")


def _part(run: RunFigures, split: str, number: int, first: RunFigures) -> Kept:
    kept = kept_scores(run.path, split)
    if kept is None:
        raise ConfigError(
            f"{run.path / 'scores' / split}.npz is not there: a pool needs the scores of all rows. Set metrics.keep_scores "
            "above the rows of a day, and train into another run.dir"
        )
    if run.tasks != first.tasks:
        raise ConfigError(f"{run.path}: its tasks are not those of {first.path}")
    return {**kept, "days": np.full(len(kept["groups"]), number)}


def within_days(groups: NDArray[np.int64], days: NDArray[np.int64]) -> NDArray[np.int64]:
    """(N,) a number for each pair of user and day; NO_GROUP where there is no user."""
    _, user = np.unique(groups, return_inverse=True)
    _, day = np.unique(days, return_inverse=True)
    return np.where(groups == NO_GROUP, NO_GROUP, user * (int(day.max(initial=0)) + 1) + day)


def measured_pool(kept: Kept, tasks: Sequence[str], grouped: bool) -> list[TaskMetrics]:
    """One entry per task; GAUC and XAUC within user and day."""
    users = within_days(kept["groups"], kept["days"]) if grouped else None
    begin = np.cumsum(kept["predictions"]) - kept["predictions"]
    metrics = []
    for k, (task, family) in enumerate(zip(tasks, kept["families"], strict=True)):
        labels, weights = kept["labels"][:, k], kept["weights"][:, k]
        scores = kept["scores"][:, begin[k] : begin[k] + kept["predictions"][k]]
        if family == "binary":
            metrics.append(evaluate_task(task, labels, weights, scores[:, 0], users))
        elif family == "number":
            metrics.append(evaluate_number(task, labels, weights, scores[:, 0], users))
        else:
            logits = np.log(np.maximum(scores, np.finfo(np.float64).tiny))
            metrics.append(evaluate_classes(task, labels, weights, logits))
    return metrics
