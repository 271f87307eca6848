"""`home-dist sweep`: trains one run per combination of settings and seed, one after the other, and shows their results.

Each run has its own folder below run.dir and is started as a user would start it. The same command continues a stopped sweep:
it skips complete runs and resumes the interrupted one.
"""

import itertools
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from home_dist.config import RunConfig, load_config
from home_dist.errors import ConfigError, UserError
from home_dist.files.json_files import write_json
from home_dist.insight.overview import MEASURES, spread, spread_table
from home_dist.insight.run_figures import RunFigures
from home_dist.screen import Screen


@dataclass(frozen=True)
class SweepRun:
    settings: str
    """The combination's settings, such as "model.kind=home"."""
    overrides: tuple[str, ...]
    config: RunConfig

    @property
    def folder(self) -> Path:
        return Path(self.config.run.dir)

    @property
    def complete(self) -> bool:
        """Whether the run has trained with this configuration and has been evaluated on all its splits."""
        evaluation = self.folder / "evaluation.json"
        if not evaluation.is_file() or load_config(self.folder / "config.toml") != self.config:
            return False
        splits = [s for s in ("validation", "test") if getattr(self.config.data, s)]
        return all(split in json.loads(evaluation.read_text()) for split in splits)


class SweepFailed(UserError):
    exit_code = 6


def plan(config: Path, grid: Sequence[str], seeds: int, overrides: Sequence[str]) -> list[SweepRun]:
    """One run for each combination of the grid and each seed. Raises ConfigError before any run starts."""
    if seeds < 1:
        raise ConfigError(f"--seeds {seeds}: a sweep takes at least one seed")
    axes = [_axis(text) for text in grid]
    base = load_config(config, overrides)
    planned = []
    for combination in itertools.product(*axes):
        settings = ", ".join(combination) or "as configured"
        name = ",".join(_plain(part.split(".")[-1]) for part in combination) or "as_configured"
        for seed in range(base.train.seed, base.train.seed + seeds):
            folder = Path(base.run.dir) / name / f"seed-{seed}"
            chosen = (*overrides, *combination, f"train.seed={seed}", f"run.dir={folder}")
            planned.append(SweepRun(settings, chosen, load_config(config, chosen)))
    folders = [p.folder for p in planned]
    if len(set(folders)) < len(folders):
        raise ConfigError(f"--grid {' '.join(grid)}: a value is listed twice")
    return planned


def sweep(config: Path, planned: Sequence[SweepRun], ranks: int, screen: Screen) -> None:
    """Trains incomplete runs, then shows the table and writes sweep.json. Raises SweepFailed if some runs failed."""
    failed = []
    for n, run in enumerate(planned, 1):
        label = f"[{n}/{len(planned)}] {run.settings}, seed {run.config.train.seed}"
        if run.complete:
            screen.say(f"{label}: complete")
            continue
        screen.say(f"{label}: {run.folder}")
        options = [part for override in run.overrides for part in ("--set", override)]
        code = subprocess.run([*_program(ranks), "train", str(config), *options]).returncode
        if code:
            failed.append(f"{run.folder} (exit code {code})")
    by_settings: dict[str, list[RunFigures]] = {}
    for run in planned:
        if run.complete:
            by_settings.setdefault(run.settings, []).append(RunFigures.open(run.folder))
    if by_settings:
        folder = planned[0].folder.parent.parent
        screen.table(spread_table(f"sweep {folder}: means over tasks, ± standard deviation over seeds", by_settings))
        write_json(folder / "sweep.json", _results(by_settings))
    if failed:
        raise SweepFailed(
            f"{len(failed)} of {len(planned)} runs failed: {'; '.join(failed)}. What they printed tells why; the same command "
            "starts these again."
        )


def _results(by_settings: dict[str, list[RunFigures]]) -> dict[str, object]:
    """Per settings and measure: mean and standard deviation over seeds, and each run's value."""
    measured_by_settings: dict[str, object] = {}
    for settings, runs in by_settings.items():
        measured = {}
        for name, _ in MEASURES:
            values = [run.mean(run.splits[0], name) for run in runs if run.splits]
            mean, deviation = spread(values)
            measured[name] = {"mean": mean, "standard_deviation": deviation, "runs": values}
        measured_by_settings[settings] = {"split": next((s for run in runs for s in run.splits), None), **measured}
    return measured_by_settings


def _program(ranks: int) -> list[str]:
    several = ["torch.distributed.run", "--nproc-per-node", str(ranks), "--rdzv-backend", "c10d"]
    several += ["--rdzv-endpoint", "localhost:0", "-m"]
    return [sys.executable, "-m", *(several if ranks > 1 else []), "home_dist.cli"]


def _axis(text: str) -> list[str]:
    """ "model.kind=mmoe,home" -> ["model.kind=mmoe", "model.kind=home"]; commas in brackets and quotes belong to a value."""
    key, equals, listed = text.partition("=")
    values, depth, quote = [""], 0, ""
    for letter in listed:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "\"'":
            quote = letter
        else:
            depth += (letter in "[{") - (letter in "]}")
        if letter == "," and not depth and not quote:
            values.append("")
        else:
            values[-1] += letter
    if not equals or not key.strip() or not all(v.strip() for v in values):
        raise ConfigError(f"--grid {text}: write it as section.key=value,value, e.g. --grid model.kind=mmoe,ple,home")
    return [f"{key.strip()}={value.strip()}" for value in values]


def _plain(text: str) -> str:
    """The text as part of a folder's name."""
    return "".join(letter if letter.isalnum() or letter in "=._-" else "_" for letter in text)
