"""`home-dist config`: what a key means."""

import shutil
from dataclasses import asdict
from typing import Annotated

import typer

from home_dist.cli.command import command
from home_dist.cli.document import AsJson, document

group = typer.Typer()
_WIDEST = 110


@command(group)
def config(
    key: Annotated[
        str | None,
        typer.Argument(
            help="Such as train.lr, lr, sequence, or log:label.kind for a log's description. By default all sections."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Tell what a key of a TOML file means: its type, default, allowed values, and since when it is there."""
    from home_dist.reference import FILES, keys_of, look_up
    from home_dist.reference.lines import terminal_lines

    with document(as_json) as hand:
        if key is None:
            found = {file.name: [k for k in keys_of(file.name, file.root) if k.is_section] for file in FILES}
        else:
            found = {lookup.file.name: lookup.keys for lookup in look_up(key)}
        for file in FILES:
            if not found.get(file.name):
                continue
            print(f"{file.name}: {file.title[0].lower()}{file.title[1:]}, read by {file.read_by.replace('`', '')}\n")
            if key is None:
                print(f"    {', '.join(k.path for k in found[file.name])}\n")
            else:
                print("\n".join(terminal_lines(found[file.name], min(shutil.get_terminal_size().columns, _WIDEST))))
        hand({name: [asdict(k) for k in keys] for name, keys in found.items()})
