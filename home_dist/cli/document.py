"""`--json`: a command prints one JSON document on standard output, and nothing else there."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document in place of tables; lines go to standard error.")]


@contextmanager
def document(wanted: bool) -> Iterator[Callable[[Any], None]]:
    """Within the context a command hands over its figures, by a call; of several ranks the first one does. If wanted, they are
    printed at its end, also where it ends with an error: null stands for numbers that are not finite."""
    if not wanted:
        yield lambda tree: None
        return
    from home_dist.files.json_files import json_text
    from home_dist.screen import kept_for_document

    handed: list[Any] = []
    try:
        with kept_for_document():
            yield handed.append
    finally:
        for tree in handed:
            print(json_text(tree), flush=True)
