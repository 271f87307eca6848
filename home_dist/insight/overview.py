"""Table of many runs with their results.

Made without torch, and from as few bytes as tell them: a folder may hold hundreds of runs, each with records of months.
"""

import math
import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from home_dist.errors import ConfigError
from home_dist.files.json_files import newest_entries, read_entries, read_json
from home_dist.files.toml_text import read_toml
from home_dist.insight.run_files import CURVES, FINDINGS, MEASURES, TABLES

_NEWEST = 1 << 15
"""Bytes of a run's curves that are read: some twenty-five intervals."""
_SPLITS = ("test", "validation", "train")


@dataclass(frozen=True)
class RunEntry:
    """Main figures of a run."""

    run: str
    """Its folder within the one that was searched."""
    path: str
    model: str
    steps: int
    samples_per_second: float
    """Median over the newest intervals; NaN where none was timed."""
    split: str | None
    """That `means` are of: test, or else the first split evaluated. None: nothing is evaluated so far."""
    means: dict[str, float]
    """By measure: mean over the tasks that have it, else NaN."""
    findings: int | None
    """None where insight has not looked."""


def find_runs(folder: Path) -> list[Path]:
    """Folders of runs at or below `folder`, by name. A run's own subfolders hold none."""
    found = []
    for path, folders, files in os.walk(folder):
        if "config.toml" in files and "schema.toml" in files:
            found.append(Path(path))
            folders.clear()
    return sorted(found)


def entries(folder: Path, paths: Sequence[Path]) -> list[RunEntry]:
    return [_entry(folder, path) for path in paths]


def _entry(folder: Path, path: Path) -> RunEntry:
    """Raises ConfigError for a run whose files cannot be read."""
    model = read_toml(path / "config.toml", "").get("model", {})
    evaluation = read_json(path / "evaluation.json", "Remove it; the run's own command writes it anew.", ConfigError)
    split = next((s for s in _SPLITS if s in evaluation), None)
    insight = path / "insight"
    curves = newest_entries(insight / CURVES, _NEWEST)
    rates = [c["samples_per_second"] for c in curves if c.get("samples_per_second")]
    records = [int(p.stem.partition("-")[2]) for p in insight.glob("step-*.npz")]
    looked = (insight / "names.json").is_file() and (bool(records) or (insight / TABLES).is_file())
    return RunEntry(
        run=str(path.relative_to(folder)) if path != folder else path.name,
        path=str(path),
        model=model.get("kind", "-") if isinstance(model, dict) else "-",
        steps=max([evaluation.get("step", 0), *(c["step"] for c in curves[-1:]), *records]),
        samples_per_second=statistics.median(rates) if rates else math.nan,
        split=split,
        means={m: _mean(evaluation[split], m) if split else math.nan for m in MEASURES},
        findings=sum(1 for _ in read_entries(insight / FINDINGS)) if looked else None,
    )


def _mean(tasks: Mapping[str, Mapping[str, float | None]], measure: str) -> float:
    values = [value for task in tasks.values() if (value := task.get(measure)) is not None]
    return math.fsum(values) / len(values) if values else math.nan


def runs_table(folder: Path, runs: Sequence[RunEntry]) -> Table:
    """One row per run."""
    table = Table(title=f"runs in {folder}: means over tasks")
    table.add_column("run", no_wrap=True)
    table.add_column("model")
    of_numbers = [m for m in ("mae", "xauc") if any(not math.isnan(run.means[m]) for run in runs)]
    measures = ["auc", "gauc", "log_loss", *of_numbers]
    for name in ("steps", "samples/s", "split", *(MEASURES[m] for m in measures), "findings"):
        table.add_column(name, justify="right")
    for run in runs:
        table.add_row(
            run.run,
            run.model,
            f"{run.steps:,}" + ("" if run.split else " so far"),
            "-" if math.isnan(run.samples_per_second) else f"{run.samples_per_second:,.0f}",
            run.split or "-",
            *(_number(run.means[name]) for name in measures),
            "-" if run.findings is None else str(run.findings),
        )
    return table


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4f}"
