"""Reads a version: its full version with all deltas on top, each file checked against its hash before it is used."""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import safetensors.torch
import torch
from numpy.typing import NDArray

from home_dist.config.publish import RowType
from home_dist.publish.codec import VALUES, Floats, decode
from home_dist.publish.folder import VersionsFolder
from home_dist.publish.manifest import ADVICE, Manifest, PublishError, RowsChunk, VersionTable, version_name, version_number
from home_dist.publish.rows_file import Parts, read_chunk
from home_dist.publish.writing import DENSE

_NONE = -1


class VersionRows:
    """The rows of a table, as they are stored, and the ids that own them."""

    def __init__(self, table: VersionTable, row_type: RowType):
        self.table, self.row_type = table, row_type
        self.values: NDArray[Any] = np.zeros((table.rows, table.dim), VALUES[row_type])
        self.there: NDArray[np.bool_] = np.zeros(table.rows, np.bool_)
        """(rows,) whether the row is published; others are never read."""
        self._blocks: dict[tuple[int, int], NDArray[np.float32]] = {}
        """(rows, 2) scales by (first column, columns)."""
        self._ids: list[pa.Array] = []
        self._owner: NDArray[np.int64] = np.full(table.rows, _NONE, np.int64)
        """(rows,) position in all ids of the one that owns the row."""
        self._count = 0
        self._aliases: list[tuple[pa.Array, NDArray[np.int64]]] = []

    def add(self, chunk: RowsChunk, parts: Parts) -> None:
        """Raises ValueError for blocks of columns that overlap."""
        slots, ids, values, scales = parts
        if chunk.kind == "evicted":
            self._evict(slots, ids)
            return
        if chunk.kind == "alias":
            self._aliases.append((ids, slots))
            return
        first, end = chunk.first_column, chunk.first_column + chunk.columns
        self.values[slots, first:end] = values
        if scales is not None:
            self._scales(first, chunk.columns)[slots] = scales
        self.there[slots] = True
        if chunk.kind == "rows":
            self._owner[slots] = _NONE if ids is None else self._count + np.arange(len(slots))
        if ids is not None:
            self._ids.append(ids)
            self._count += len(ids)

    def _evict(self, slots: NDArray[np.int64], ids: pa.Array) -> None:
        owned = self._owner[slots] != _NONE
        owners = self._all_ids().take(pa.array(self._owner[slots[owned]]))
        still = slots[owned][np.asarray(pc.equal(owners, ids.filter(pa.array(owned))))] if owned.any() else slots[:0]
        self.there[still], self._owner[still] = False, _NONE

    def _scales(self, first: int, columns: int) -> NDArray[np.float32]:
        if any(f < first + columns and first < f + n and (f, n) != (first, columns) for f, n in self._blocks):
            raise ValueError(f"blocks of columns overlap at {first}")
        return self._blocks.setdefault((first, columns), np.zeros((self.table.rows, 2), np.float32))

    def _all_ids(self) -> pa.Array:
        if len(self._ids) > 1:
            self._ids = [pa.concat_arrays(self._ids)]
        kind = pa.large_string() if self.table.key.type == "text" and self.table.key.kind != "managed" else pa.int64()
        return self._ids[0] if self._ids else pa.array([], kind)

    @property
    def ids(self) -> tuple[pa.Array, NDArray[np.int64]]:
        """(ids (n,), the slots (n,) that they own or share), by ascending slot."""
        slots = np.flatnonzero(self._owner != _NONE)
        ids, rows = self._all_ids().take(pa.array(self._owner[slots])), slots
        for more, shared in self._aliases:
            ids, rows = pa.concat_arrays([ids, more]), np.concatenate([rows, shared])
        return ids, rows

    def rows(self, slots: NDArray[np.int64] | slice) -> Floats:
        """(n, dim) float32 of slots (n,)."""
        if self.row_type != "int8":
            return decode(self.values[slots], None)
        values = self.values[slots]
        found = np.zeros(values.shape, np.float32)
        for (first, columns), scales in self._blocks.items():
            found[:, first : first + columns] = decode(values[:, first : first + columns], scales[slots])
        return found


@dataclass(frozen=True)
class PublishedVersion:
    manifest: Manifest
    tables: dict[str, VersionRows]
    dense: dict[str, torch.Tensor]
    """By name, as in a checkpoint's dense part."""
    chain: list[Manifest] = field(default_factory=list)
    """The full version, then its deltas up to this one."""


