"""Errors before ranks can talk: all ranks of a host fail alike, and one of them tells."""

import fcntl
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from home_dist.cli.command import leave
from home_dist.errors import UserError

if TYPE_CHECKING:
    from home_dist.config import RunConfig

Result = TypeVar("Result")

_START = ("TORCHELASTIC_RUN_ID", "MASTER_ADDR", "MASTER_PORT")
"""Variables that all ranks of a start have in common."""
_BOOT = Path("/proc/sys/kernel/random/boot_id")
_NUMBER = re.compile(r"\d+(\.\d+)?")


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
        message = f"{error.prefix}{error}"
        ranks = os.environ.get("LOCAL_WORLD_SIZE", "1")
        if ranks.isdigit() and int(ranks) > 1:
            _tell_once(message, int(ranks))
            leave(error.exit_code, None)
        leave(error.exit_code, message)


def _tell_once(message: str, ranks: int) -> None:
    """Prints a message unless another rank of this start has told it on this host; returns when it is out.

    ranks: of this host. A file holds the messages so far, one for each rank that came, with their times. A message that was
    told after this process began is of a rank of its own start. The file's lock makes a rank wait for the one that is printing.
    The last rank of the host removes the file. Where the file cannot be used each rank tells.
    """
    out = False
    try:
        start = [str(os.getuid()), _BOOT.read_text(), *(os.environ.get(name, "") for name in _START)]
        path = Path(tempfile.gettempdir(), "home_dist-" + re.sub(r"\W+", "-", "-".join(start)))
        with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600), "r+", errors="replace") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            began, now = _seconds_since_boot()
            entries = [line.partition(" ") for line in file.read().splitlines()]
            told = [text for moment, _, text in entries if _NUMBER.fullmatch(moment) and began <= float(moment) <= now]
            if ascii(message) not in told:
                print(message, file=sys.stderr, flush=True)
            out = True
            file.write(f"{now} {message!a}\n")
            if len(told) + 1 >= ranks:
                path.unlink()
    except (OSError, ValueError):
        if not out:
            print(message, file=sys.stderr, flush=True)


def _seconds_since_boot() -> tuple[float, float]:
    """When this process began, rounded up, and now."""
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])  # field 22: starttime
    return (ticks + 1) / os.sysconf("SC_CLK_TCK"), time.clock_gettime(time.CLOCK_BOOTTIME)
