"""The command line as a whole: its groups of commands, and what the process is set to before any of them."""

import os
import sys
from contextlib import suppress

import typer

from home_dist import process
from home_dist.cli import checkpoints, config, prepare, programs, runs, serving, training

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, help="Train multi-task ranking models.")
for group in (training.group, runs.group, programs.group, serving.group, config.group):
    app.add_typer(group)
app.add_typer(prepare.group, name="prepare")
app.add_typer(checkpoints.group, name="checkpoints")


def main() -> None:
    process.prepare()
    # kind = "package.module:Class" may be a file of the working folder, as with `python -m`. Last: it hides no other module.
    with suppress(OSError):  # a working folder that was removed
        if not sys.flags.safe_path and not {"", os.getcwd()} & set(sys.path):
            sys.path.append(os.getcwd())
    app()
