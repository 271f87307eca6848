"""Where data lies: folders, globs and Hive partitions on this machine or in an object store, through pyarrow.fs.

A place is a path, or a URL of a scheme that pyarrow has a file system for (file, s3, gs, hdfs). Options of an object
store follow a question mark, as in s3://bucket/data?region=eu-west-1 or ?endpoint_override=http://127.0.0.1:9000.
"""

import fnmatch
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import SplitResult, parse_qsl, unquote

from pyarrow import fs

from home_dist.errors import DataError

_CONNECT_SECONDS, _REQUEST_SECONDS, _ATTEMPTS = 5, 30, 3
_REFUSED = ("ACCESS_DENIED", "INVALID_ACCESS_KEY", "INVALID_CLIENT_TOKEN", "SIGNATURE", "HTTP 403", "credential")
_GLOB = re.compile(r"[*?\[]")
_NULL = "__HIVE_DEFAULT_PARTITION__"


@dataclass(frozen=True)
class Store:
    """A file system, and what stands before its paths when a user reads them."""

    filesystem: fs.FileSystem = field(default_factory=fs.LocalFileSystem)
    prefix: str = ""

    @property
    def local(self) -> bool:
        return not self.prefix

    def show(self, path: str) -> str:
        return f"{self.prefix}{path}"

    def __reduce__(self) -> tuple[type, tuple[fs.FileSystem, str]]:
        return Store, (self.filesystem, self.prefix)


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


def is_remote(place: str) -> bool:
    return "://" in place and not place.startswith("file://")


def join(place: str, below: str) -> str:
    """`below` within a place, before a URL's options."""
    base, mark, options = place.partition("?") if is_remote(place) else (place, "", "")
    return f"{base.rstrip('/')}/{below}{mark}{options}" if below else place


def open_store(place: str) -> tuple[Store, str]:
    """The file system of a place and the path in it. Raises DataError for schemes and options that pyarrow does not have."""
    if place.startswith("file://"):
        return Store(), unquote(place.removeprefix("file://"))
    if not is_remote(place):
        return Store(), place
    url = _split(place)
    path = f"{url.netloc}{url.path}"
    try:
        if url.scheme == "s3":
            return Store(_s3(dict(parse_qsl(url.query))), "s3://"), path
        # The host of hdfs is no part of its paths; a bucket of gs is.
        filesystem, _ = fs.FileSystem.from_uri(f"{url.scheme}://{url.netloc}/?{url.query}".rstrip("?"))
        hdfs = url.scheme in ("hdfs", "viewfs")
        return Store(filesystem, f"{url.scheme}://{url.netloc if hdfs else ''}"), url.path if hdfs else path
    except (ValueError, TypeError, OSError, NotImplementedError) as error:
        raise DataError(f"{place}: cannot be opened: {_first_line(error)}. Schemes are file, s3, gs and hdfs.") from None


def _split(place: str) -> SplitResult:
    """A question mark within a URL's path would be one of a glob, which urlsplit takes for the begin of options."""
    base, mark, options = place.rpartition("?")
    if not mark or "=" not in options or "/" in options.partition("=")[0]:
        base, options = place, ""
    scheme, _, rest = base.partition("://")
    host, slash, path = rest.partition("/")
    return SplitResult(scheme, host, slash + path, options, "")


def _s3(options: dict[str, str]) -> fs.FileSystem:
    """With bounds on waiting, which pyarrow's own reading of a URL leaves out."""
    return fs.S3FileSystem(
        connect_timeout=_CONNECT_SECONDS,
        request_timeout=_REQUEST_SECONDS,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=_ATTEMPTS),
        **options,
    )


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
        shown = store.show(folder)
        if store.local and not Path(shown).is_absolute():
            shown += f" (that is {Path(shown).absolute()}, as a relative data.path is below the working folder)"
        raise DataError(
            f"{shown}: no such folder. Set data.path and the name of the split (data.train, ...) to prepared data."
        ) from None
    except OSError as error:
        raise unreachable(store, folder, error) from None


def unreachable(store: Store, path: str, error: OSError) -> DataError:
    """What to tell when a store answers with an error, or not at all."""
    text = _first_line(error)
    where = store.show(path)
    bucket = path.split("/")[0]
    if store.local:
        return DataError(f"{where}: cannot be read: {text}. Check its permissions.")
    if "NO_SUCH_BUCKET" in text or "NoSuchBucket" in text:
        return DataError(f"{where}: there is no bucket {bucket!r}. Correct data.path, or its endpoint_override.")
    if any(sign in text for sign in _REFUSED):
        return DataError(
            f"{where}: the store refuses access ({text}). Give credentials: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
            "~/.aws/credentials, or a role of this machine; or check what they may read."
        )
    if "NETWORK_CONNECTION" in text or "imed out" in text or "TIMEOUT" in text.upper():
        return DataError(
            f"{where}: the store cannot be reached ({text}). Check the network, endpoint_override and proxies; it was tried "
            f"{_ATTEMPTS} times."
        )
    return DataError(f"{where}: the store answers with an error ({text}). Check data.path and its options, such as region.")


def _first_line(error: BaseException) -> str:
    lines = str(error).splitlines()
    return lines[0][:300] if lines else type(error).__name__
