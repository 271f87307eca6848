"""Lists the data files of a folder or of a glob, and reads column values from folder names (Hive partitions)."""

import fnmatch
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from pyarrow import fs

from home_dist.errors import DataError
from home_dist.files.stores import Store, open_store, unreachable

_GLOB = re.compile(r"[*?\[]")
_NULL = "__HIVE_DEFAULT_PARTITION__"


@dataclass(frozen=True)
class Found:
    """A Parquet file. name: its path below the listed folder, partition folders included."""

    path: str
    name: str
    size: int

    @property
    def partition(self) -> Mapping[str, str | None]:
        """Values by column, from folders such as date=2024-01-01."""
        return partition_of(self.name)


def partition_of(name: str) -> dict[str, str | None]:
    """As Found.partition. name: of a file, with the folders around it."""
    pairs = (part.partition("=") for part in name.split("/")[:-1] if "=" in part)
    return {key: None if value == _NULL else unquote(value) for key, _, value in pairs}


@dataclass(frozen=True)
class Listed:
    """A file of any kind below a folder."""

    path: str
    name: str
    """Its path below the listed folder."""
    size: int
    target: str
    """The file itself, after links are followed."""
    linked: bool = False
    """Whether the file, or a folder around it, is a link."""
    broken: bool = False
    """Whether it is a link without a target."""

    @property
    def base_name(self) -> str:
        return self.name.rpartition("/")[2]


def find_files(place: str) -> tuple[Store, list[Found]]:
    """The *.parquet files below a folder, or below the files and folders that a glob matches, in the order of their names.

    Names that start with _ or . are not data but, say, unfinished files of a writer. Links are followed; each file is listed
    once. Raises DataError.
    """
    store, path = open_store(place)
    parts = path.rstrip("/").split("/")
    literal = store.local and Path(path).is_dir()  # a folder, even if its name has glob characters
    plain = next((i for i, part in enumerate(parts) if _GLOB.search(part) and not literal), len(parts))
    base, pattern = "/".join(parts[:plain]) or ("/" if path.startswith("/") else "."), parts[plain:]
    files = data_files(list_files(store, base), "/".join(pattern))
    if not files:
        matching = " that matches" if pattern else ""
        raise DataError(
            f"{store.show(path)}: holds no *.parquet files{matching}. Prepare the data first, or correct data.path or split."
        )
    return store, files


def is_there(place: str) -> bool:
    """Whether a folder or file is there. Of a glob it is not known before it is listed: True. Raises DataError for a store that
    does not answer."""
    store, path = open_store(place)
    if _GLOB.search(path) and not (store.local and Path(path).exists()):
        return True
    try:
        return bool(store.filesystem.get_file_info(path).type != fs.FileType.NotFound)
    except OSError as error:
        raise unreachable(store, path, error) from None


def data_files(listed: Iterable[Listed], pattern: str = "") -> list[Found]:
    """The listed files that are data, in the order of their names; a file with several names (links) is taken once.

    Raises DataError for a broken link that may be data.
    """
    files: dict[str, Listed] = {}
    for file in sorted(listed, key=lambda f: (f.linked, f.name.split("/"))):  # a file's own name comes before links to it
        if hidden(file.name):
            continue
        if file.broken:
            if _may_match(file.name, pattern):
                raise _leads_nowhere(file.path, file.target)
        elif file.name.endswith(".parquet") and matches(file.name, pattern):
            files.setdefault(file.target, file)
    return sorted((Found(f.path, f.name, f.size) for f in files.values()), key=lambda f: f.name.split("/"))


def _leads_nowhere(path: object, target: str) -> DataError:
    return DataError(f"{path}: a link that leads nowhere ({target}). Restore what it leads to, or remove it.")


def hidden(name: str) -> bool:
    """Whether a file, or a folder around it, has a name that starts with _ or a dot. Hidden files are not data."""
    return any(part.startswith(("_", ".")) for part in name.split("/"))


