"""What stands for the rows of each table, and the ids that own rows."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from home_dist.data.matching_rows import RunSide
from home_dist.data.side_files import side_file
from home_dist.export.meaning import ModelMeaning
from home_dist.ids.arrow_types import is_text
from home_dist.ids.managed_sets import ManagedSets
from home_dist.ids.rows import INDEXED
from home_dist.ids.vocabulary import VocabularyFile
from home_dist.publish.manifest import KeySpec, VersionTable
from home_dist.schema import InputLayout, Table
from home_dist.schema.values import HashValues, VocabularyValues
from home_dist.training.stored_tables import all_tables

Slots = NDArray[np.int64]


def version_tables(meaning: ModelMeaning, layout: InputLayout) -> dict[str, VersionTable]:
    """All tables, as a manifest describes them. Raises DataError for a vocabulary that cannot be opened."""
    columns: dict[str, list[str]] = {}
    for item in layout.inputs:
        columns.setdefault(item.table.name, []).append(item.column)
    return {
        name: VersionTable(table.rows, table.dim, tuple(dict.fromkeys(columns[name])), key_spec(meaning, layout, table))
        for name, table in sorted(all_tables(layout).items())
    }


def key_spec(meaning: ModelMeaning, layout: InputLayout, table: Table) -> KeySpec:
    if table.name in layout.statistics:
        return KeySpec("bucket")
    values = next(t for t in meaning.whole.table if t.name == table.name).values
    if isinstance(values, VocabularyValues):
        return KeySpec("vocabulary", values.type, unknown_rows=values.unknown_rows)
    if isinstance(values, HashValues) and table.managed:
        return KeySpec("managed", values.type, values.seed, set_rows=ManagedSets.of(table.rows).width)
    if isinstance(values, HashValues):
        return KeySpec("hash", values.type, values.seed)
    file = vocabulary_of(meaning, table.name)
    return KeySpec("row", None if file is None else file.kind)


def vocabulary_of(meaning: ModelMeaning, table: str) -> VocabularyFile | None:
    """The vocabulary that tells a table's ids; None for one without. Raises DataError."""
    spec = next((t for t in meaning.whole.table if t.name == table), None)
    if spec is None or isinstance(spec.values, HashValues):
        return None
    side = RunSide(meaning.given, meaning.whole, meaning.recorded)
    path, known = side_file(meaning.given, side.place(table)), spec.origin or spec.values
    if path is None:
        return None
    return VocabularyFile.open(path, table, known.type if known else None, known.sha256 if known else None)


def vocabulary_ids(meaning: ModelMeaning, layout: InputLayout, table: str) -> "VocabularyIds | None":
    """Ids of a table's rows; None where no vocabulary tells them. table: not managed. Raises DataError."""
    file = None if table in layout.statistics else vocabulary_of(meaning, table)
    return None if file is None else VocabularyIds(file)


class VocabularyIds:
    """Ids of rows, by a vocabulary. Rows are asked for in ascending order, so that a large vocabulary is read once, from the
    start, and never held whole, if its own rows ascend; others are read once, and held."""

    def __init__(self, file: VocabularyFile):
        self._file = file
        self._whole: tuple[pa.Array, Slots] | None = None
        """Of a vocabulary that is held whole."""
        self._pieces: Iterator[tuple[pa.Array, Slots]] = iter(())
        self._keys: pa.Array | None = None
        self._rows: Slots | None = None
        self._before = sys.maxsize  # nothing is read before the first use

    def take(self, slots: Slots) -> pa.Array:
        """(n,) ids of ascending slots (n,), null for a row without one."""
        if len(slots) and slots[0] <= self._before:
            self._pieces = self._start()
            self._keys, self._rows = self._next()
        found = []
        while len(slots):
            here = slots if self._rows is None else slots[: np.searchsorted(slots, self._last, side="right")]
            found.append(self._of_piece(here))
            slots = slots[len(here) :]
            if len(slots):
                self._keys, self._rows = self._next()
            if len(here):
                self._before = int(here[-1])
        return pa.concat_arrays(found) if found else self._nulls(0)

    @property
    def _last(self) -> int:
        return -1 if self._rows is None or not len(self._rows) else int(self._rows[-1])

    def _of_piece(self, slots: Slots) -> pa.Array:
        if self._rows is None or self._keys is None or not len(self._rows):
            return self._nulls(len(slots))
        at = np.minimum(np.searchsorted(self._rows, slots), len(self._rows) - 1)
        absent = self._rows[at] != slots
        return self._keys.take(pa.array(at, mask=absent))

    def _nulls(self, n: int) -> pa.Array:
        return pa.nulls(n, pa.large_string() if self._file.kind == "text" else pa.int64())

    def _next(self) -> tuple[pa.Array | None, Slots | None]:
        """The next piece; (None, None) behind the last one."""
        return next(self._pieces, (None, None))

    def _start(self) -> Iterator[tuple[pa.Array, Slots]]:
        if self._in_pieces:
            for keys, rows in self._file.pieces():
                yield _plain(keys), rows
            return
        if self._whole is None:
            pieces = list(self._file.pieces())
            keys = pa.concat_arrays([_plain(k) for k, _ in pieces]) if pieces else self._nulls(0)
            rows = np.concatenate([np.zeros(0, np.int64), *(r for _, r in pieces)])
            order = np.argsort(rows, kind="stable")
            self._whole = keys.take(pa.array(order)), rows[order]
        yield self._whole

    @cached_property
    def _in_pieces(self) -> bool:
        return self._file.keys >= INDEXED and _ascends(self._file)


def _plain(keys: pa.Array) -> pa.Array:
    """Texts with offsets of 64 bits: those of a large vocabulary have more than 2 GiB together."""
    return keys.cast(pa.large_string()) if is_text(keys.type) else keys


def _ascends(file: VocabularyFile) -> bool:
    last = -1
    for _, rows in file.pieces():
        if len(rows) and (rows[0] <= last or (np.diff(rows) <= 0).any()):
            return False
        last = int(rows[-1]) if len(rows) else last
    return True


def cut_ids(file: VocabularyFile, rows: int) -> Iterator[pa.Array]:
    """Ids whose rows a table of `rows` rows no longer has (`keep_rows`): they read row 0."""
    for keys, own in file.pieces():
        cut = np.flatnonzero(own >= rows)
        if len(cut):
            yield _plain(keys.take(pa.array(cut)))


@dataclass(frozen=True)
class ManagedOwners:
    """Ids, as hashes, that own rows of a managed table, from its row `first` on."""

    first: int
    owners: NDArray[np.int64]
    """(rows,) the hash that owns each row; -1 for none."""

    def take(self, slots: Slots) -> pa.Array:
        found = self.owners[slots - self.first]
        return pa.array(found, mask=found < 0)


def shared_or_owned(slots: Slots, ids: pa.Array, set_rows: int) -> NDArray[np.bool_]:
    """(n,) whether rows of a managed table are read: those with an id, and the first ones of sets."""
    return ~np.asarray(ids.is_null()) | (slots % set_rows == 0)
