"""JSON files, which appear only when complete and hold valid JSON: NaN and infinity become null. Also files of entries, one
JSON object per line, which are appended to."""

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from home_dist.errors import UserError
from home_dist.files.whole import write_whole


def json_text(tree: Any, indent: int | None = 1, sort_keys: bool = False) -> str:
    """As json.dumps, with null for numbers that are not finite."""
    try:
        return json.dumps(tree, indent=indent, sort_keys=sort_keys, allow_nan=False)
    except ValueError:
        return json.dumps(finite(tree), indent=indent, sort_keys=sort_keys, allow_nan=False)


def finite(tree: Any) -> Any:
    """The tree with None in place of NaN and infinities."""
    if isinstance(tree, float):
        return tree if math.isfinite(tree) else None
    if isinstance(tree, Mapping):
        return {key: finite(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [finite(value) for value in tree]
    return tree


def with_nan(tree: Any) -> Any:
    """The tree with NaN in place of nulls, for a file whose nulls are undefined numbers."""
    if tree is None:
        return math.nan
    if isinstance(tree, dict):
        return {key: with_nan(value) for key, value in tree.items()}
    return [with_nan(value) for value in tree] if isinstance(tree, list) else tree


def write_json(path: Path, tree: Any, indent: int | None = 1) -> None:
    """Raises OSError."""
    write_whole(path, json_text(tree, indent) + "\n")


def read_json(path: Path, advice: str, kind: type[UserError] = UserError) -> dict[str, Any]:
    """The JSON object in a file; empty if there is no file. Raises `kind`, with the advice, for a file without a JSON object,
    such as one that another program cut or changed."""
    try:
        tree = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise kind(f"{path}: cannot be read as JSON: {error}. {advice}") from None
    if not isinstance(tree, dict):
        raise kind(f"{path}: holds no JSON object. {advice}")
    return tree


def append_entries(path: Path, entries: Iterable[Mapping[str, Any]]) -> None:
    """Appends a line per entry, after cutting off a last line that a killed process left unfinished. Raises OSError."""
    text = "".join(json_text(entry, indent=None) + "\n" for entry in entries).encode()
    with path.open("ab+") as file:
        end = file.seek(0, os.SEEK_END)
        whole = _whole_lines(file, end)
        if whole < end:
            file.seek(whole)
            if _entry(file.read(end - whole)) is not None:  # the entry is complete, only the line's end is missing
                text = b"\n" + text
            else:
                file.truncate(whole)
        file.write(text)


def _whole_lines(file: Any, end: int) -> int:
    """Number of bytes up to the end of the last complete line."""
    at = end
    while at:
        first = max(0, at - 4096)
        file.seek(first)
        place = file.read(at - first).rfind(b"\n")
        if place >= 0:
            return int(first + place + 1)
        at = first
    return 0


def read_entries(path: Path) -> Iterator[dict[str, Any]]:
    """The entries of a file; none if there is no file. Lines without a JSON object are skipped: a process was killed while it
    wrote them."""
    with suppress(FileNotFoundError):
        for line in path.read_bytes().split(b"\n"):
            entry = _entry(line)
            if entry is not None:
                yield entry


def newest_entries(path: Path, most_bytes: int) -> list[dict[str, Any]]:
    """Entries that begin in the last `most_bytes` of a file, whatever its size; none if there is no file."""
    try:
        with path.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            first = max(0, end - most_bytes)
            file.seek(first)
            lines = file.read(end - first).split(b"\n")
    except FileNotFoundError:
        return []
    return [entry for line in lines[first > 0 :] if (entry := _entry(line)) is not None]


def _entry(line: bytes) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) else None
