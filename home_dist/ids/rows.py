"""Keys -> rows of a table: by a vocabulary that was fitted on the training part, or by a hash. Row 0 is for missing keys."""

from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from home_dist.ids.arrow_numpy import filled
from home_dist.ids.arrow_types import is_text
from home_dist.ids.hashing import Hashes, hash_integers, hash_texts, rows_of_hashes
from home_dist.ids.keys import KeyType, NotKeys, as_keys, key_numbers, missing
from home_dist.ids.vocabulary import VocabularyFile
from home_dist.ids.vocabulary_index import Index, open_index

_KEY_SEED = 0  # hash seed of texts within a vocabulary, and of values out of it
INDEXED = 1 << 20
"""Vocabularies of so many keys are looked up in an index that the processes of a host share; each process holds smaller ones
itself."""


class RowsOf(Protocol):
    """Looks up rows for an Arrow array of keys, of any type that `fits_key`."""

    type: KeyType

    def __call__(self, values: pa.Array) -> NDArray[np.int64]:
        """(n,) keys -> (n,) rows; 0 for missing keys. Raises NotKeys."""


class _Keyed:
    """Common handling of missing keys and dictionaries."""

    type: KeyType

    def __call__(self, values: pa.Array) -> NDArray[np.int64]:
        keys = as_keys(values, self.type)
        if self.type == "text":
            # Each distinct text is looked up once, not each row.
            encoded = keys if pa.types.is_dictionary(keys.type) else keys.dictionary_encode()
            distinct = encoded.dictionary
            of_distinct = np.where(missing(distinct), 0, self._rows(distinct)) if len(distinct) else np.zeros(1, np.int64)
            rows = of_distinct[filled(encoded.indices, 0)]
        else:
            rows = self._rows(pc.fill_null(keys, 0) if keys.null_count else keys)
        return np.where(missing(keys), 0, rows) if keys.null_count else rows

    def _rows(self, keys: pa.Array) -> NDArray[np.int64]:
        """(n,) keys -> (n,) rows; rows of nulls are ignored."""
        raise NotImplementedError


class HashRows(_Keyed):
    """Rows 1 to rows - 1 by hash; keys may share a row."""

    def __init__(self, kind: KeyType, seed: int, rows: int):
        self.type, self.seed, self.rows = kind, seed, rows

    def _rows(self, keys: pa.Array) -> NDArray[np.int64]:
        return rows_of_hashes(hash_keys(keys, self.seed), self.rows)


MANAGED_BITS = 62
"""TorchRec splits the range of ids below 2^62 evenly over ranks. Hashes of 62 bits spread evenly, and rarely collide."""


class ManagedKeys(_Keyed):
    """Hashes in place of rows; TorchRec's managed collisions map them to rows. A missing key is the id 0."""

    def __init__(self, kind: KeyType, seed: int):
        self.type, self.seed = kind, seed

    def _rows(self, keys: pa.Array) -> NDArray[np.int64]:
        return (hash_keys(keys, self.seed) >> np.uint64(64 - MANAGED_BITS)).astype(np.int64)


class VocabularyRows(_Keyed):
    """Looks keys up by binary search: whole numbers by value; texts by hash, then compared."""

    def __init__(self, kind: KeyType, unknown_rows: int, keys: pa.Array, rows: NDArray[np.int64]):
        """unknown_rows: number of rows over which other keys are spread by hash, may be 0; keys: (n,) distinct; rows: (n,) the
        row of each."""
        self.type, self.unknown_rows = kind, unknown_rows
        self._seed = _KEY_SEED
        keys = as_keys(keys, kind)
        numbers = self._numbers(keys)
        while self.type == "text" and len(np.unique(numbers)) < len(numbers):  # two texts of one hash: take another hash
            self._seed += 1
            numbers = self._numbers(keys)
        order = np.argsort(numbers)
        self._sorted, self._of_row = numbers[order], rows[order]
        self._texts = keys.take(pa.array(order)).cast(pa.large_string()) if self.type == "text" else None

    def _numbers(self, keys: pa.Array) -> NDArray:
        return hash_texts(keys, self._seed) if self.type == "text" else key_numbers(keys)

    def _rows(self, keys: pa.Array) -> NDArray[np.int64]:
        unknown = np.zeros(len(keys), np.int64)
        if self.unknown_rows:
            unknown = rows_of_hashes(hash_keys(keys, _KEY_SEED), self.unknown_rows + 1)
        if not len(self._sorted):
            return unknown
        numbers = self._numbers(keys)
        at = np.minimum(np.searchsorted(self._sorted, numbers), len(self._sorted) - 1)
        known = self._sorted[at] == numbers
        if self._texts is not None:
            same = pc.equal(self._texts.take(pa.array(at)), keys.cast(pa.large_string()))
            known &= np.asarray(pc.fill_null(same, False))
        return np.where(known, self._of_row[at], unknown)


class IndexedRows(_Keyed):
    """Looks keys up in the index of a large vocabulary, which the processes of a host share (vocabulary_index.py)."""

    def __init__(self, index: Index, unknown_rows: int):
        """unknown_rows: as for VocabularyRows."""
        self.type, self.unknown_rows, self._index = index.kind, unknown_rows, index

    def __call__(self, values: pa.Array) -> NDArray[np.int64]:
        keys = as_keys(values, self.type)
        if pa.types.is_dictionary(keys.type):
            return super().__call__(keys)
        rows = self._rows(pc.fill_null(keys, 0) if self.type == "integer" and keys.null_count else keys)
        return np.where(missing(keys), 0, rows) if keys.null_count else rows

    def _rows(self, keys: pa.Array) -> NDArray[np.int64]:
        rows, hashes = self._index.find(keys)
        if not self.unknown_rows:
            return rows
        return np.where(rows > 0, rows, rows_of_hashes(hashes, self.unknown_rows + 1))


def open_rows(file: VocabularyFile, first_row: int, rows: int, unknown_rows: int = 0) -> RowsOf:
    """The look-up of a vocabulary, whose rows must lie in first_row .. rows - 1: by its index if it is large. Raises DataError.

    unknown_rows: as for VocabularyRows."""
    if file.keys < INDEXED:
        vocabulary = file.whole(first_row, rows)
        return VocabularyRows(file.kind, unknown_rows, vocabulary.keys, vocabulary.rows)
    index = open_index(file)
    if len(index.entries):
        file.check_rows(index.first_row, index.last_row, first_row, rows)
    return IndexedRows(index, unknown_rows)


class TranslatedRows:
    """Rows of another table -> rows of this one."""

    type: KeyType = "integer"

    def __init__(self, rows: NDArray[np.int64], table: str):
        """rows: (n,), for each row of the other table the row of this one; table: for messages."""
        self._rows, self._table = rows, table

    def __call__(self, values: pa.Array) -> NDArray[np.int64]:
        """(n,) rows -> (n,) rows. Raises NotKeys for a value that is no row of the other table."""
        keys = as_keys(values, "integer")
        numbers = key_numbers(keys)
        bad = missing(keys) | (numbers < 0) | (numbers >= len(self._rows))
        if bad.any():
            first = keys[int(np.argmax(bad))].as_py()
            raise NotKeys(f"{first} is no row of table {self._table!r}, whose rows are 0 to {len(self._rows) - 1}", bad)
        return self._rows[numbers]


def hash_keys(keys: pa.Array, seed: int) -> Hashes:
    """(n,) hashes of keys as returned by `as_keys`, not dictionary-encoded. A null's hash is undefined."""
    return hash_texts(keys, seed) if is_text(keys.type) else hash_integers(key_numbers(keys), seed)
