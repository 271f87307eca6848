"""Places of files: a path, or a URL of an object store. Texts alone; stores.py opens them.

Options of an object store follow a question mark, as in s3://bucket/data?region=eu-west-1.
"""

import re
from pathlib import Path
from urllib.parse import SplitResult, unquote

_SECRET = re.compile(r"key|secret|token|passw|credential|signature", re.IGNORECASE)
_PASSWORD = re.compile(r"://[^/@]*:[^/@]*@")  # in the URL of a proxy, say


def is_remote(place: str) -> bool:
    return "://" in place and not is_file_url(place)


def is_file_url(place: str) -> bool:
    return place.startswith("file:/")


def join(place: str, below: str) -> str:
    """The path `below` within a place. A URL's options stay at the end."""
    base, mark, options = _parted(place) if is_remote(place) else (place, "", "")
    return f"{base.rstrip('/')}/{below}{mark}{options}" if below else place


def path_of(place: str) -> str:
    """A URL without user, options and a slash at its end: the same for all ways to write one place of a store."""
    url = split_place(place)
    return f"{url.scheme}://{url.netloc.rpartition('@')[2]}{url.path}".rstrip("/")


def options_of(place: str) -> str:
    """What follows a URL's question mark; empty if there are no options."""
    return _parted(place)[2]


def with_parents(place: str) -> list[str]:
    """The place and the folders around it, innermost first. A URL's options stay at the end."""
    base, mark, options = _parted(place) if is_remote(place) else (place, "", "")
    scheme, slashes, path = base.rpartition("://")
    if not scheme and not path.startswith("/"):
        path = str(Path(path).absolute())
    parts = path.rstrip("/").split("/")
    return [f"{scheme}{slashes}{'/'.join(parts[:n]) or '/'}{mark}{options}" for n in range(len(parts), 0, -1)]


def without_secrets(place: str) -> str:
    """A place without secrets, which must not be written or shown: keys, tokens and passwords in options, and passwords of
    users. Options that a store needs to be found stay."""
    if "://" not in place:
        return place
    base, mark, options = _parted(place)
    scheme, _, rest = base.partition("://")
    host, slash, path = rest.partition("/")
    user, at, name = host.rpartition("@")
    host = name if at and ":" in user else host
    kept = [option for option in options.split("&") if option and not _is_secret(option)]
    return f"{scheme}://{host}{slash}{path}{mark if kept else ''}{'&'.join(kept)}"


def _is_secret(option: str) -> bool:
    key, _, value = option.partition("=")
    return _SECRET.search(key) is not None or _PASSWORD.search(unquote(value)) is not None


def split_place(place: str) -> SplitResult:
    """As urlsplit, which cannot be used: a question mark in the path may be a glob's, but urlsplit starts the options there."""
    base, _, options = _parted(place)
    scheme, _, rest = base.partition("://")
    host, slash, path = rest.partition("/")
    return SplitResult(scheme, host, slash + path, options, "")


def _parted(place: str) -> tuple[str, str, str]:
    """A URL's address, the question mark, and its options."""
    base, mark, options = place.rpartition("?")
    if not mark or "=" not in options or "/" in options.partition("=")[0]:
        return place, "", ""
    return base, mark, options
