"""Which files of a folder or of a glob are data, and what the names of their folders say (Hive partitions)."""

import fnmatch
import re
from collections.abc import Iterable, Mapping
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


def find_files(place: str) -> tuple[Store, list[Found]]:
    """The *.parquet files below a folder, or of the files and folders that a glob matches, in the order of their names.

    Names that begin with _ or . are no data, such as what a writer has not finished yet. Raises DataError.
    """
    store, path = open_store(place)
    parts = path.rstrip("/").split("/")
    literal = store.local and Path(path).is_dir()  # though its name has a glob's characters
    plain = next((i for i, part in enumerate(parts) if _GLOB.search(part) and not literal), len(parts))
    base, pattern = "/".join(parts[:plain]) or ("/" if path.startswith("/") else "."), parts[plain:]
    files = data_files(list_files(store, base), base, "/".join(pattern))
    if not files:
        matching = " that matches" if pattern else ""
        raise DataError(
            f"{store.show(path)}: holds no *.parquet files{matching}. Prepare the data first, or correct data.path or split."
        )
    return store, files


def data_files(infos: Iterable[fs.FileInfo], base: str, pattern: str = "") -> list[Found]:
    """Those of the files below `base` that are data, in the order of their names."""
    files = []
    for info in infos:
        name = info.path.removeprefix(base).lstrip("/")
        hidden = any(part.startswith(("_", ".")) for part in name.split("/"))
        if not hidden and name.endswith(".parquet") and matches(name, pattern):
            files.append(Found(info.path, name, info.size))
    return sorted(files, key=lambda f: f.name.split("/"))


def matches(name: str, pattern: str) -> bool:
    """Whether a file, or a folder that it lies in, is one of the pattern's. Every part of it is a glob of its own."""
    names, wanted = name.split("/"), pattern.split("/") if pattern else []
    return len(names) >= len(wanted) and all(fnmatch.fnmatchcase(n, w) for n, w in zip(names, wanted, strict=False))


def list_files(store: Store, folder: str) -> list[fs.FileInfo]:
    """All files below. Raises DataError, within a bounded time, when the folder or the store cannot be listed."""
    try:
        return [i for i in store.filesystem.get_file_info(fs.FileSelector(folder, recursive=True)) if i.is_file]
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(
            f"{store.show(folder)}: no such folder. Set data.path and the name of the split (data.train, ...) to prepared data."
        ) from None
    except OSError as error:
        raise unreachable(store, folder, error) from None
