"""Files of an object store, as a preparation reads and writes them: listed, read in ranges, put, fetched, copied, removed.

The store's client tries each request again (stores.py), and each whole operation is tried a few times here. An error that stays
is a StoreError, which names the operation and the URL.
"""

import re
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
from pyarrow import fs

from home_dist.errors import DataError
from home_dist.files.listing import hidden, matches
from home_dist.files.places import join, without_secrets
from home_dist.files.private import is_full
from home_dist.files.stores import Store, open_store, unreachable

_TRIES = 3
_WAIT_SECONDS = 1.0
"""Before the second try; twice as long before each next one."""
_COPIED_AT_ONCE = 4 << 30  # bytes; S3 copies larger files only in parts
_CHUNK = 1 << 22
_GLOB = re.compile(r"[*?\[]")

Result = TypeVar("Result")


class StoreError(DataError):
    """A store that refuses, fails or does not answer. What was prepared so far stays."""


class Gone(DataError):
    """A file of unfinished work that was removed while it was needed."""


@dataclass(frozen=True)
class FileState:
    """As os.stat_result names it."""

    st_size: int
    st_mtime_ns: int


@dataclass(frozen=True)
class RemoteFile:
    """An input file in a store; has of pathlib.Path what readers of a log use."""

    place: str
    """Its URL, with options."""
    shown: str
    """Its URL in messages and reports, without options."""
    size: int
    modified_ns: int

    def __str__(self) -> str:
        return self.shown

    @property
    def suffix(self) -> str:
        return Path(self.shown).suffix

    def stat(self) -> FileState:
        return FileState(self.size, self.modified_ns)

    def resolve(self) -> "RemoteFile":
        return self

    def open(self) -> pa.NativeFile:
        """For reading of ranges."""
        return open_ranges(self.place)

    def open_stream(self) -> pa.NativeFile:
        """For reading from the start, without the compression that its name tells."""
        store, path = open_store(self.place)
        return tried("open", self.place, lambda: store.filesystem.open_input_stream(path))


SourceFile = Path | RemoteFile


def remote_files(pattern: str) -> list[RemoteFile]:
    """Files that a URL matches, in the order of their names; its parts between slashes may be globs. Hidden files match only if
    the pattern names them. Raises StoreError."""
    if without_secrets(pattern) != pattern:
        raise DataError(
            f"{without_secrets(pattern)}: the description holds a secret, which would be written to the report. Leave it "
            "out, and give credentials in the environment: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or ~/.aws/credentials."
        )
    store, path = open_store(pattern)
    _, mark, options = pattern.rpartition("?") if pattern.endswith(f"?{_options(pattern)}") else (pattern, "", "")
    parts = path.split("/")
    if "**" in parts:
        raise DataError(f"{pattern}: ** is for files of this machine. Write a * for each folder.")
    plain = next((n for n, part in enumerate(parts) if _GLOB.search(part)), len(parts))
    base, wanted = "/".join(parts[:plain]), "/".join(parts[plain:])
    if not wanted:
        infos = tried("look for", pattern, lambda: store.filesystem.get_file_info([path]))
    else:
        selector = fs.FileSelector(base, recursive=True, allow_not_found=True)
        infos = tried("list", pattern, lambda: store.filesystem.get_file_info(selector))
    files = []
    for info in infos:
        name = info.path.removeprefix(base).lstrip("/")
        exact = not wanted or (name.count("/") == wanted.count("/") and matches(name, wanted))
        if info.is_file and exact and (hidden(wanted) or not hidden(name)):
            shown = store.show(info.path)
            files.append(RemoteFile(f"{shown}{mark}{options}", shown, info.size, info.mtime_ns))
    return sorted(files, key=lambda f: f.shown.split("/"))


def _options(place: str) -> str:
    """The options of a URL, empty if there are none: a question mark may be a glob's."""
    tail = place.rpartition("?")[2]
    return tail if "?" in place and "=" in tail and "/" not in tail.partition("=")[0] else "\0"


def tried(operation: str, place: str, action: Callable[[], Result]) -> Result:
    """The action's result, after some tries. operation: a verb for the message. Raises StoreError, FileNotFoundError, and
    OSError when this machine's disk is full."""
    for number in range(1, _TRIES + 1):
        try:
            return action()
        except FileNotFoundError:
            raise
        except OSError as error:
            if is_full(error):
                raise
            if number == _TRIES:
                store, path = open_store(place)
                reason = str(unreachable(store, path, error))
                raise StoreError(
                    f"cannot {operation} {reason} Tried {_TRIES} times; the same command goes on where this one stopped."
                ) from None
            time.sleep(_WAIT_SECONDS * 2 ** (number - 1))
    raise AssertionError("unreachable")