def matches(name: str, pattern: str) -> bool:
    """Whether the pattern matches a file, or a folder around it. Each part of the pattern, between slashes, is a glob."""
    return len(name.split("/")) >= len(pattern.split("/") if pattern else []) and _may_match(name, pattern)


def _may_match(name: str, pattern: str) -> bool:
    """Whether the pattern could match a path below a folder of this name."""
    wanted = pattern.split("/") if pattern else []
    return all(fnmatch.fnmatchcase(n, w) for n, w in zip(name.split("/"), wanted, strict=False))


def list_files(store: Store, folder: str) -> list[Listed]:
    """All files below a folder, except in hidden folders. Raises DataError, within a bounded time, when the folder or the store
    cannot be listed."""
    try:
        if store.local:
            return list(_walk(folder.rstrip("/") or "/", "", (), linked=False))
        infos = store.filesystem.get_file_info(fs.FileSelector(folder, recursive=True))
    except (FileNotFoundError, NotADirectoryError):
        shown = store.show(folder)
        if store.local and not Path(shown).is_absolute():
            shown += f" (that is {Path(shown).absolute()}, as a relative data.path is below the working folder)"
        raise DataError(
            f"{shown}: no such folder. Set data.path and the name of the split (data.train, ...) to prepared data."
        ) from None
    except OSError as error:
        raise unreachable(store, folder, error) from None
    files = (i for i in infos if i.is_file)
    return [Listed(i.path, i.path.removeprefix(folder).lstrip("/"), i.size, i.path) for i in files]


def _walk(folder: str, below: str, inside: tuple[str, ...], linked: bool) -> Iterator[Listed]:
    """Files below a local folder. Links are followed, except to a folder around them. inside: real paths of folders around."""
    inside = (*inside, os.path.realpath(folder))
    with os.scandir(folder) as entries:
        sorted_entries = sorted(entries, key=lambda e: e.name)
    for entry in sorted_entries:
        name, through = f"{below}{entry.name}", linked or entry.is_symlink()
        path = f"{folder}/{entry.name}" if folder != "/" else f"/{entry.name}"
        try:
            state = entry.stat()
        except OSError:
            if entry.is_symlink():
                yield Listed(path, name, 0, os.readlink(path), linked=True, broken=True)
            continue  # removed in the meantime
        if stat.S_ISREG(state.st_mode):
            target = os.path.realpath(path) if entry.is_symlink() else os.path.join(inside[-1], entry.name)
            yield Listed(path, name, state.st_size, target, through)
        elif stat.S_ISDIR(state.st_mode) and not hidden(entry.name) and os.path.realpath(path) not in inside:
            yield from _walk(path, f"{name}/", inside, through)


def glob_files(folder: Path, pattern: str) -> list[Path]:
    """The files that a pattern, relative to `folder` or absolute, matches, in the order of their names, each once. Hidden files
    match only if the pattern names them. Raises DataError for a broken link, and for a folder."""
    path = Path(pattern)
    parts = path.relative_to(path.anchor).parts if path.is_absolute() else path.parts
    base = Path(path.anchor) if path.is_absolute() else folder
    plain = next((i for i, part in enumerate(parts) if _GLOB.search(part)), len(parts) - 1)
    base, wanted = base.joinpath(*parts[:plain]), parts[plain:]
    files: dict[str, Path] = {}
    hidden_wanted = any(hidden(part) for part in wanted)
    matching = {*base.glob("/".join(wanted)), *(p for p in [base.joinpath(*wanted)] if p.is_symlink())}
    for file in sorted(matching, key=lambda p: (p.is_symlink(), p)):
        if not hidden_wanted and hidden(file.relative_to(base).as_posix()):
            continue
        if not file.exists():
            raise _leads_nowhere(file, os.readlink(file))
        if file.is_dir():
            raise DataError(f"{file}: is a folder. Name the files in it, such as {file.name}/*.parquet.")
        files.setdefault(os.path.realpath(file), file)
    return sorted(files.values())
