"""Errors before ranks can talk: all ranks of a host fail alike, and one of them tells."""

import fcntl
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from home_dist.cli.command import leave
from home_dist.errors import UserError

if TYPE_CHECKING:
    from home_dist.config import RunConfig

Result = TypeVar("Result")

_START = ("TORCHELASTIC_RUN_ID", "MASTER_ADDR", "MASTER_PORT")
"""Variables that all ranks of a start have in common."""


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

    A file holds the messages so far, one for each rank that came, with their times. What was told after this process began was
    told by a rank of its own start. The file's lock makes a rank wait for the one that is printing, and the last rank of the
    host removes it. Where there can be no such file each rank tells.
    """
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    start = "-".join([str(os.getuid()), *(os.environ.get(name, "") for name in _START)])
    path = Path(tempfile.gettempdir(), "home_dist-" + re.sub(r"\W", "-", start))
    began, now = _seconds_since_boot()
    with ExitStack() as held:
        told: list[str] = []
        with suppress(OSError):
            file = held.enter_context(os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600), "r+"))
            fcntl.flock(file, fcntl.LOCK_EX)
            lines = (line.partition(" ") for line in file.read().splitlines())
            told = [text for moment, _, text in lines if float(moment) >= began]
            file.write(f"{now} {message!a}\n")
        if ascii(message) not in told:
            print(message, file=sys.stderr, flush=True)
        if len(told) + 1 >= ranks:
            path.unlink(missing_ok=True)


def _seconds_since_boot() -> tuple[float, float]:
    """When this process began, and now."""
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])  # field 22: starttime
    return ticks / os.sysconf("SC_CLK_TCK"), time.clock_gettime(time.CLOCK_BOOTTIME)
