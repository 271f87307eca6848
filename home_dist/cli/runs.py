"""Commands that show what there is: runs, their reports, a data folder's buckets, this machine."""

from pathlib import Path
from typing import Annotated

import typer

from home_dist.cli.command import command
from home_dist.errors import UserError

group = typer.Typer()


@command(group)
def runs(folder: Annotated[Path, typer.Argument(help="Folder that runs lie in, at any depth.")] = Path("runs")) -> None:
    """List runs with their main figures."""
    from home_dist.insight.overview import find_runs, runs_table
    from home_dist.screen import Screen

    paths = find_runs(folder)
    if not paths:
        raise UserError(f"{folder}: no run is in it. Name the folder that run.dir of your runs lie in.")
    Screen(True).table(runs_table(folder, paths))


@command(group)
def inspect(
    run: Annotated[Path, typer.Argument(help="run.dir of a run, which may still be training.")],
    compare: Annotated[Path | None, typer.Option(help="run.dir of another run, to be shown beside it.")] = None,
    against: Annotated[
        list[Path] | None, typer.Option(help="run.dir of single-task runs that no task should fall behind; several times.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The page; by default report.html in the run's folder.")] = None,
) -> None:
    """Write a page that shows what a run's experts do: findings, metrics, experts, gates, features, tables."""
    from home_dist.insight.report import write_report

    page = write_report(run, compare, against or [], out or run / "report.html")
    print(f"report: {page}")


@command(group)
def buckets(
    folder: Annotated[Path, typer.Argument(help="A data folder or a run.dir.")],
    feature: Annotated[list[str] | None, typer.Argument(help="Statistics; by default all.")] = None,
) -> None:
    """Show which values each bucket of a statistic holds."""
    from home_dist.schema import StatisticFeature, load_schema

    known = {f.name: f for f in load_schema(folder / "schema.toml").feature if isinstance(f, StatisticFeature)}
    for name in feature or known:
        if name not in known:
            raise UserError(f"{name}: no statistic of {folder / 'schema.toml'}; there are: {', '.join(known) or 'none'}")
        print(f"{name} (column {known[name].column})")
        for bucket in range(known[name].buckets):
            held = known[name].values_of(bucket)
            print(f"  {bucket:>4}  " + ("missing" if held is None else f"{held[0]!r} <= value < {held[1]!r}"))


@group.command()  # not `command`, whose errors need torch: whether that works is what doctor tells
def doctor() -> None:
    """Check versions, devices, backends and memory; each finding comes with a fix."""
    from home_dist import doctor as checks

    raise typer.Exit(checks.main())