def chain_of(folder: VersionsFolder, version: str | None = None) -> list[Manifest]:
    """Manifests of the full version and of the deltas on it, up to `version`; by default up to the current one. Raises
    PublishError."""
    sha256 = None
    if version is None:
        current = folder.current()
        if current is None:
            raise PublishError(
                f"{folder}: holds no versions (no file `current`). Write one: home-dist publish RUN --to {folder}"
            )
        version, sha256 = current
    elif version_number(version) is None:
        there = ", ".join(version_name(n) for n in folder.versions()[-10:]) or "none"
        raise PublishError(f"{folder}: {version!r} is no version's name, which is like v000001. Versions there: {there}")
    chain = [folder.manifest(version, sha256)]
    while (base := chain[0].base) is not None:
        older = folder.manifest(base.version, base.manifest_sha256)
        unlike = chain[0].unlike(older)
        if unlike is not None or older.number >= chain[0].number:
            reason = unlike or "its base is not older"
            raise PublishError(f"{folder.shown(chain[0].version)}: does not build on {base.version}: {reason}. {ADVICE}")
        chain.insert(0, older)
    return chain


@contextmanager
def copies() -> Iterator[Path]:
    """A folder for the copies of remote files."""
    with tempfile.TemporaryDirectory(prefix="home-dist-") as folder:
        yield Path(folder)


def read_version(place: str, version: str | None = None) -> PublishedVersion:
    """A version with all its rows, which take the memory of the tables as they are stored; by default the current one. place: a
    folder or URL. Raises PublishError, which names the file and what is wrong with it; StoreError."""
    folder = VersionsFolder(place)
    chain = chain_of(folder, version)
    newest = chain[-1]
    tables = {name: VersionRows(table, newest.row_type) for name, table in newest.tables.items()}
    with copies() as to:
        for manifest in chain:
            read_rows(folder, manifest, tables, to)
        dense = read_dense(folder, newest, to)
    return PublishedVersion(newest, tables, dense, chain)


def read_dense(folder: VersionsFolder, manifest: Manifest, to: Path) -> dict[str, torch.Tensor]:
    """Raises PublishError, StoreError."""
    if DENSE not in manifest.files:
        raise PublishError(f"{folder.shown(manifest.version)}: its manifest names no {DENSE}. {ADVICE}")
    path = folder.fetched(manifest.version, DENSE, manifest.files[DENSE], to)
    try:
        found: dict[str, torch.Tensor] = safetensors.torch.load(path.read_bytes())
        return found
    except Exception as error:
        raise PublishError(f"{folder.shown(f'{manifest.version}/{DENSE}')}: cannot be read: {error}. {ADVICE}") from None


class TakesRows(Protocol):
    def add(self, chunk: RowsChunk, parts: Parts) -> None:
        """A chunk of its table, which fits it. Raises ValueError."""


def read_rows(folder: VersionsFolder, manifest: Manifest, tables: Mapping[str, TakesRows], to: Path) -> None:
    """Gives each chunk of a version to its table, in order. Raises PublishError, StoreError."""
    contents: dict[str, NDArray[np.uint8]] = {}
    for name in dict.fromkeys(c.file for c in manifest.chunks):
        path = folder.fetched(manifest.version, name, manifest.files[name], to)
        contents[name] = np.memmap(path, np.uint8, "r") if path.stat().st_size else np.zeros(0, np.uint8)
    for chunk in manifest.chunks:
        try:
            tables[chunk.table].add(chunk, _checked(chunk, contents[chunk.file], manifest))
        except (ValueError, pa.ArrowException) as error:
            where = folder.shown(f"{manifest.version}/{chunk.file}")
            raise PublishError(f"{where}: table {chunk.table!r} cannot be read: {error}. {ADVICE}") from None


def _checked(chunk: RowsChunk, content: NDArray[np.uint8], manifest: Manifest) -> Parts:
    """Raises ValueError for a chunk that does not fit its table."""
    table, row_type = manifest.tables[chunk.table], manifest.row_type
    slots, ids, _, scales = parts = read_chunk(content, chunk, row_type)
    if len(slots) and not (slots.min() >= 0 and slots.max() < table.rows):
        raise ValueError(f"rows {slots.min()} to {slots.max()} of a table of {table.rows}")
    holds_rows = chunk.kind in ("rows", "values")
    if (not holds_rows and ids is None) or (chunk.kind == "values" and ids is not None):
        raise ValueError(f"a chunk of kind {chunk.kind} {'has no ids' if ids is None else 'has ids'}")
    first, end = chunk.first_column, chunk.first_column + chunk.columns
    if holds_rows and (not 0 <= first < end <= table.dim or (scales is None) == (row_type == "int8")):
        raise ValueError(f"columns {first} to {end} of {table.dim} as {row_type}")
    return parts


def fetch_meaning(folder: VersionsFolder, full: Manifest, to: Path) -> Path:
    """The folder with schema, configuration and vocabularies of a full version, all checked. to: for copies of remote ones.
    Raises PublishError."""
    names = [n for n in full.files if n.startswith("meaning/")]
    for name in names:
        folder.fetched(full.version, name, full.files[name], to)
    if not names:
        raise PublishError(f"{folder.shown(full.version)}: its manifest names no files of meaning/. {ADVICE}")
    return (to if folder.remote else folder.local) / full.version / "meaning"
