"""Commands that train and evaluate, or tell what training would take."""

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from home_dist import process
from home_dist.cli.alike import alike_on_all_ranks, settings_of
from home_dist.cli.command import Overrides, command
from home_dist.cli.document import AsJson, document

group = typer.Typer()


class Split(StrEnum):
    train = "train"
    validation = "validation"
    test = "test"


class SweepEngineKind(StrEnum):
    local = "local"
    torchx = "torchx"


class Measure(StrEnum):
    auc = "auc"
    gauc = "gauc"
    log_loss = "log_loss"
    mae = "mae"
    xauc = "xauc"


@command(group)
def train(
    config: Annotated[Path, typer.Argument(help="TOML file of the run.")],
    overrides: Overrides = None,
    warm_start: Annotated[
        Path | None,
        typer.Option(
            "--from", help="A checkpoint or run.dir that a new run begins with; section checkpoint.warm_start says more."
        ),
    ] = None,
    profile: Annotated[
        bool, typer.Option("--profile", help="Trace some steps, and tell where their time went and what exchange was hidden.")
    ] = False,
    profile_steps: Annotated[int, typer.Option(min=1, help="How many, with --profile.")] = 10,
) -> None:
    """Train a model. The same command goes on with a run that was interrupted."""
    process.tune_allocator()
    begin = [f"checkpoint.warm_start.from={json.dumps(str(warm_start))}"] if warm_start else []
    settings = settings_of(config, [*(overrides or []), *begin])
    from home_dist.cli.native import build_beside_imports

    build_beside_imports()
    from home_dist.distributed import ranks
    from home_dist.training import train as training

    formed, steps = ranks.form_ranks(settings.distributed), profile_steps if profile else 0
    if settings.publish is None:
        training.train(settings, formed, steps)
    else:
        from home_dist.publish.live import Publisher

        training.train(settings, formed, steps, Publisher)


@command(group)
def evaluate(
    run: Annotated[Path, typer.Argument(help="run.dir of a run.")],
    split: Annotated[
        list[Split] | None, typer.Option(help="By default validation and test; may be given several times.")
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="A checkpoint of the run, or RUN/best; by default the newest.")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="Other data to evaluate on, such as later days: a folder or URL with a schema.toml.")
    ] = None,
    pooled: Annotated[bool, typer.Option("--pooled", help="Measure the splits together, as one.")] = False,
    out: Annotated[Path | None, typer.Option(help="File for all figures, as JSON.")] = None,
    as_json: AsJson = False,
    ema: Annotated[bool | None, typer.Option(help="With averaged parameters; by default as train.ema says.")] = None,
) -> None:
    """Evaluate a run's checkpoint, on any number of ranks."""
    process.tune_allocator()
    from home_dist.distributed import ranks
    from home_dist.training import evaluate as evaluating
    from home_dist.training.run_folder import RunFolder

    with document(as_json) as hand:
        settings, _ = alike_on_all_ranks(RunFolder(run).open)
        chosen = tuple(dict.fromkeys(s.value for s in split or ()))
        formed = ranks.form_ranks(settings.distributed)
        figures = evaluating.evaluate_run(run, checkpoint, chosen, formed, data, pooled, out, ema)
        if formed.first:
            hand(figures)