def gone(place: str) -> Gone:
    """The error to raise when a file of unfinished work is missing."""
    return Gone(
        f"{without_secrets(place)}: another command, or a rule of the bucket, removed this file while it was needed. The same "
        "command begins anew."
    )


def open_ranges(place: str) -> pa.NativeFile:
    """Raises StoreError, FileNotFoundError."""
    store, path = open_store(place)
    return tried("open", place, lambda: store.filesystem.open_input_file(path))


def fetch(place: str, to: Path) -> None:
    """The file appears at `to` when it is whole. Raises StoreError, FileNotFoundError."""
    store, path = open_store(place)
    to.parent.mkdir(parents=True, exist_ok=True)
    writing = to.with_name(f".{to.name}.{secrets.token_hex(4)}.writing")
    try:
        tried("fetch", place, lambda: _copy(store, path, Store(), str(writing)))
        writing.replace(to)
    finally:
        writing.unlink(missing_ok=True)


def put(path: Path, place: str) -> int:
    """Bytes written. Raises StoreError."""
    store, target = open_store(place)
    return tried("write", place, lambda: _copy(Store(), str(path), store, target))


def put_bytes(content: bytes, place: str) -> None:
    """Raises StoreError."""
    store, path = open_store(place)

    def write() -> None:
        with store.filesystem.open_output_stream(path) as stream:
            stream.write(content)

    tried("write", place, write)


def read_bytes(place: str) -> bytes | None:
    """The content of a small file, None if there is none. Raises StoreError."""
    store, path = open_store(place)

    def read() -> bytes:
        with store.filesystem.open_input_stream(path) as stream:
            return bytes(stream.read())

    try:
        return tried("read", place, read)
    except FileNotFoundError:
        return None


def copy(source: str, target: str) -> int:
    """From one place of a store to another, by the store itself where it can. Bytes written. Raises StoreError,
    FileNotFoundError."""
    (store, path), (to, to_path) = open_store(source), open_store(target)
    return tried("write", target, lambda: _copy(store, path, to, to_path))


def modified(place: str) -> float | None:
    """When a file was written, in seconds since 1970 by the store's clock; None if there is none. Raises StoreError."""
    store, path = open_store(place)
    [info] = tried("look for", place, lambda: store.filesystem.get_file_info([path]))
    return info.mtime_ns / 1e9 if info.is_file else None


def sizes_below(place: str) -> dict[str, int]:
    """Bytes of all files below a folder, by their names relative to it. Raises StoreError."""
    store, path = open_store(place)
    selector = fs.FileSelector(path, recursive=True, allow_not_found=True)
    infos = tried("list", place, lambda: store.filesystem.get_file_info(selector))
    return {i.path.removeprefix(path).lstrip("/"): i.size for i in infos if i.is_file}


def names_below(place: str) -> list[str]:
    """Names of all files below a folder, relative to it, in order. Raises StoreError."""
    return sorted(sizes_below(place))


def empty(place: str, keep: str) -> None:
    """Removes all that is in a folder, but for the file of the name `keep`. Raises StoreError."""
    names = names_below(place)
    for folder in sorted({n.partition("/")[0] for n in names if "/" in n}):
        remove_below(join(place, folder))
    for name in names:
        if "/" not in name and name != keep:
            remove_file(join(place, name))


def remove_below(place: str) -> None:
    """Removes a folder and all files in it. Raises StoreError."""
    store, path = open_store(place)
    if names_below(place):
        tried("remove", place, lambda: store.filesystem.delete_dir(path))


def remove_file(place: str) -> None:
    """Raises StoreError."""
    store, path = open_store(place)
    tried("remove", place, lambda: store.filesystem.delete_file(path))


def beside(place: str, ending: str) -> str:
    """The place with an ending behind its last name. A URL's options stay at the end."""
    parent, name = join(place, "\0"), "/\0"
    return parent.replace(name, ending)


def _copy(source: Store, path: str, target: Store, to: str) -> int:
    """Bytes written. Raises OSError, also when the target has another size than the source afterwards."""
    [info] = source.filesystem.get_file_info([path])
    if not info.is_file:
        raise FileNotFoundError(path)
    if not source.local and source.filesystem.equals(target.filesystem) and info.size < _COPIED_AT_ONCE:
        target.filesystem.copy_file(path, to)
    else:
        fs.copy_files(
            path, to, source_filesystem=source.filesystem, destination_filesystem=target.filesystem, chunk_size=_CHUNK
        )
    [written] = target.filesystem.get_file_info([to])
    if written.size != info.size:
        raise OSError(f"{written.size} of {info.size} bytes were written")
    return int(info.size)
