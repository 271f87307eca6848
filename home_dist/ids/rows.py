"""Keys -> rows of a table: by a vocabulary that was fitted on the training part, or by a hash. Row 0 is for missing keys."""

from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from home_dist.ids.arrow_types import is_text
from home_dist.ids.hashing import Hashes, hash_integers, hash_texts, rows_of_hashes
from home_dist.ids.keys import KeyType, as_keys, key_numbers, missing

_KEY_SEED = 0  # of texts within a vocabulary, and of values out of it


class RowsOf(Protocol):
    """Looks up rows for an Arrow array of keys, of any type that `fits_key`."""

    type: KeyType

    def __call__(self, values: pa.Array) -> NDArray[np.int64]:
        """(n,) -> (n,) rows; 0 for missing ones. Raises NotKeys."""


class _Keyed:
    """Missing keys and dictionaries, for all kinds."""

    type: KeyType

    def __call__(self, values: pa.Array) -> NDArray[np.int64]:
        keys = as_keys(values, self.type)
        if self.type == "text":
            # Each distinct text is looked up once, not each row.
            encoded = keys if pa.types.is_dictionary(keys.type) else keys.dictionary_encode()
            distinct = encoded.dictionary
            of_distinct = np.where(missing(distinct), 0, self._rows(distinct)) if len(distinct) else np.zeros(1, np.int64)
            rows = of_distinct[np.asarray(pc.fill_null(encoded.indices, 0))]
        else:
            rows = self._rows(pc.fill_null(keys, 0) if keys.null_count else keys)
        return np.where(missing(keys), 0, rows) if keys.null_count else rows

    def _rows(self, keys: pa.Array) -> NDArray[np.int64]:
        """(n,) -> (n,); those of nulls are not looked at."""
        raise NotImplementedError


class HashRows(_Keyed):
    """Rows 1 to rows - 1, shared by keys whose hashes meet."""

    def __init__(self, kind: KeyType, seed: int, rows: int):
        self.type, self.seed, self.rows = kind, seed, rows

    def _rows(self, keys: pa.Array) -> NDArray[np.int64]:
        return rows_of_hashes(hash_keys(keys, self.seed), self.rows)


MANAGED_BITS = 62
"""TorchRec deals ids below 2^62 to ranks by their size: hashes are dealt evenly, and two ids of one are not to be expected."""


class ManagedKeys(_Keyed):
    """Not rows, but hashes that TorchRec's managed collisions find rows for; a missing key is an id of its own, 0."""

    def __init__(self, kind: KeyType, seed: int):
        self.type, self.seed = kind, seed

    def _rows(self, keys: pa.Array) -> NDArray[np.int64]:
        return (hash_keys(keys, self.seed) >> np.uint64(64 - MANAGED_BITS)).astype(np.int64)


class VocabularyRows(_Keyed):
    """Looks keys up among sorted ones: whole numbers as they are, texts by their hash, and then compared."""

    def __init__(self, kind: KeyType, unknown_rows: int, keys: pa.Array, rows: NDArray[np.int64]):
        """unknown_rows: that other keys are spread over by hash, 0 for none; keys, rows: (n,) distinct keys and what row each
        has."""
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


def hash_keys(keys: pa.Array, seed: int) -> Hashes:
    """(n,) of what `as_keys` gave, without dictionaries; a null's hash is undefined."""
    return hash_texts(keys, seed) if is_text(keys.type) else hash_integers(key_numbers(keys), seed)
