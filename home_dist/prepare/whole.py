"""A folder that is whole or absent: written beside its place, and renamed when all of it is there."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from home_dist.errors import DataError


def refuse_existing(out: Path) -> None:
    """Raises DataError when `out` holds something. For before long work; `written_whole` asks too."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out}: is there already. Remove it, or choose another folder to write to.")


@contextmanager
def written_whole(out: Path) -> Iterator[Path]:
    """The folder to write in, which becomes `out`. What an earlier run left in it when it was killed is removed first.

    Raises DataError when `out` holds something, or for what cannot be written.
    """
    refuse_existing(out)
    writing = out.with_name(out.name + ".writing")
    try:
        if writing.exists():
            shutil.rmtree(writing)
        writing.mkdir(parents=True)
        yield writing
        if out.exists():
            out.rmdir()
        writing.rename(out)
    except OSError as error:
        raise DataError(f"{writing}: cannot be written: {error}. Make room, or choose another folder.") from None
