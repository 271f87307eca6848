"""Everything that a run has left in its folder about itself, read back."""

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from home_dist.config import RunConfig, load_config
from home_dist.errors import ConfigError
from home_dist.files.json_files import read_json, with_nan
from home_dist.insight.findings import Finding, Judge
from home_dist.insight.rules import transfer_signs
from home_dist.insight.store import CURVES, TABLES, Names, Record, Store
from home_dist.metrics import Bootstrap, bootstrap
from home_dist.schema import Schema, load_schema

_RESAMPLES = 200
_LARGEST = 200_000
"""Rows of a split up to which intervals are drawn: some ten seconds."""


@dataclass(frozen=True)
class RunRecord:
    path: Path
    config: RunConfig
    schema: Schema
    names: Names | None
    """None where insight.every_steps is 0."""
    records: list[Record]
    curves: list[dict[str, Any]]
    tables: list[dict[str, Any]]
    evaluation: dict[str, Any]

    @staticmethod
    def open(path: Path) -> "RunRecord":
        """Raises ConfigError where no run is."""
        if not (path / "config.toml").is_file():
            raise ConfigError(f"{path}: no run is there (no config.toml). Give the run.dir of a run that was started.")
        evaluation, store = path / "evaluation.json", Store(path / "insight")
        return RunRecord(
            path=path,
            config=load_config(path / "config.toml"),
            schema=load_schema(path / "schema.toml"),
            names=store.names(),
            records=store.records(),
            curves=store.lines(CURVES),
            tables=store.lines(TABLES),
            evaluation=with_nan(read_json(evaluation, "Remove it; the run's own command writes it anew.", ConfigError)),
        )

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def tasks(self) -> list[str]:
        """Those that the run trains, in the schema's order."""
        chosen = self.config.data.tasks
        return [t.name for t in self.schema.task if not chosen or t.name in chosen]

    @property
    def looked_at(self) -> bool:
        """Whether there is anything in which something could have been found."""
        return self.names is not None and bool(self.records or self.tables)

    @property
    def steps(self) -> int:
        known = [self.evaluation.get("step", 0), *(c["step"] for c in self.curves), *(r.step for r in self.records)]
        return max(known)

    @property
    def splits(self) -> list[str]:
        return [s for s in ("test", "validation", "train") if s in self.evaluation]

    def metric(self, split: str, task: str, name: str) -> float:
        value = self.evaluation.get(split, {}).get(task, {}).get(name)
        return math.nan if value is None else float(value)

    def mean(self, split: str, name: str) -> float:
        """Over the tasks for which the metric is defined."""
        there = [v for v in (self.metric(split, t, name) for t in self.tasks) if not math.isnan(v)]
        return math.fsum(there) / len(there) if there else math.nan

    def findings(self, alone: "list[RunRecord] | None" = None) -> list[Finding]:
        """By the thresholds of the run's configuration; alone: runs of single tasks that it should not fall behind."""
        if self.names is None:
            return []
        judge = Judge(self.names, self.config.insight.rules)
        judge.replay(self.store)
        found = judge.findings()
        split = next(iter(self.splits), None)
        if alone and split:
            references: dict[str, float] = {}
            for run in alone:
                references |= {t: run.metric(split, t, "auc") for t in run.tasks}
            own = {t: self.metric(split, t, "auc") for t in self.tasks}
            step = self.steps
            found += [Finding(sign, step, step) for sign in transfer_signs(own, references, self.config.insight.rules)]
        return found

    @property
    def store(self) -> Store:
        return Store(self.path / "insight")

    @cached_property
    def _scores(self) -> dict[str, dict[str, np.ndarray]]:
        return {}

    def scores(self, split: str) -> dict[str, np.ndarray] | None:
        """scores, labels and weights (N, K), groups (N,), or None where they were not kept."""
        path = self.path / "scores" / f"{split}.npz"
        if split not in self._scores and path.is_file():
            with np.load(path, allow_pickle=False) as file:
                self._scores[split] = {name: file[name] for name in file.files}
        return self._scores.get(split)

    @cached_property
    def _bootstraps(self) -> dict[str, tuple[Bootstrap, Bootstrap] | None]:
        return {}

    def bootstraps(self, split: str) -> tuple[Bootstrap, Bootstrap] | None:
        """Of AUC and GAUC; None where scores were not kept, or are too many."""
        if split not in self._bootstraps:
            kept = self.scores(split)
            drawn = None
            if kept is not None and 0 < len(kept["groups"]) <= _LARGEST:
                labels, weights, scores, groups = (kept[name] for name in ("labels", "weights", "scores", "groups"))
                drawn = bootstrap(self.tasks, labels, weights, scores, groups, resamples=_RESAMPLES)
            self._bootstraps[split] = drawn
        return self._bootstraps[split]


def same_rows(first: RunRecord, second: RunRecord, split: str) -> bool:
    """Whether both runs scored the same rows in the same order, so that they can be compared row by row."""
    one, two = first.scores(split), second.scores(split)
    if one is None or two is None or first.tasks != second.tasks:
        return False
    return all(np.array_equal(one[name], two[name]) for name in ("labels", "weights", "groups"))