@command(group)
def sweep(
    config: Annotated[Path, typer.Argument(help="TOML file of the run; its run.dir takes a folder per run.")],
    grid: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE,VALUE", help="Values to try; several are tried in all combinations.")
    ] = None,
    seeds: Annotated[int, typer.Option(help="Runs of each combination, with train.seed counted up.")] = 1,
    ranks: Annotated[int, typer.Option(min=1, help="Ranks of each run, on one machine.")] = 1,
    by: Annotated[
        Measure, typer.Option(help="Mean over tasks that ranks the settings, on the validation split.")
    ] = Measure.auc,
    engine: Annotated[
        SweepEngineKind, typer.Option(help="local: one run after the other, here; torchx: a job per run.")
    ] = SweepEngineKind.local,
    scheduler: Annotated[str | None, typer.Option(help="Of torchx: local_cwd (the default), slurm, kubernetes, ...")] = None,
    at_once: Annotated[
        int | None, typer.Option(min=1, help="Jobs at a time; by default 1 on this machine and 8 on a cluster.")
    ] = None,
    scheduler_option: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Of the scheduler, such as partition=gpu; several times.")
    ] = None,
    component_option: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE", help="Of launchers/components.py:train, such as j=2x8, gpu=8 or python=...; several times."
        ),
    ] = None,
    rolling: Annotated[
        str | None,
        typer.Option(
            metavar="FIRST:LAST",
            help="Origins, such as 8:12 or 2022-05-02:2022-05-06: train up to that day, choose on the next one, test on the "
            "one after; test days are pooled.",
        ),
    ] = None,
    utc_offset_hours: Annotated[
        float | None, typer.Option(help="Of the calendar of days, with --rolling; by default what the splits tell.")
    ] = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Train every combination of settings with several seeds, and rank them on validation. Goes on where it was stopped.

    With --engine torchx, Ctrl-C cancels the jobs. When the command is killed, or its machine is lost, jobs of a cluster go on,
    and the same command follows them.
    """
    from home_dist.errors import ConfigError
    from home_dist.screen import Screen
    from home_dist.training import sweep as sweeps

    trains: sweeps.SweepEngine = sweeps.LocalRuns(ranks)
    if engine is SweepEngineKind.torchx:
        from home_dist.training.sweep_jobs import JobSettings, TorchxEngine

        chosen = tuple(scheduler_option or ()), tuple(component_option or ())
        trains = TorchxEngine(JobSettings(scheduler or "local_cwd", ranks, at_once, *chosen))
    elif scheduler or at_once or scheduler_option or component_option:
        raise ConfigError(
            "--scheduler, --at-once, --scheduler-option and --component-option need --engine torchx. Give it or leave them out."
        )
    if rolling is None and utc_offset_hours is not None:
        raise ConfigError("--utc-offset-hours says where days begin, for --rolling. Give that too, or leave it out.")
    with document(as_json) as hand:
        screen = Screen(True)
        if rolling is None:
            plan = sweeps.plan(config, grid or [], seeds, overrides or [])
            results = sweeps.sweep(config, plan, trains, by.value, screen)
        else:
            from home_dist.training.rolling import plan_rolling, rolling_sweep

            planned = plan_rolling(config, grid or [], seeds, overrides or [], rolling, utc_offset_hours, screen)
            results = rolling_sweep(config, planned, trains, by.value, screen)
        hand(results)


@command(group)
def daily(
    config: Annotated[Path, typer.Argument(help="TOML file of the days; docs/howto/new-days.md shows one.")],
    out: Annotated[Path | None, typer.Option(help="File for all figures, as JSON.")] = None,
    as_json: AsJson = False,
) -> None:
    """Take a log's new days: prepare each like the day before, score it, train on it, keep or reject the model, export it."""
    from home_dist.daily.daily_section import load_daily
    from home_dist.daily.days import Daily, days_table
    from home_dist.files.json_files import write_json
    from home_dist.screen import Screen

    with document(as_json) as hand:
        screen = Screen(True)
        days = Daily(load_daily(config), screen.say).run()
        screen.table(days_table(days))
        figures = {"days": [vars(day) for day in days]}
        if out is not None:
            write_json(out, figures)
        hand(figures)


@command(group)
def bench(
    config: Annotated[Path, typer.Argument(help="TOML file of the run.")],
    steps: Annotated[int, typer.Option(min=1, help="Steps that are timed.")] = 50,
    warm_up: Annotated[int, typer.Option(min=1, help="Steps before them.")] = 10,
    traced: Annotated[int, typer.Option(min=1, help="Steps after them, which the profiler looks at.")] = 5,
    out: Annotated[Path | None, typer.Option(help="File for all figures, as JSON.")] = None,
    as_json: AsJson = False,
    overlap: Annotated[bool, typer.Option(help="Exchange ids beside the step before, as training does.")] = True,
    overrides: Overrides = None,
) -> None:
    """Time training: samples/s, percentiles of steps, where they go, memory, launches, FLOPs, bytes, share of the limits."""
    process.tune_allocator()
    with document(as_json) as hand:
        settings = settings_of(config, overrides)
        from home_dist.distributed import ranks
        from home_dist.speed import bench as timing

        formed = ranks.form_ranks(settings.distributed)
        figures = timing.bench(settings, formed, warm_up, steps, traced, out, overlap)
        if formed.first:
            hand(figures)


@command(group)
def plan(
    config: Annotated[Path, typer.Argument(help="TOML file of the run. Its data need not be there, its schema must.")],
    topology: Annotated[str, typer.Option(help="COUNTxKIND of devices, e.g. 64xH100-80GB.")],
    hosts: Annotated[int | None, typer.Option(min=1, help="By default as many as devices of this kind come in.")] = None,
    devices: Annotated[Path | None, typer.Option(help="TOML file of more kinds of devices.")] = None,
    mean_length: Annotated[
        list[str] | None, typer.Option(metavar="NAME=NUMBER", help="Ids per sample of a list feature or a sequence.")
    ] = None,
    host_speed: Annotated[float, typer.Option(min=1e-3, help="GB/s at which a host writes and reads checkpoints.")] = 2.0,
    store_speed: Annotated[
        float | None, typer.Option(min=1e-3, help="GB/s of a store of checkpoints, for all hosts together.")
    ] = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Tell what a run would need on devices that are not here: plan, memory, traffic, time, and what bounds it."""
    from home_dist.config import load_config

    notes: list[str] = []
    settings = load_config(config, overrides or [], notes)
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    from home_dist.planning import plan as planning
    from home_dist.planning.checkpoints import Speeds
    from home_dist.planning.topology import machines

    with document(as_json) as hand:
        lengths, speeds = planning.lengths_given(mean_length or []), Speeds(host_speed, store_speed)
        hand(planning.run(settings, machines(topology, hosts, devices), lengths, speeds))
