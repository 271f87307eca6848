"""Commands that show what there is: runs, their reports, a data folder's buckets, this machine."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from home_dist.cli.command import command
from home_dist.cli.document import AsJson, document
from home_dist.errors import UserError

if TYPE_CHECKING:
    from home_dist.schema import StatisticFeature

group = typer.Typer()


@command(group)
def runs(
    folder: Annotated[Path, typer.Argument(help="Folder that runs lie in, at any depth.")] = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """List runs with their main figures."""
    from home_dist.insight.overview import entries, find_runs, runs_table
    from home_dist.screen import Screen

    with document(as_json) as hand:
        paths = find_runs(folder)
        if not paths:
            raise UserError(f"{folder}: no run is in it. Name the folder that run.dir of your runs lie in.")
        listed = entries(folder, paths)
        Screen(True).table(runs_table(folder, listed))
        hand({"folder": str(folder), "runs": [vars(run) for run in listed]})


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
def groups(
    run: Annotated[list[Path], typer.Argument(help="run.dir of a run; more of them: runs of the same tasks with other seeds.")],
    number: Annotated[
        int | None, typer.Option("--groups", min=1, help="How many groups to make; by default those that separate best.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Configuration that trains the proposal; by default groups.toml in the first run's folder."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Propose which tasks belong together, by the gradients of the sampled steps (inter-task affinity, Fifty et al. 2021).

    A run must have sampled 20 steps or more: insight.every_steps says which, insight.gradient_samples how much of each.
    """
    from home_dist.insight.grouping import propose
    from home_dist.insight.groups_report import to_json, write_groups
    from home_dist.insight.groups_text import dendrogram, groups_table, notes
    from home_dist.insight.run_figures import RunFigures
    from home_dist.screen import Screen

    with document(as_json) as hand:
        found, screen = propose([RunFigures.open(path) for path in run], number), Screen(True)
        screen.table(groups_table(found))
        for line in [*dendrogram(found.tasks, found.merges), *notes(found)]:
            screen.say(line)
        proposal = write_groups(found, run[0], out)
        screen.say(f"page:     {run[0] / 'groups.html'}")
        if proposal is not None:
            screen.say(f"to train: home-dist train {proposal}    # as the run, but for data.groups and run.dir")
        hand(to_json(found) | {"notes": notes(found), "proposal": None if proposal is None else str(proposal)})


@command(group)
def buckets(
    folder: Annotated[Path, typer.Argument(help="A data folder or a run.dir.")],
    name: Annotated[
        list[str] | None, typer.Argument(help="Statistics, and labels that are not binary; by default all.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show which values each bucket of a statistic holds, and what was fitted of a label: thresholds, quantiles, shares."""
    from home_dist.cli.label_tables import label_lines
    from home_dist.schema import StatisticFeature, load_schema

    schema = load_schema(folder / "schema.toml")
    known = {f.name: f for f in schema.feature if isinstance(f, StatisticFeature)}
    labels = {t.name: t for t in schema.task if t.kind != "binary"}
    chosen = list(name or dict.fromkeys([*known, *labels]))
    for one in chosen:
        if one not in known and one not in labels:
            there = ", ".join(dict.fromkeys([*known, *labels])) or "none"
            raise UserError(
                f"{one}: no statistic of {folder / 'schema.toml'}, nor a label that is not binary; there are: {there}"
            )
    with document(as_json) as hand:
        for one in chosen:
            if one in labels:
                print("\n".join(label_lines(labels[one])))
            if one in known:
                print(f"{one} (column {known[one].column})")
                for bucket, held in enumerate(_buckets(known[one])):
                    print(f"  {bucket:>4}  " + ("missing" if held is None else f"{held[0]!r} <= value < {held[1]!r}"))
        hand(
            {
                "statistics": {n: {"column": known[n].column, "buckets": _buckets(known[n])} for n in chosen if n in known},
                "labels": {n: labels[n].model_dump(mode="json") for n in chosen if n in labels},
            }
        )


def _buckets(statistic: "StatisticFeature") -> "list[tuple[float, float] | None]":
    """Of each bucket the lowest value and the one that is above it; None for the bucket of missing values."""
    return [statistic.values_of(bucket) for bucket in range(statistic.buckets)]


@group.command()  # not `command`, whose errors need torch: whether that works is what doctor tells
def doctor(as_json: AsJson = False) -> None:
    """Check versions, devices, backends and memory; each finding comes with a fix."""
    from home_dist import doctor as checks

    with document(as_json) as hand:
        found = checks.main()
        hand({"checks": [vars(check) for check in found]})
    raise typer.Exit(checks.exit_code(found))
