"""Errors before ranks can talk: all ranks of a host fail alike, and one of them tells."""

import fcntl
import os
import re
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from home_dist.cli.command import leave
from home_dist.errors import UserError

if TYPE_CHECKING:
    from home_dist.config import RunConfig

Result = TypeVar("Result")

_START = ("TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT", "MASTER_ADDR", "MASTER_PORT")
"""What all ranks of one start have in common, and those of no other start."""


def settings_of(config: Path, overrides: list[str] | None) -> "RunConfig":
    """The same on all ranks; the first one tells what overrides left out."""
    from home_dist.config import load_config

    notes: list[str] = []
    read = alike_on_all_ranks(lambda: load_config(config, overrides or [], notes))
    if os.environ.get("RANK", "0") == "0":
        for note in notes:
            print(f"note: {note}", flush=True)
    return read


def alike_on_all_ranks(action: Callable[[], Result]) -> Result:
    """For what may fail before the ranks can talk: it fails on all ranks of a host alike, and the first that comes to it tells.

    An error that one rank has alone is told as well. torchrun ends all ranks as soon as one has left: a rank leaves only when
    its error has been told.
    """
    try:
        return action()
    except UserError as error:
        _tell_once(f"{error.prefix}{error}")
        leave(error.exit_code, None)


def _tell_once(message: str) -> None:
    """Prints a message unless another rank of this start has told it on this host; returns when it is out.

    A file holds the messages so far, one for each rank that came. Its lock makes a rank wait for the one that is printing. The
    last rank of the host removes the file. Where there can be no such file each rank tells.
    """
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    start = "-".join([str(os.getuid()), str(os.getppid()), *(os.environ.get(name, "") for name in _START)])
    path = Path(tempfile.gettempdir(), "home_dist-" + re.sub(r"\W", "-", start))
    with ExitStack() as held:
        lines: list[str] = []
        with suppress(OSError):
            told = held.enter_context(os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600), "r+"))
            fcntl.flock(told, fcntl.LOCK_EX)
            lines = told.read().splitlines()
            told.write(ascii(message) + "\n")
        if ascii(message) not in lines:
            print(message, file=sys.stderr, flush=True)
        if len(lines) + 1 >= ranks:
            path.unlink(missing_ok=True)
