"""Differences between the best setting of a sweep and each other one, with intervals.

Users are drawn with replacement, the same in all runs. In each draw the difference is taken between runs of the same seed, and
averaged over seeds. The interval thus tells the chance of these users, not that of further seeds.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from home_dist.insight.kept_scores import RESAMPLES, drawn_groups, fingerprint, kept_scores, of_family
from home_dist.insight.run_figures import RunFigures
from home_dist.insight.run_files import MEASURES
from home_dist.insight.settings import Setting, SplitOfSettings
from home_dist.metrics import (
    Bootstrap,
    Interval,
    bootstrap,
    bootstrap_errors,
    bootstrap_log_loss,
    bootstrap_xauc,
    mean_bootstrap,
)


@dataclass(frozen=True)
class Difference:
    """A setting, the best one say, minus `other`."""

    other: str
    seeds: tuple[int, ...]
    """Seeds that both settings have."""
    intervals: dict[str, Interval]
    """By measure; low and high are NaN where there is no interval."""
    no_interval: str = ""
    """Why there is none."""


@dataclass(frozen=True)
class _Drawn:
    by_measure: dict[str, Bootstrap]
    rows: tuple[int, int]
    """Tells the rows, see fingerprint."""


class Differences:
    """Between settings on one split. A run's draws are taken once."""

    def __init__(self, measured: SplitOfSettings):
        self._measured = measured
        self._tasks = {measure: measured.tasks(measure) for measure in MEASURES}
        self._drawn: dict[Path, _Drawn | None] = {}

    def between(self, best: Setting, other: Setting) -> Difference:
        """Raises ConfigError for files of scores that are damaged."""
        undefined = [s.name for s in (best, other) if all(math.isnan(self._measured.mean(s, m)) for m in MEASURES)]
        seeds = tuple(n for n in best.runs if n in other.runs and self._defined(best.runs[n]) and self._defined(other.runs[n]))
        pairs = [(best.runs[n], other.runs[n]) for n in seeds]
        if undefined or not pairs:
            why = f"nothing is defined for {undefined[0]}" if undefined else "no seed has ended in both settings"
            return Difference(other.name, seeds, self._plain(pairs), why)
        drawn = []
        for pair in pairs:
            one, two = map(self._of_run, pair)
            if one is None or two is None:
                missing = pair[0 if one is None else 1].path / "scores" / f"{self._measured.split}.npz"
                why = f"{missing} is not there: scores are kept of splits of at most metrics.keep_scores rows"
                return Difference(other.name, seeds, self._plain(pairs), why)
            if one.rows != two.rows:
                why = f"{pair[0].path} and {pair[1].path} were not measured on the same rows"
                return Difference(other.name, seeds, self._plain(pairs), why)
            drawn.append((one, two))
        intervals = {m: _interval(m, drawn) for m in MEASURES}
        return Difference(other.name, seeds, intervals)

    def _defined(self, run: RunFigures) -> bool:
        return any(not math.isnan(run.mean(self._measured.split, m, self._tasks[m])) for m in MEASURES)

    def _plain(self, pairs: Sequence[tuple[RunFigures, RunFigures]]) -> dict[str, Interval]:
        """Without intervals, from the figures of evaluation.json."""
        plain = {}
        for measure, tasks in self._tasks.items():
            means = [[run.mean(self._measured.split, measure, tasks) for run in pair] for pair in pairs]
            estimate = math.fsum(one - two for one, two in means) / len(means) if means else math.nan
            plain[measure] = Interval(estimate, math.nan, math.nan, 0)
        return plain

    def _of_run(self, run: RunFigures) -> _Drawn | None:
        if run.path not in self._drawn:
            self._drawn[run.path] = self._draw(run)
        return self._drawn[run.path]

    def _draw(self, run: RunFigures) -> _Drawn | None:
        kept = kept_scores(run.path, self._measured.split)
        if kept is None:
            return None
        groups = drawn_groups(run, kept)
        by_measure: dict[str, Bootstrap] = {}
        binary, numbers = (of_family(kept, run.tasks, family) for family in ("binary", "number"))
        if binary[0]:
            by_measure |= zip(("auc", "gauc"), bootstrap(*binary, groups, RESAMPLES, within=kept.get("days")), strict=True)
            by_measure["log_loss"] = bootstrap_log_loss(*binary, groups, RESAMPLES)
        if numbers[0]:
            by_measure["mae"] = bootstrap_errors(*numbers, groups, RESAMPLES)[0]
            by_measure["xauc"] = bootstrap_xauc(*numbers, groups, RESAMPLES)[0]
        compared = [t for t in run.tasks if any(t in tasks for tasks in self._tasks.values())]
        return _Drawn(
            {measure: drawn.only(self._tasks[measure]) for measure, drawn in by_measure.items()},
            fingerprint(kept, groups, [run.tasks.index(t) for t in compared]),
        )


def _interval(measure: str, drawn: Sequence[tuple[_Drawn, _Drawn]]) -> Interval:
    """Of the mean difference over pairs of runs; without estimate for a measure that they do not have."""
    if any(measure not in run.by_measure for pair in drawn for run in pair):
        return Interval(math.nan, math.nan, math.nan, 0)
    return mean_bootstrap([one.by_measure[measure].minus(two.by_measure[measure]) for one, two in drawn]).interval()


def chance(interval: Interval) -> bool:
    """Whether the interval covers 0."""
    return interval.low <= 0 <= interval.high


def interval_json(interval: Interval) -> dict[str, Any]:
    """With whether it covers 0; None where there is no interval."""
    return {**asdict(interval), "chance": None if math.isnan(interval.low) else chance(interval)}
