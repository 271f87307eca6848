"""`home-dist sweep`: trains one run per combination of settings and seed, and shows their results.

Each run has its own folder below run.dir. An engine trains: LocalRuns, which starts one run after the other as a user would, or
jobs of a scheduler (sweep_jobs.py). The same command continues a stopped sweep: it skips complete runs and resumes interrupted
ones. Results stand in sweep.json in run.dir; SweepReport.to_json says how.
"""

import itertools
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

from home_dist.config import InsightSection, LogSection, RunConfig, config_tree, load_config
from home_dist.config.written import flat
from home_dist.errors import ConfigError, UserError
from home_dist.files.json_files import read_json, write_json
from home_dist.insight.run_figures import RunFigures
from home_dist.insight.settings import Setting
from home_dist.schema import load_schema
from home_dist.screen import Screen

_AS_CONFIGURED = "as configured"


@dataclass(frozen=True)
class SweepRun:
    settings: str
    """What differs from the sweep's other combinations, such as "model.kind=home"."""
    name: str
    """What differs from its other runs, such as "model.kind=home, seed 0"."""
    overrides: tuple[str, ...]
    config: RunConfig
    sweep: Path
    """The sweep's own folder, run.dir of its configuration."""
    origin: str = ""
    """Of a sweep with a rolling origin: the folder's name of the run's origin, such as "origin-08"."""

    @property
    def folder(self) -> Path:
        return Path(self.config.run.dir)

    @property
    def complete(self) -> bool:
        """Whether the run has trained with this configuration and has been evaluated on all its splits; what it tells of itself
        may differ. Raises ConfigError for a folder whose files cannot be read."""
        evaluation = self.folder / "evaluation.json"
        if not evaluation.is_file() or _trained(load_config(self.folder / "config.toml")) != _trained(self.config):
            return False
        splits = [s for s in ("validation", "test") if getattr(self.config.data, s)]
        tree = read_json(evaluation, "Remove it; the same command writes it anew.", ConfigError)
        return all(split in tree for split in splits)


def _trained(config: RunConfig) -> RunConfig:
    """The configuration without what only tells of a training."""
    return config.model_copy(update={"log": LogSection(), "insight": InsightSection()})


class SweepFailed(UserError):
    exit_code = 6


def plan(
    config: Path,
    grid: Sequence[str],
    seeds: int,
    overrides: Sequence[str],
    origins: Mapping[str, Sequence[str]] = MappingProxyType({"": ()}),
) -> list[SweepRun]:
    """One run for each combination of the grid, each seed and each origin. origins: by name, the settings of its data. Raises
    ConfigError before any run starts."""
    if seeds < 1:
        raise ConfigError(f"--seeds {seeds}: a sweep takes at least one seed")
    axes = [_axis(text) for text in grid]
    base = load_config(config, overrides)
    if base.publish is not None:
        raise ConfigError(
            f"{config}: a sweep's trials are for no server: leave [publish] out, and publish the chosen run with "
            "home-dist publish RUN --to PLACE"
        )
    planned = []
    for combination in itertools.product(*axes):
        differing = [part for part, axis in zip(combination, axes, strict=True) if len(axis) > 1]
        of_folder = ",".join(map(folder_name, combination)) or "as_configured"
        for seed in range(base.train.seed, base.train.seed + seeds):
            for origin, of_data in origins.items():
                folder = Path(base.run.dir) / of_folder / f"seed-{seed}" / origin
                chosen = (*overrides, *combination, f"train.seed={seed}", *of_data, f"run.dir={folder}")
                parts = [*differing, *([f"seed {seed}"] if seeds > 1 else []), *([origin.replace("-", " ")] if origin else [])]
                settings, name = ", ".join(differing) or _AS_CONFIGURED, ", ".join(parts) or _AS_CONFIGURED
                planned.append(SweepRun(settings, name, chosen, load_config(config, chosen), Path(base.run.dir), origin))
    folders = [p.folder for p in planned]
    if len(set(folders)) < len(folders):
        raise ConfigError(f"--grid {' '.join(grid)}: a value is listed twice")
    return planned


class SweepEngine(Protocol):
    def train(self, config: Path, runs: Sequence[tuple[str, SweepRun]], screen: Screen) -> list[str]:
        """Trains labelled runs, as "[1/4] seed 0"; describes those that failed."""
        ...


