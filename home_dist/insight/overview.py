"""Tables of many runs: each run's results, and each setting's results over several seeds."""

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.table import Table

from home_dist.insight.run_figures import RunFigures

MEASURES = (("auc", "AUC"), ("gauc", "GAUC"), ("log_loss", "log loss"))
"""Means over tasks, by their names in evaluation.json."""


def find_runs(folder: Path) -> list[Path]:
    """Folders of runs at or below `folder`, by name."""
    return sorted(path.parent for path in folder.rglob("config.toml") if (path.parent / "schema.toml").is_file())


def runs_table(folder: Path, paths: Sequence[Path]) -> Table:
    """One row per run. Measures are means over tasks on the test split, or else on the first split evaluated."""
    table = Table(title=f"runs in {folder}: means over tasks")
    table.add_column("run", no_wrap=True)
    table.add_column("model")
    for name in ("steps", "samples/s", "split", *(label for _, label in MEASURES), "findings"):
        table.add_column(name, justify="right")
    for path in paths:
        run = RunFigures.open(path)
        split = next(iter(run.splits), None)
        rates = [c["samples_per_second"] for c in run.curves if c["samples_per_second"]]
        table.add_row(
            str(path.relative_to(folder)) if path != folder else path.name,
            run.model_kind,
            f"{run.steps:,}" + ("" if split else " so far"),
            f"{statistics.median(rates):,.0f}" if rates else "-",
            split or "-",
            *(_number(run.mean(split, name) if split else math.nan) for name, _ in MEASURES),
            str(run.findings_told) if run.looked_at else "-",
        )
    return table


def spread_table(title: str, runs: Mapping[str, Sequence[RunFigures]]) -> Table:
    """Means and standard deviations over seeds, one row per setting. runs: by setting, one run per seed."""
    table = Table(title=title)
    table.add_column("settings", overflow="fold")
    for name in ("runs", *(label for _, label in MEASURES)):
        table.add_column(name, justify="right")
    for settings, runs_of_setting in runs.items():
        cells = [spread([_of_first_split(run, name) for run in runs_of_setting]) for name, _ in MEASURES]
        table.add_row(settings, str(len(runs_of_setting)), *(_with_spread(mean, deviation) for mean, deviation in cells))
    return table


def spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation of the values that are not NaN; NaN where there are too few."""
    defined = [v for v in values if not math.isnan(v)]
    mean = statistics.fmean(defined) if defined else math.nan
    return mean, statistics.stdev(defined) if len(defined) > 1 else math.nan


def _of_first_split(run: RunFigures, name: str) -> float:
    return run.mean(run.splits[0], name) if run.splits else math.nan


def _with_spread(mean: float, deviation: float) -> str:
    return _number(mean) + ("" if math.isnan(deviation) else f" ± {deviation:.4f}")


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4f}"
