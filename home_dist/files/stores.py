"""File systems of the data: this machine's, or an object store, through pyarrow.fs.

A place is a path, or a URL with a scheme that pyarrow supports (file, s3, gs, hdfs). Options of an object store follow a
question mark, as in s3://bucket/data?region=eu-west-1 or ?endpoint_override=http://127.0.0.1:9000.
"""

from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote

from pyarrow import fs

from home_dist.errors import DataError
from home_dist.files.places import is_file_url, is_remote, split_place, without_secrets

_SCHEMES = ("s3", "gs", "gcs", "hdfs", "viewfs")
_CONNECT_SECONDS, _REQUEST_SECONDS, _ATTEMPTS = 5, 30, 3
_REFUSED = ("ACCESS_DENIED", "INVALID_ACCESS_KEY", "INVALID_CLIENT_TOKEN", "SIGNATURE", "HTTP 403", "credential")


@dataclass(frozen=True)
class Store:
    """A file system, and the prefix of its paths in messages, empty for the local one."""

    filesystem: fs.FileSystem = field(default_factory=fs.LocalFileSystem)
    prefix: str = ""

    @property
    def local(self) -> bool:
        return not self.prefix

    def show(self, path: str) -> str:
        return f"{self.prefix}{path}"

    def __reduce__(self) -> tuple[type, tuple[fs.FileSystem, str]]:
        return Store, (self.filesystem, self.prefix)


def open_store(place: str) -> tuple[Store, str]:
    """The file system of a place, and the path in it. Raises DataError for schemes and options that pyarrow lacks."""
    if is_file_url(place):
        return Store(), _path_of(place)
    scheme = place.partition(":/")[0]
    if scheme in _SCHEMES and not place.startswith(f"{scheme}://"):
        rest = place.partition(":/")[2]
        raise DataError(
            f"{without_secrets(place)}: a URL has two slashes behind its scheme: {scheme}://{without_secrets(rest)}"
        )
    if not is_remote(place):
        return Store(), place
    url = split_place(place)
    user, _, host = url.netloc.rpartition("@")
    path = f"{host if url.scheme == 's3' else url.netloc}{url.path}"
    try:
        if url.scheme == "s3":
            key, mark, secret = user.partition(":")
            of_user = {"access_key": unquote(key), "secret_key": unquote(secret)} if mark else {}
            return Store(_s3(of_user | dict(parse_qsl(url.query))), "s3://"), path
        # The host is not part of an hdfs path; the bucket is part of a gs path.
        filesystem, _ = fs.FileSystem.from_uri(f"{url.scheme}://{url.netloc}/?{url.query}".rstrip("?"))
        hdfs = url.scheme in ("hdfs", "viewfs")
        return Store(filesystem, f"{url.scheme}://{url.netloc if hdfs else ''}"), url.path if hdfs else path
    except (ValueError, TypeError, OSError, NotImplementedError) as error:
        reason = _first_line(error).replace(url.query, "...") if url.query else _first_line(error)
        raise DataError(f"{without_secrets(place)}: cannot be opened: {reason}. Schemes are file, s3, gs and hdfs.") from None


def _path_of(place: str) -> str:
    """The path /x of file:/x, file:///x and file://localhost/x. Raises DataError for other hosts, whose files are not here."""
    rest = place.removeprefix("file:")
    if rest.startswith("//"):
        host, slash, path = rest.removeprefix("//").partition("/")
        if host not in ("", "localhost") or not slash:
            raise DataError(
                f"{place}: a file URL names a file of this machine by its whole path, as file:///{unquote(path or host)}. "
                "For a path from the working folder, leave file: out."
            )
        rest = slash + path
    return unquote(rest)


def _s3(options: dict[str, str]) -> fs.FileSystem:
    """An S3 file system with time-outs, which pyarrow does not set when it reads a URL."""
    return fs.S3FileSystem(
        connect_timeout=_CONNECT_SECONDS,
        request_timeout=_REQUEST_SECONDS,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=_ATTEMPTS),
        **options,
    )


def unreachable(store: Store, path: str, error: OSError) -> DataError:
    """The error to raise when a store answers with an error, or not at all."""
    text = _first_line(error)
    where = store.show(path)
    bucket = path.split("/")[0]
    if store.local:
        return DataError(f"{where}: cannot be read: {text}. Check its permissions.")
    if "NO_SUCH_BUCKET" in text or "NoSuchBucket" in text:
        return DataError(f"{where}: there is no bucket {bucket!r}. Correct the URL, or its endpoint_override.")
    if any(sign in text for sign in _REFUSED):
        return DataError(
            f"{where}: the store refuses access ({text}). Give credentials: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
            "~/.aws/credentials, or a role of this machine; or check what they may read. Keys in data.path serve the command "
            "that they are given to; a run's folder and its checkpoints do not keep them."
        )
    if "NETWORK_CONNECTION" in text or "imed out" in text or "TIMEOUT" in text.upper():
        return DataError(
            f"{where}: the store cannot be reached ({text}). Check the network, endpoint_override and proxies; it was tried "
            f"{_ATTEMPTS} times."
        )
    return DataError(f"{where}: the store answers with an error ({text}). Check the URL and its options, such as region.")


def _first_line(error: BaseException) -> str:
    lines = str(error).splitlines()
    return lines[0][:300] if lines else type(error).__name__