class LocalRuns:
    """One run after the other, as processes of this machine."""

    def __init__(self, ranks: int):
        self._ranks = ranks

    def train(self, config: Path, runs: Sequence[tuple[str, SweepRun]], screen: Screen) -> list[str]:
        failed = []
        for label, run in runs:
            screen.say(f"{label}: {run.folder}")
            options = [part for override in run.overrides for part in ("--set", override)]
            code = subprocess.run([*program(self._ranks), "train", str(config), *options]).returncode
            if code:
                failed.append(f"{run.name} ({run.folder}, exit code {code})")
        return failed


def train_missing(config: Path, planned: Sequence[SweepRun], engine: SweepEngine, by: str, screen: Screen) -> list[str]:
    """Trains incomplete runs; describes those that failed. Raises ConfigError where the runs cannot have the measure `by`."""
    if by == "gauc":
        _demand_groups(planned)
    missing = []
    for n, run in enumerate(planned, 1):
        label = f"[{n}/{len(planned)}] {run.name}"
        if run.complete:
            screen.say(f"{label}: complete")
        else:
            missing.append((label, run))
    return engine.train(config, missing, screen)


def sweep(config: Path, planned: Sequence[SweepRun], engine: SweepEngine, by: str, screen: Screen) -> dict[str, Any]:
    """Trains incomplete runs, then shows the tables and writes sweep.json, whose tree it returns. by: "auc", "gauc" or
    "log_loss", which ranks the settings. Raises ConfigError where the runs cannot have this measure, SweepFailed if some
    failed."""
    failed = train_missing(config, planned, engine, by, screen)
    by_settings: dict[str, dict[int, RunFigures]] = {}
    for run in planned:
        if (figures := opened(run, failed)) is not None:
            by_settings.setdefault(run.settings, {})[run.config.train.seed] = figures
    results = dict[str, Any]()
    if by_settings:
        from home_dist.insight.sweep_report import SweepReport  # imports torch, which trains in other processes until here

        folder = planned[0].sweep
        report = SweepReport([Setting(name, runs) for name, runs in by_settings.items()], by)
        report.show(f"sweep {folder}", screen)
        results = report.to_json()
        write_json(folder / "sweep.json", results)
    refuse_failed(failed, planned)
    return results


def opened(run: SweepRun, failed: list[str]) -> RunFigures | None:
    """The figures of a run that is complete. Of another one, adds to `failed` why it is not, unless it stands there."""
    try:
        if run.complete:
            return RunFigures.open(run.folder)
        problem = _other_settings(run)
    except UserError as error:
        problem = f": {error}"
    if not any(str(run.folder) in text for text in failed):
        failed.append(f"{run.name} ({run.folder}){problem}")
    return None


def _other_settings(run: SweepRun) -> str:
    """Of a run that was not trained by this sweep. Raises ConfigError for a folder without a run."""
    there, wanted = (flat(config_tree(c)) for c in (load_config(run.folder / "config.toml"), run.config))
    keys = [key for key in sorted(there.keys() | wanted.keys()) if there.get(key) != wanted.get(key)]
    differing = [f"{key} = {there.get(key, 'not set')!r} there, {wanted.get(key, 'not set')!r} here" for key in keys[:3]]
    return (
        f" is a run of other settings, or not evaluated on all splits: {'; '.join(differing)}. Give its settings, another "
        "run.dir, or remove the folder"
    )


def refuse_failed(failed: Sequence[str], planned: Sequence[SweepRun]) -> None:
    """Raises SweepFailed if runs failed."""
    if failed:
        raise SweepFailed(
            f"{len(failed)} of {len(planned)} runs failed: {'; '.join(failed)}. What they printed tells why; the same command "
            "starts these again."
        )


def _demand_groups(planned: Sequence[SweepRun]) -> None:
    """Raises ConfigError where the data names no users."""
    from home_dist.data.side_files import with_local_schema

    for run in {run.config.schema_path(): run for run in planned}.values():
        path = run.config.schema_path()
        if load_schema(with_local_schema(run.config).schema_path()).group_column is None:
            raise ConfigError(
                f"--by gauc: {path} has no group_column, so that no run has a GAUC. Name the users' column there, or rank by "
                "auc or log_loss."
            )


def program(ranks: int) -> list[str]:
    """A command that starts home-dist as so many ranks of this machine."""
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


def folder_name(setting: str) -> str:
    """A setting as part of a folder's name: the last word of its key, and the value."""
    key, _, value = setting.partition("=")
    text = f"{key.rpartition('.')[2]}={value}"
    return "".join(letter if letter.isalnum() or letter in "=._-" else "_" for letter in text)
