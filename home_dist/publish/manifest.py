"""manifest.json: what a version holds, and the size and SHA-256 of each of its files. docs/publish.md describes each entry."""

import hashlib
import json
import re
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from home_dist.config.publish import RowType
from home_dist.errors import DataError
from home_dist.files.json_files import json_text

MANIFEST, CURRENT = "manifest.json", "current"
FORMAT = 2
_READ = (1, FORMAT)
"""Formats that are read: in the first one no chunk has kind "values"."""
_NAME = re.compile(r"v(\d{6,})")


class PublishError(DataError):
    """A version that cannot be written, or one that is damaged, incomplete or of another kind than asked for."""


def version_name(number: int) -> str:
    return f"v{number:06d}"


def version_number(name: str) -> int | None:
    """None for the name of something else."""
    found = _NAME.fullmatch(name)
    return int(found[1]) if found and version_name(int(found[1])) == name else None


@dataclass(frozen=True)
class FileEntry:
    bytes: int
    sha256: str


@dataclass(frozen=True)
class BaseVersion:
    """The version that a delta builds on."""

    version: str
    manifest_sha256: str


KeyKind = Literal["vocabulary", "managed", "hash", "bucket", "row"]


@dataclass(frozen=True)
class KeySpec:
    """What stands for a row of a table, and which row other ids read."""

    kind: KeyKind
    type: Literal["integer", "text"] | None = None
    """Of the ids that requests hold; None where they hold rows, or numbers that boundaries make rows of."""
    seed: int = 0
    """Of the hash, for kinds hash and managed."""
    unknown_rows: int = 0
    """Of a vocabulary: other ids read rows 1 to unknown_rows by hash; with 0 they read row 0."""
    set_rows: int = 0
    """Of managed ids: rows of a set, whose first one ids without a row read."""


@dataclass(frozen=True)
class VersionTable:
    rows: int
    """Slots 0 to rows - 1."""
    dim: int
    columns: tuple[str, ...]
    """Columns of requests that look rows up in it."""
    key: KeySpec
    entries: int = 0
    """Rows that this version holds."""
    evicted: int = 0
    """Ids that have lost their row since the base."""


@dataclass(frozen=True)
class RowsChunk:
    """Arrays of one table in a file, each at its offset in bytes, a multiple of 8.

    With `values`: n rows, of kind "rows", or "values" where the slots keep the ids that earlier chunks gave them. Without: with
    `slots` and `ids`, of kind "evicted" or "alias".
    """

    table: str
    kind: Literal["rows", "values", "evicted", "alias"]
    file: str
    n: int
    slots: int
    ids: int | None = None
    ends: int | None = None
    """Of texts: where each ends within the bytes at `ids`."""
    values: int | None = None
    scales: int | None = None
    first_column: int = 0
    columns: int = 0


@dataclass(frozen=True)
class Manifest:
    version: str
    kind: Literal["full", "delta"]
    base: BaseVersion | None
    full: str
    """The full version that the chain of bases ends at; of a full one its own name."""
    step: int
    samples: int
    newest_data: float | None
    """Seconds since 1970: when the newest training file was written; of a run that follows, the newest one that was trained on
    whole. None if it is not known."""
    published: float
    """Seconds since 1970."""
    meaning: str
    """Fingerprint of the schema: what rows and numbers mean."""
    row_type: RowType
    predictions: list[dict[str, Any]]
    """What each column of the answers is: name, task, kind, unit."""
    tables: dict[str, VersionTable]
    chunks: list[RowsChunk] = field(default_factory=list)
    """In order: later ones replace rows of earlier ones."""
    files: dict[str, FileEntry] = field(default_factory=dict)
    """All files of the version but this one."""
    golden: int = 0
    """Requests in golden.parquet, with the trainer's answers; 0: there is no such file."""
    checkpoint: dict[str, str] | None = None
    """Of a version that was made from a checkpoint: its name, and the SHA-256 of its manifest."""

    @property
    def number(self) -> int:
        return version_number(self.version) or 0

    def to_bytes(self) -> bytes:
        tree = {"format": "home_dist version", "format_version": FORMAT, **asdict(self)}
        tree["chunks"] = [{k: v for k, v in chunk.items() if v is not None} for chunk in tree["chunks"]]
        return (json_text(tree) + "\n").encode()

    @staticmethod
    def from_bytes(content: bytes, place: str) -> "Manifest":
        """place: for messages. Raises PublishError."""
        try:
            tree = json.loads(content)
            if tree.pop("format") != "home_dist version":
                raise ValueError("no manifest of a version")
            written = tree.pop("format_version")
            if written not in _READ:
                raise ValueError(f"format {written}, and this home_dist reads formats up to {FORMAT}")
            tables = {
                name: VersionTable(**{**t, "key": KeySpec(**t["key"]), "columns": tuple(t["columns"])})
                for name, t in tree["tables"].items()
            }
            chunks = [RowsChunk(**c) for c in tree["chunks"]]
            files = {name: FileEntry(**f) for name, f in tree["files"].items()}
            base = None if tree["base"] is None else BaseVersion(**tree["base"])
            manifest = Manifest(**{**tree, "tables": tables, "chunks": chunks, "files": files, "base": base})
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise PublishError(f"{place}: is damaged or of another format: {error}. {ADVICE}") from None
        manifest._check(place)
        return manifest

    def _check(self, place: str) -> None:
        wrong = None
        if version_number(self.version) is None or (self.base is not None and version_number(self.base.version) is None):
            wrong = f"{self.version!r} is no version's name"
        elif (self.kind == "full") != (self.base is None):
            wrong = f"a {self.kind} version with base {self.base}"
        elif any(c.table not in self.tables or c.file not in self.files for c in self.chunks):
            wrong = "it names a table or a file that it does not describe"
        elif any(name.startswith("/") or ".." in name.split("/") for name in self.files):
            wrong = "it names a file outside of its folder"
        if wrong:
            raise PublishError(f"{place}: is damaged or of another format: {wrong}. {ADVICE}")

    def unlike(self, other: "Manifest") -> str | None:
        """What keeps a delta of this version from building on the other one; None if nothing does."""
        if self.meaning != other.meaning:
            return f"its schema is another one (fingerprint {self.meaning}, not {other.meaning})"
        if self.row_type != other.row_type:
            return f"its rows are {self.row_type}, not {other.row_type}"
        shapes = [{n: (t.rows, t.dim, t.key) for n, t in m.tables.items()} for m in (self, other)]
        if shapes[0] != shapes[1]:
            names = sorted(n for n in shapes[0].keys() | shapes[1].keys() if shapes[0].get(n) != shapes[1].get(n))
            return f"its tables differ: {', '.join(names[:5])}"
        return None

    def counted(self) -> "Manifest":
        """With each table's number of rows and evicted ids."""
        count = {(n, k): 0 for n in self.tables for k in ("rows", "evicted", "alias")}
        for chunk in self.chunks:
            if chunk.first_column == 0:
                count[chunk.table, "rows" if chunk.kind == "values" else chunk.kind] += chunk.n
        tables = {n: replace(t, entries=count[n, "rows"], evicted=count[n, "evicted"]) for n, t in self.tables.items()}
        return replace(self, tables=tables)


ADVICE = "Take another version, or publish a full one again."


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
