"""`home-dist checkpoints`: commands that look at checkpoints and remove them."""

from pathlib import Path
from typing import Annotated

import typer

from home_dist.cli.command import command
from home_dist.cli.document import AsJson, document

group = typer.Typer(no_args_is_help=True, help="List, verify, show, compare and remove checkpoints.")


Checkpoint = Annotated[Path, typer.Argument(help="A checkpoint's folder, a run.dir for its newest one, or RUN/best.")]


@command(group, "ls")
def checkpoints_ls(run: Annotated[Path, typer.Argument(help="run.dir of a run.")], as_json: AsJson = False) -> None:
    """List a run's checkpoints with their metrics, and which of them stay."""
    from home_dist.screen import Screen
    from home_dist.training.checkpoint import of_run

    with document(as_json) as hand:
        found = of_run.listed(run)
        Screen(True).table(of_run.listing(run, found))
        hand({"run": str(run), "checkpoints": [vars(c) for c in found]})


@command(group, "verify")
def checkpoints_verify(
    path: Annotated[Path, typer.Argument(help="A checkpoint's folder, or a run.dir for all of them.")], as_json: AsJson = False
) -> None:
    """Check every file against the manifest's size and SHA-256; what is damaged is named, the newest intact one offered."""
    from home_dist.training.checkpoint import inspection

    with document(as_json) as hand:
        found: list[inspection.Verified] = []
        try:
            for checkpoint in inspection.verified(path):
                found.append(checkpoint)
                if checkpoint.intact:
                    print(checkpoint, flush=True)
        finally:
            hand({"checkpoints": [vars(c) for c in found]})


@command(group, "show")
def checkpoints_show(path: Checkpoint, as_json: AsJson = False) -> None:
    """Show what is in a checkpoint: step, metrics, versions, tables with shapes and norms, dense parameters."""
    from home_dist.screen import Screen
    from home_dist.training.checkpoint import inspection, of_run

    with document(as_json) as hand:
        content = inspection.shown(of_run.find(path))
        text, *tables = inspection.told(content)
        screen = Screen(True)
        screen.say(text)
        for table in tables:
            screen.table(table)
        hand(content)


@command(group, "diff")
def checkpoints_diff(before: Checkpoint, after: Checkpoint, as_json: AsJson = False) -> None:
    """Show what changed between two checkpoints: settings, versions, metrics, rows of tables, dense parameters."""
    from home_dist.screen import Screen
    from home_dist.training.checkpoint import inspection, of_run

    with document(as_json) as hand:
        found = inspection.compared(of_run.find(before), of_run.find(after))
        text, table = inspection.differences_told(found)
        screen = Screen(True)
        screen.say(text)
        screen.table(table)
        hand(found)


@command(group, "prune")
def checkpoints_prune(
    run: Annotated[Path, typer.Argument(help="run.dir of a run that is not training.")],
    keep_last: Annotated[int | None, typer.Option(min=1, help="Instead of the run's own checkpoint.keep_last.")] = None,
    keep_every: Annotated[int | None, typer.Option(min=1, help="Instead of the run's own checkpoint.keep_every.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would be removed.")] = False,
) -> None:
    """Remove checkpoints that the rules do not keep."""
    from home_dist.training.checkpoint import of_run

    for line in of_run.pruned(run, keep_last, keep_every, dry_run):
        print(line)
