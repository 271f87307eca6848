"""A folder for temporary files that no other user can prepare or write into."""

import errno
import os
import socket
import stat
import tempfile
from pathlib import Path

from home_dist.errors import DataError


def is_private(folder: Path) -> bool:
    """Whether it is a folder, not a link, that this user owns and no one else may write into."""
    state = folder.lstat()
    return stat.S_ISDIR(state.st_mode) and state.st_uid == os.getuid() and not state.st_mode & 0o022


def is_full(error: OSError) -> bool:
    """Whether a disk of this machine, or the user's share of it, has no room left."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def no_room(error: OSError) -> DataError:
    """The error to raise when temporary files cannot be written."""
    return DataError(
        f"{tempfile.gettempdir()} on {socket.gethostname()}: cannot be written: {error}. Make room there, or set TMPDIR to a "
        "folder with room; the same command then goes on."
    )


def private_folder() -> Path:
    """The user's private folder below the system's temporary folder, made if missing. Raises DataError if it is not ours."""
    folder = Path(tempfile.gettempdir(), f"home_dist-{os.getuid()}")
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        private = is_private(folder)
    except OSError as error:
        raise DataError(f"{folder}: cannot be made: {error}. Set TMPDIR to a folder that you can write to.") from None
    if not private:
        raise DataError(
            f"{folder}: another user owns it or may write into it, so that what lies there cannot be trusted. Remove it, or "
            "set TMPDIR to a folder of your own."
        )
    return folder
