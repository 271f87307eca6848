"""Files and folders that appear only when complete: written beside their place under a temporary name, synced, renamed.

A folder that is being written holds a mark, which says that home_dist writes it and for which place. Only folders with this
mark are removed or emptied. If a user's folder has the same name, it stays, and the command refuses to run.
"""

import contextlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from home_dist.errors import DataError, UserError
from home_dist.files.lock import locked

MARK = ".home_dist"
WRITING = ".writing"


def _temporary(name: str) -> re.Pattern[str]:
    """Temporary names that `whole_file` gives a file."""
    return re.compile(rf"\.{re.escape(name[:200])}\.[0-9a-f]{{8}}{re.escape(WRITING)}")


_BEING_MARKED = _temporary(MARK)


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A binary file to write to, which appears at `path` when the block ends without an error.

    An earlier file stays until then. If `path` is a link, its target is replaced. A device or a pipe, such as /dev/stdout, is
    written to directly. Raises OSError.
    """
    if path.exists() and not path.is_file():
        with path.open("wb") as file:  # nothing can be renamed to a device; a folder raises here
            yield file
        return
    path = path.resolve() if path.is_symlink() else path
    writing = path.with_name(f".{path.name[:200]}.{secrets.token_hex(4)}{WRITING}")
    try:
        with writing.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            shutil.copymode(path, writing)
        writing.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            writing.unlink(missing_ok=True)
        raise
    sync(path.parent)


def write_whole(path: Path, content: bytes | str) -> None:
    """Raises OSError."""
    with whole_file(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def remove_unfinished(path: Path) -> None:
    """Removes what killed writers of the file left. Not while another one may write it. Raises OSError."""
    left = _temporary(path.name)
    for file in path.parent.iterdir():
        if left.fullmatch(file.name):
            file.unlink(missing_ok=True)


@contextmanager
def whole_folder(out: Path, kind: type[UserError] = DataError) -> Iterator[Path]:
    """A folder to write in, which becomes `out` when the block ends without an error; else nothing is left.

    Remains of a killed run of ours are removed first. Raises `kind` when `out` holds something, when something that is not ours
    has the temporary name, or when writing fails.
    """
    refuse_existing(out, kind)
    writing = out.with_name(out.name + WRITING)
    clear_folder(writing, kind)
    try:
        writing.mkdir(parents=True, exist_ok=True)
        mark_folder(writing, out)
        with locked(writing / MARK, _busy(writing, kind)):
            try:
                yield writing
                sync_tree(writing)
                if out.exists():
                    out.rmdir()  # it is empty
                writing.rename(out)
            except BaseException:
                with contextlib.suppress(OSError):
                    _remove(writing)
                raise
        (out / MARK).unlink()
        sync(out.parent)
    except OSError as error:
        raise kind(f"{out}: cannot be written: {error}. Make room, or choose another folder.") from None


def refuse_existing(out: Path, kind: type[UserError] = DataError) -> None:
    """Raises `kind` when `out` holds something, or when something that is not ours has its temporary name. To be called before
    long work; `whole_folder` checks again."""
    if out.is_symlink() or (out.exists() and (not out.is_dir() or any(out.iterdir()))):
        raise kind(f"{out} is there already. Remove it, or choose another folder to write to.")
    refuse_foreign(out.with_name(out.name + WRITING), kind)


def mark_folder(folder: Path, out: Path) -> None:
    """Writes the mark: `folder` is ours, and will become `out`."""
    mark = {"made_by": "home_dist", "for": out.name, "remove": "This folder is unfinished work; it may be removed."}
    write_whole(folder / MARK, json.dumps(mark, indent=1) + "\n")


def is_ours(folder: Path) -> bool:
    """Whether the folder carries our mark."""
    try:
        return is_mark((folder / MARK).read_text())
    except (OSError, ValueError):
        return False


def is_mark(content: str | bytes) -> bool:
    """Whether a file of MARK's name says that home_dist made it."""
    try:
        mark = json.loads(content)
    except ValueError:
        return False
    return isinstance(mark, dict) and mark.get("made_by") == "home_dist"


def refuse_foreign(folder: Path, kind: type[UserError] = DataError) -> None:
    """Raises `kind` when something is at `folder` that home_dist did not make. Accepts an empty folder, and one whose mark was
    being written when the process was killed."""
    exists = folder.is_symlink() or folder.exists()
    if exists and (folder.is_symlink() or not folder.is_dir() or not (is_ours(folder) or _is_bare(folder))):
        raise kind(
            f"{folder} is in the way: home_dist writes there until its output is whole, and did not make what stands there "
            f"now (it has no {MARK} of ours). Move it away, or choose another folder to write to."
        )


def _is_bare(folder: Path) -> bool:
    """Whether the folder holds nothing but marks that were being written, and a mark that a lock has made."""
    return all(
        _BEING_MARKED.fullmatch(p.name) or (p.name == MARK and p.is_file() and not p.stat().st_size) for p in folder.iterdir()
    )


def clear_folder(folder: Path, kind: type[UserError] = DataError) -> None:
    """Removes the folder of an interrupted run of ours. Raises `kind` if it is not ours, or is being written."""
    refuse_foreign(folder, kind)
    if folder.exists():
        try:
            with locked(folder / MARK, _busy(folder, kind)):
                _remove(folder)
        except OSError as error:
            raise kind(f"{folder}: cannot be removed: {error}. Remove it, or choose another folder to write to.") from None


def _remove(folder: Path) -> None:
    """Removes a folder of ours. The mark goes last, so that what a kill leaves is told to be ours. Raises OSError."""
    empty_folder(folder)
    (folder / MARK).unlink(missing_ok=True)
    folder.rmdir()


def empty_folder(folder: Path) -> None:
    """Removes all but the mark. Raises OSError."""
    for path in folder.iterdir():
        if path.name != MARK:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _busy(folder: Path, kind: type[UserError]) -> UserError:
    return kind(f"{folder}: another command is writing there. Wait for it, or choose another folder to write to.")


def sync(folder: Path) -> None:
    """Makes the names in a folder durable, if the file system supports it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some network file systems have no fsync of folders
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Makes all files and names below a folder durable."""
    for place, _, names in os.walk(folder):
        for name in names:
            with open(os.path.join(place, name), "rb") as file, contextlib.suppress(OSError):
                os.fsync(file.fileno())
        sync(Path(place))
