"""A file or a folder that is whole or not there: written beside its place under a temporary name, made durable, renamed.

A folder that is being written holds a mark that says who writes it and for which place. Only a folder with this mark is ever
removed or emptied to make room: what a user put there under the same name stays, and the command refuses to run.
"""

import contextlib
import json
import os
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


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A binary file to write to, which stands at `path` once the block has ended without an error.

    What stood there before stays until then. Through a link the file behind it is replaced. A device or a pipe, such as
    /dev/stdout, is written to as it is. Raises OSError.
    """
    if path.exists() and not path.is_file():
        with path.open("wb") as file:  # no place beside it to write to; a folder raises here
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


@contextmanager
def whole_folder(out: Path, kind: type[UserError] = DataError) -> Iterator[Path]:
    """A folder to write in, which becomes `out` once the block has ended without an error; else nothing is left.

    What an earlier run of ours left in it when it was killed is removed first. Raises `kind` when `out` holds something, when
    something that is not ours is in the way, or for what cannot be written.
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
                shutil.rmtree(writing, ignore_errors=True)
                raise
        (out / MARK).unlink()
        sync(out.parent)
    except OSError as error:
        raise kind(f"{out}: cannot be written: {error}. Make room, or choose another folder.") from None


def refuse_existing(out: Path, kind: type[UserError] = DataError) -> None:
    """Raises `kind` when `out` holds something, or what is not ours stands where it will be written. For before long work;
    `whole_folder` asks too."""
    if out.is_symlink() or (out.exists() and (not out.is_dir() or any(out.iterdir()))):
        raise kind(f"{out} is there already. Remove it, or choose another folder to write to.")
    refuse_foreign(out.with_name(out.name + WRITING), kind)


def mark_folder(folder: Path, out: Path) -> None:
    """Says that `folder` is ours, and what it is for."""
    told = {"made_by": "home_dist", "for": out.name, "remove": "This folder is unfinished work; it may be removed."}
    write_whole(folder / MARK, json.dumps(told, indent=1) + "\n")


def is_ours(folder: Path) -> bool:
    """Whether the folder carries our mark."""
    try:
        told = json.loads((folder / MARK).read_text())
    except (OSError, ValueError):
        return False
    return isinstance(told, dict) and told.get("made_by") == "home_dist"


def refuse_foreign(folder: Path, kind: type[UserError] = DataError) -> None:
    """Raises `kind` when something stands at `folder` that home_dist did not make; an empty folder may."""
    there = folder.is_symlink() or folder.exists()
    if there and (folder.is_symlink() or not folder.is_dir() or (any(folder.iterdir()) and not is_ours(folder))):
        raise kind(
            f"{folder} is in the way: home_dist writes there until its output is whole, and did not make what stands there "
            f"now (it has no {MARK} of ours). Move it away, or choose another folder to write to."
        )


def clear_folder(folder: Path, kind: type[UserError] = DataError) -> None:
    """Removes what an interrupted run of ours left at `folder`. Raises `kind` for what is not ours, or is being written."""
    refuse_foreign(folder, kind)
    if folder.exists():
        try:
            with locked(folder / MARK, _busy(folder, kind)):
                shutil.rmtree(folder)
        except OSError as error:
            raise kind(f"{folder}: cannot be removed: {error}. Remove it, or choose another folder to write to.") from None


def _busy(folder: Path, kind: type[UserError]) -> UserError:
    return kind(f"{folder}: another command is writing there. Wait for it, or choose another folder to write to.")


def sync(folder: Path) -> None:
    """Makes the names in a folder durable, where the file system can."""
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
