"""Reads back everything that a run's folder records about the run."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from home_dist.config import RunConfig, load_config
from home_dist.insight.cold_ids import cold_signs, from_json
from home_dist.insight.findings import Finding, Judge
from home_dist.insight.kept_scores import RESAMPLES, drawn_groups, kept_scores, of_family
from home_dist.insight.rules import transfer_signs
from home_dist.insight.run_figures import RunFigures
from home_dist.insight.run_files import TABLES
from home_dist.insight.store import InsightStore, Names, StepRecord
from home_dist.metrics import Bootstrap, bootstrap, bootstrap_errors, bootstrap_xauc

_LARGEST = 200_000
"""Intervals are computed for splits of at most so many rows: some ten seconds."""


@dataclass(frozen=True)
class RunRecord(RunFigures):
    config: RunConfig
    names: Names | None
    """None where insight.every_steps is 0."""
    records: list[StepRecord]
    tables: list[dict[str, Any]]

    @staticmethod
    def open(path: Path) -> "RunRecord":
        """Raises ConfigError for a folder without a run."""
        figures, store = RunFigures.open(path), InsightStore(path / "insight")
        return RunRecord(
            **vars(figures),
            config=load_config(path / "config.toml"),
            names=store.names(),
            records=store.records(),
            tables=store.lines(TABLES),
        )

    def findings(self, alone: "list[RunRecord] | None" = None) -> list[Finding]:
        """Findings by the thresholds of the run's configuration. alone: single-task runs that it should not fall behind."""
        rules = self.config.insight.rules
        known = self.evaluation.get("known_ids", {})
        cold = [sign for split in self.splits for sign in cold_signs(split, from_json(known.get(split, {})), rules)]
        findings = [Finding(sign, self.steps, self.steps) for sign in cold]
        if self.names is None:
            return findings
        judge = Judge(self.names, rules)
        judge.replay(self.store)
        findings += judge.findings()
        split = next(iter(self.splits), None)
        if alone and split:
            references: dict[str, float] = {}
            for run in alone:
                references |= {t: run.metric(split, t, "auc") for t in run.tasks}
            auc = {t: self.metric(split, t, "auc") for t in self.tasks}
            step = self.steps
            findings += [Finding(sign, step, step) for sign in transfer_signs(auc, references, rules)]
        return findings

    @cached_property
    def _scores(self) -> dict[str, dict[str, np.ndarray]]:
        return {}

    def scores(self, split: str) -> dict[str, np.ndarray] | None:
        """scores, labels and weights (N, K), groups (N,), or None where they were not kept."""
        if split not in self._scores:
            kept = kept_scores(self.path, split)
            if kept is None:
                return None
            self._scores[split] = kept
        return self._scores[split]

    @cached_property
    def _bootstraps(self) -> dict[str, dict[str, Bootstrap]]:
        return {}

    def bootstraps(self, split: str) -> dict[str, Bootstrap]:
        """By metric, of the tasks that have it; empty if scores were not kept or are too many."""
        if split not in self._bootstraps:
            kept = self.scores(split)
            drawn: dict[str, Bootstrap] = {}
            if kept is not None and 0 < len(kept["groups"]) <= _LARGEST:
                groups = drawn_groups(self, kept)
                binary, numbers = (of_family(kept, self.tasks, family) for family in ("binary", "number"))
                if binary[0]:
                    drawn |= zip(("auc", "gauc"), bootstrap(*binary, groups, RESAMPLES), strict=True)
                if numbers[0]:
                    drawn |= zip(("mae", "rmse"), bootstrap_errors(*numbers, groups, RESAMPLES), strict=True)
                    drawn |= zip(("xauc", "user_xauc"), bootstrap_xauc(*numbers, groups, RESAMPLES), strict=True)
            self._bootstraps[split] = drawn
        return self._bootstraps[split]


def same_rows(first: RunRecord, second: RunRecord, split: str) -> bool:
    """Whether both runs scored the same rows in the same order, so that a row-by-row comparison is valid."""
    one, two = first.scores(split), second.scores(split)
    if one is None or two is None or first.tasks != second.tasks:
        return False
    return all(np.array_equal(one[name], two[name]) for name in ("labels", "weights", "groups"))
