"""Which files of a folder or of a glob are data, and what the names of their folders say (Hive partitions)."""

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
    """A Parquet file. name: below the place that was listed, with the names of partition folders."""

    path: str
    name: str
    size: int

    @property
    def partition(self) -> Mapping[str, str | None]:
        """Values by column, from folders such as date=2024-01-01."""
        pairs = (part.partition("=") for part in self.name.split("/")[:-1] if "=" in part)
        return {key: None if value == _NULL else unquote(value) for key, _, value in pairs}


@dataclass(frozen=True)
class Listed:
    """A file of any kind below a folder."""

    path: str
    name: str
    """Below the folder that was listed."""
    size: int
    target: str
    """The file itself, where links lead to it."""
    linked: bool = False
    """Whether its name, or that of a folder around it, is a link."""
    broken: bool = False
    """Whether it is a link that leads nowhere."""

    @property
    def base_name(self) -> str:
        return self.name.rpartition("/")[2]


def find_files(place: str) -> tuple[Store, list[Found]]:
    """The *.parquet files below a folder, or of the files and folders that a glob matches, in the order of their names.

    Names that begin with _ or . are no data, such as what a writer has not finished yet. Links are followed, each file is read
    once. Raises DataError.
    """
    store, path = open_store(place)
    parts = path.rstrip("/").split("/")
    literal = store.local and Path(path).is_dir()  # though its name has a glob's characters
    plain = next((i for i, part in enumerate(parts) if _GLOB.search(part) and not literal), len(parts))
    base, pattern = "/".join(parts[:plain]) or ("/" if path.startswith("/") else "."), parts[plain:]
    files = data_files(list_files(store, base), "/".join(pattern))
    if not files:
        matching = " that matches" if pattern else ""
        raise DataError(
            f"{store.show(path)}: holds no *.parquet files{matching}. Prepare the data first, or correct data.path or split."
        )
    return store, files


def data_files(listed: Iterable[Listed], pattern: str = "") -> list[Found]:
    """Those of the listed files that are data, in the order of their names; a file that several names lead to, once.

    Raises DataError for a link among them that leads nowhere.
    """
    files: dict[str, Listed] = {}
    for one in sorted(listed, key=lambda f: (f.linked, f.name.split("/"))):  # names without links are a file's own
        if hidden(one.name):
            continue
        if one.broken:
            if _may_match(one.name, pattern):
                raise _leads_nowhere(one.path, one.target)
        elif one.name.endswith(".parquet") and matches(one.name, pattern):
            files.setdefault(one.target, one)
    return sorted((Found(f.path, f.name, f.size) for f in files.values()), key=lambda f: f.name.split("/"))


def _leads_nowhere(path: object, target: str) -> DataError:
    return DataError(f"{path}: a link that leads nowhere ({target}). Restore what it leads to, or remove it.")


def hidden(name: str) -> bool:
    """Whether a file, or a folder that it lies in, has a name that begins with _ or a dot: no data."""
    return any(part.startswith(("_", ".")) for part in name.split("/"))


def matches(name: str, pattern: str) -> bool:
    """Whether a file, or a folder that it lies in, is one of the pattern's. Every part of it is a glob of its own."""
    return len(name.split("/")) >= len(pattern.split("/") if pattern else []) and _may_match(name, pattern)


def _may_match(name: str, pattern: str) -> bool:
    """Whether something below a folder of this name could be one of the pattern's."""
    wanted = pattern.split("/") if pattern else []
    return all(fnmatch.fnmatchcase(n, w) for n, w in zip(name.split("/"), wanted, strict=False))


def list_files(store: Store, folder: str) -> list[Listed]:
    """All files below, but those in hidden folders. Raises DataError, within a bounded time, when the folder or the store
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
    """Links are followed, but not to a folder that the walk is in. inside: real paths of the folders around."""
    inside = (*inside, os.path.realpath(folder))
    with os.scandir(folder) as entries:
        there = sorted(entries, key=lambda e: e.name)
    for entry in there:
        name, through = f"{below}{entry.name}", linked or entry.is_symlink()
        path = f"{folder}/{entry.name}" if folder != "/" else f"/{entry.name}"
        try:
            state = entry.stat()
        except OSError:
            if entry.is_symlink():
                yield Listed(path, name, 0, os.readlink(path), linked=True, broken=True)
            continue  # what was removed in the meantime
        if stat.S_ISREG(state.st_mode):
            target = os.path.realpath(path) if entry.is_symlink() else os.path.join(inside[-1], entry.name)
            yield Listed(path, name, state.st_size, target, through)
        elif stat.S_ISDIR(state.st_mode) and not hidden(entry.name) and os.path.realpath(path) not in inside:
            yield from _walk(path, f"{name}/", inside, through)


def glob_files(folder: Path, pattern: str) -> list[Path]:
    """The files that a pattern matches from a folder, or from the root, in the order of their names, each once; none that is
    hidden but where the pattern itself says so. Raises DataError for a link that leads nowhere, and for a folder."""
    path = Path(pattern)
    parts = path.relative_to(path.anchor).parts if path.is_absolute() else path.parts
    base = Path(path.anchor) if path.is_absolute() else folder
    plain = next((i for i, part in enumerate(parts) if _GLOB.search(part)), len(parts) - 1)
    base, wanted = base.joinpath(*parts[:plain]), parts[plain:]
    files: dict[str, Path] = {}
    told = any(hidden(part) for part in wanted)
    there = {*base.glob("/".join(wanted)), *(p for p in [base.joinpath(*wanted)] if p.is_symlink())}
    for one in sorted(there, key=lambda p: (p.is_symlink(), p)):
        if not told and hidden(one.relative_to(base).as_posix()):
            continue
        if not one.exists():
            raise _leads_nowhere(one, os.readlink(one))
        if one.is_dir():
            raise DataError(f"{one}: is a folder. Name the files in it, such as {one.name}/*.parquet.")
        files.setdefault(os.path.realpath(one), one)
    return sorted(files.values())
