"""Table of many runs with their results. Made without torch."""

import math
import statistics
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from home_dist.insight.run_figures import RunFigures
from home_dist.insight.settings import MEASURES


def find_runs(folder: Path) -> list[Path]:
    """Folders of runs at or below `folder`, by name."""
    return sorted(path.parent for path in folder.rglob("config.toml") if (path.parent / "schema.toml").is_file())


def runs_table(folder: Path, paths: Sequence[Path]) -> Table:
    """One row per run. Measures are means over tasks on the test split, or else on the first split evaluated."""
    table = Table(title=f"runs in {folder}: means over tasks")
    table.add_column("run", no_wrap=True)
    table.add_column("model")
    runs = [(path, RunFigures.open(path)) for path in paths]
    splits = {path: next(iter(run.splits), None) for path, run in runs}
    of_numbers = [m for m in ("mae", "xauc") if any(not math.isnan(_mean(run, splits[path], m)) for path, run in runs)]
    measures = ["auc", "gauc", "log_loss", *of_numbers]
    for name in ("steps", "samples/s", "split", *(MEASURES[m] for m in measures), "findings"):
        table.add_column(name, justify="right")
    for path, run in runs:
        split = next(iter(run.splits), None)
        rates = [c["samples_per_second"] for c in run.curves if c["samples_per_second"]]
        table.add_row(
            str(path.relative_to(folder)) if path != folder else path.name,
            run.model_kind,
            f"{run.steps:,}" + ("" if split else " so far"),
            f"{statistics.median(rates):,.0f}" if rates else "-",
            split or "-",
            *(_number(_mean(run, split, name)) for name in measures),
            str(run.findings_told) if run.looked_at else "-",
        )
    return table


def _mean(run: RunFigures, split: str | None, name: str) -> float:
    return run.mean(split, name) if split else math.nan


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4f}"
