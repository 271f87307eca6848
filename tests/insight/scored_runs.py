"""Folders of runs that were evaluated, without a training: scores are drawn."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from home_dist.evaluation.record import record
from home_dist.evaluation.scores import Families, Scored
from home_dist.evaluation.split import Evaluation
from home_dist.ids.no_group import NO_GROUP
from home_dist.metrics import evaluate_tasks
from home_dist.schema import Schema, save_schema
from tests.factory import TASKS, make_schema

NAMES = [name for name, _ in TASKS]


def scores_of(split: str, strength: float, seed: int, rows: int = 600, users: int = 60) -> Scored:
    """The same rows for each seed; logits tell the labels with some strength above noise."""
    random = np.random.default_rng(sum(split.encode()))
    labels = (random.random((rows, 3)) < [0.3, 0.2, 0.5]).astype(np.float32)
    weights = (random.random((rows, 3)) < 0.9).astype(np.float32)
    groups = random.integers(0, users, rows)
    noise = np.random.default_rng(seed).normal(size=(rows, 3))
    families = Families(("binary",) * 3, (1,) * 3)
    return Scored(strength * (labels - 0.5) + noise, labels, weights, groups, np.zeros((rows, 0)), families)


def write_scores(run: Path, splits: dict[str, Scored], keep: int = 1_000_000) -> None:
    """evaluation.json and scores/ of a run's folder."""
    schema_has_users = any((scored.groups != NO_GROUP).any() for scored in splits.values())
    evaluations = {}
    for split, s in splits.items():
        groups = s.groups if schema_has_users else None
        tasks = evaluate_tasks(NAMES, s.labels, s.weights, s.scores, groups, logits=True)
        evaluations[split] = Evaluation(tasks, [], s, schema_has_users, [])
    record(run / "evaluation.json", run / "scores", evaluations, step=1, samples=1, keep=keep)


def write_run(run: Path, splits: dict[str, Scored], keep: int = 1_000_000, schema: Schema | None = None) -> Path:
    """A folder of its own, with a configuration and a schema."""
    run.mkdir(parents=True)
    (run / "config.toml").write_text('[run]\ndir = "r"\n[data]\npath = "d"\n')
    save_schema(schema or make_schema(), run / "schema.toml")
    write_scores(run, splits, keep)
    return run


def without_users(scored: Scored) -> Scored:
    return replace(scored, groups=np.full_like(scored.groups, NO_GROUP))
