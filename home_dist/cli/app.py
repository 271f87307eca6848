"""The command line as a whole: its groups of commands, and what the process is set to before any of them."""

import os
import sys
from contextlib import suppress
from typing import Annotated

import typer
from typer import rich_utils

import home_dist
from home_dist import process
from home_dist.cli import checkpoints, config, prepare, programs, runs, serving, training

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, help="Train multi-task ranking models.")
for group in (training.group, runs.group, programs.group, serving.group, config.group):
    app.add_typer(group)
app.add_typer(prepare.group, name="prepare")
app.add_typer(checkpoints.group, name="checkpoints")


def _tell_version(wanted: bool) -> None:
    if wanted:
        print(f"home_dist {home_dist.__version__}")
        raise typer.Exit


@app.callback()
def _of_all_commands(
    version: Annotated[
        bool, typer.Option("--version", help="Tell the version and end.", callback=_tell_version, is_eager=True)
    ] = False,
) -> None:
    pass


def main() -> None:
    process.prepare()
    if os.environ.get("NO_COLOR"):  # rich leaves colours out then, but not bold letters
        rich_utils.COLOR_SYSTEM = None
    # kind = "package.module:Class" may be a file of the working folder, as with `python -m`. Last: it hides no other module.
    with suppress(OSError):  # a working folder that was removed
        if not sys.flags.safe_path and not {"", os.getcwd()} & set(sys.path):
            sys.path.append(os.getcwd())
    app()
