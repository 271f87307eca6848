"""Files of a work folder in a store, on a machine that holds some of them: `here` and `opened` get the others.

A Mirror has a folder of this machine, whose paths stand for the files of the work folder. Tasks and their readers see paths
only. Without a mirror, all files are on a disk that everyone sees.
"""

import fnmatch
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from home_dist.files import remote
from home_dist.files.places import join


@dataclass(frozen=True)
class Mirror:
    root: Path
    place: str
    """URL of the work folder."""

    def place_of(self, path: Path) -> str:
        return join(self.place, path.relative_to(self.root).as_posix())


_mirror: Mirror | None = None


@contextmanager
def mirrored(mirror: Mirror | None) -> Iterator[None]:
    """Within it, this process reads through the mirror."""
    global _mirror
    before, _mirror = _mirror, mirror
    try:
        yield
    finally:
        _mirror = before


def on_node(relative: str) -> Path:
    """The path on this machine of a file of the work folder."""
    if _mirror is None:
        raise RuntimeError("a packed task was opened without a mirror")
    return _mirror.root / relative


def here(path: Path) -> Path:
    """The path, after the whole file has been fetched if it was not there. Raises Gone, StoreError."""
    if _is_away(path):
        _fetch(path, path)
    return path


def opened(path: Path) -> pa.NativeFile:
    """The file for reading of ranges: mapped if it is there, else from the store. Raises Gone, StoreError."""
    if not _is_away(path):
        return pa.memory_map(str(path))
    try:
        return remote.open_ranges(_place(path))
    except FileNotFoundError:
        raise remote.gone(_place(path)) from None


def left_in(folder: Path, pattern: str) -> list[Path]:
    """The files that a task left in its folder, by a pattern of their names, in order. Raises StoreError."""
    if _mirror is None or not folder.is_relative_to(_mirror.root):
        return sorted(folder.glob(pattern))
    return sorted(folder / name for name in remote.names_below(_place(folder)) if fnmatch.fnmatch(name, pattern))


def give(path: Path, to: Path) -> None:
    """Makes `to` a link to the file, or a copy where no link is possible. Raises Gone, StoreError, OSError."""
    if _is_away(path):
        _fetch(path, to)
        return
    try:
        to.hardlink_to(path)
    except OSError:
        if _mirror is None:
            raise
        shutil.copyfile(path, to)  # the mirror may be on another disk


def source(path: remote.SourceFile) -> Path | pa.NativeFile:
    """What Parquet and CSV readers take, for an input file or one of the work folder. Raises StoreError."""
    if isinstance(path, Path):
        return opened(path) if _is_away(path) else path
    return path.open()


def stream(path: remote.SourceFile) -> Path | pa.NativeFile:
    """What readers of CSV take, which read from the start to the end. Raises StoreError."""
    return here(path) if isinstance(path, Path) else path.open_stream()


def _is_away(path: Path) -> bool:
    return _mirror is not None and path.is_relative_to(_mirror.root) and not path.exists()


def _fetch(path: Path, to: Path) -> None:
    try:
        remote.fetch(_place(path), to)
    except FileNotFoundError:
        raise remote.gone(_place(path)) from None


def _place(path: Path) -> str:
    if _mirror is None:
        raise RuntimeError(f"{path}: no mirror")
    return _mirror.place_of(path)
