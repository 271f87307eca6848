"""File systems that data lies in: this machine's, or an object store, through pyarrow.fs.

A place is a path, or a URL of a scheme that pyarrow has a file system for (file, s3, gs, hdfs). Options of an object
store follow a question mark, as in s3://bucket/data?region=eu-west-1 or ?endpoint_override=http://127.0.0.1:9000.
"""

from dataclasses import dataclass, field
from urllib.parse import SplitResult, parse_qsl, unquote

from pyarrow import fs

from home_dist.errors import DataError

_CONNECT_SECONDS, _REQUEST_SECONDS, _ATTEMPTS = 5, 30, 3
_REFUSED = ("ACCESS_DENIED", "INVALID_ACCESS_KEY", "INVALID_CLIENT_TOKEN", "SIGNATURE", "HTTP 403", "credential")


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
