"""`home-dist sweep --rolling`: each setting is trained at several origins, and tested on days that it has not seen.

Origin t trains on days 1 to t, chooses on day t + 1 (its validation split), and is tested on day t + 2. Its data folder is cut
from the run's data, with all that is fitted refitted on its training days (prepare/origins). The test rows of all origins are
pooled. Folders in run.dir:

    data/origin-08                        the data of an origin
    model.kind=home/seed-0/origin-08      a run, as `home-dist train` makes it
    pooled/model.kind=home/seed-0         the scores of a setting and seed, all origins together
    sweep.json, sweep.png                 results
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from home_dist.config import load_config
from home_dist.errors import ConfigError
from home_dist.files.json_files import write_json
from home_dist.insight.run_figures import RunFigures
from home_dist.insight.settings import Setting
from home_dist.prepare.days import day_name
from home_dist.prepare.origins import read_dated, write_origin
from home_dist.screen import Screen
from home_dist.training.sweep import SweepEngine, SweepRun, opened, plan, refuse_failed, train_missing

_CUT = ("data.path", "data.schema", "data.train", "data.validation", "data.test")


@dataclass(frozen=True)
class RollingPlan:
    runs: list[SweepRun]
    days: dict[int, str]
    """By number of the origin: its test day."""


def plan_rolling(
    config: Path,
    grid: Sequence[str],
    seeds: int,
    overrides: Sequence[str],
    asked: str,
    utc_offset_hours: float | None,
    screen: Screen,
) -> RollingPlan:
    """Cuts the data of each origin that is not there yet, and plans the runs. asked: the origins, as "8:12". Raises ConfigError
    and DataError before anything is trained."""
    for text in grid:
        if text.partition("=")[0].strip() in _CUT:
            raise ConfigError(f"--grid {text}: --rolling cuts the data of one folder by day; it cannot be varied")
    without_origins = plan(config, grid, seeds, overrides)  # wrong settings are told before data are written
    base = load_config(config, overrides)
    if Path(base.run.dir).resolve() in (Path(base.data.path).resolve(), *Path(base.data.path).resolve().parents):
        raise ConfigError(
            f"run.dir {base.run.dir}: holds the data folder {base.data.path}. Choose a folder of its own for runs."
        )
    dated = read_dated(base, utc_offset_hours)
    origins = dated.origins(asked)
    screen.say(
        f"rolling origin: {len(origins)} origins; days of the calendar {dated.utc_offset_hours:+g} h from UTC, "
        f"{day_name(dated.first)} to {day_name(dated.last)}; tested on {day_name(origins[0].day + 2)} to "
        f"{day_name(origins[-1].day + 2)}"
    )
    _demand_scores(without_origins, max(dated.rows[o.day + n] for o in origins for n in (1, 2)))
    folder = Path(base.run.dir) / "data"
    folder.mkdir(parents=True, exist_ok=True)
    for origin in origins:
        write_origin(dated, origin, folder / origin.name, screen.say)
    settings = {o.name: _settings(folder / o.name, base.data.data_schema is not None) for o in origins}
    return RollingPlan(plan(config, grid, seeds, overrides, settings), {o.number: day_name(o.day + 2) for o in origins})


def _demand_scores(runs: Sequence[SweepRun], rows: int) -> None:
    """Raises ConfigError for runs that would not keep the scores of a day of so many rows, which a pool consists of."""
    for run in runs:
        if run.config.metrics.keep_scores < rows:
            raise ConfigError(
                f"metrics.keep_scores = {run.config.metrics.keep_scores}: a day has {rows:,} rows, and --rolling pools the "
                f"scores of whole days. Set it to {rows} at least."
            )


def _settings(folder: Path, schema: bool) -> list[str]:
    parts = [f"data.{split}={split}" for split in ("train", "validation", "test")]
    return [f"data.path={folder}", *parts, *([f"data.schema={folder / 'schema.toml'}"] if schema else [])]


def rolling_sweep(config: Path, planned: RollingPlan, engine: SweepEngine, by: str, screen: Screen) -> dict[str, Any]:
    """Trains incomplete runs, pools the scores of those that are there at all origins, and shows the tables. Raises as
    sweep.sweep does."""
    failed = train_missing(config, planned.runs, engine, by, screen)
    from home_dist.insight.rolling_pool import pool  # imports torch, which trains in other processes until here
    from home_dist.insight.rolling_report import RollingReport
    from home_dist.insight.sweep_report import SweepReport

    root = planned.runs[0].sweep
    members: dict[str, dict[int, dict[int, RunFigures]]] = {}
    folders: dict[tuple[str, int], Path] = {}
    for run in planned.runs:
        seed = run.config.train.seed
        folders[run.settings, seed] = root / "pooled" / run.folder.parent.parent.name / run.folder.parent.name
        if (figures := opened(run, failed)) is not None:
            members.setdefault(run.settings, {}).setdefault(seed, {})[_number(run)] = figures
    whole = {
        name: {seed: runs for seed, runs in seeds.items() if len(runs) == len(planned.days)} for name, seeds in members.items()
    }
    whole = {name: seeds for name, seeds in whole.items() if seeds}
    results = dict[str, Any]()
    if whole:
        pools = [
            Setting(name, {seed: pool(runs, folders[name, seed]) for seed, runs in seeds.items()})
            for name, seeds in whole.items()
        ]
        report = SweepReport(pools, by)
        report.show(f"rolling sweep {root}, {len(planned.days)} origins pooled", screen)
        rolling = RollingReport.of(whole, report.settings, by, planned.days, root / "pooled")
        rolling.show(screen)
        rolling.picture(root / "sweep.png")
        results = report.to_json() | {"rolling": rolling.to_json()}
        write_json(root / "sweep.json", results)
        screen.say(f"results: {root / 'sweep.json'}, {root / 'sweep.png'}")
    refuse_failed(failed, planned.runs)
    return results


def _number(run: SweepRun) -> int:
    return int(run.origin.rpartition("-")[2])
