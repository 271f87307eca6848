"""How the values of a column of ids become rows of its table. Row 0 is for missing values in any case.

By default a column holds rows already. Otherwise it holds the ids of the outside world, integers or texts, and the table says
which row each of them has: by a vocabulary that was fitted on the training part, or by a hash.
"""

import hashlib
from pathlib import Path
from typing import Annotated, Literal, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import Field

from home_dist.errors import DataError
from home_dist.schema.base import KeyType, Seed, Spec
from home_dist.schema.hashing import Hashes, as_int64, hash_integers, hash_texts, rows_of_hashes

_KEY_SEED = 0  # of texts within a vocabulary, and of values out of it


class VocabularyValues(Spec):
    """`file`, beside the schema, holds columns `value` and `row`. Values that are not in it are out of vocabulary."""

    kind: Literal["vocabulary"] = "vocabulary"
    type: KeyType
    file: str
    unknown_rows: int = Field(default=0, ge=0)
    """Values out of vocabulary are spread by hash over rows 1 to unknown_rows; with 0 they share row 0 with missing ones."""
    sha256: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")
    """Of the file: a run goes on only with the vocabulary that it began with."""


class HashValues(Spec):
    """No state: any value has a row, and different ones may share it. The hash is described in home_dist/schema/hashing.py."""

    kind: Literal["hash"] = "hash"
    type: KeyType
    seed: Seed = 0


TableValues = Annotated[VocabularyValues | HashValues, Field(discriminator="kind")]


class RowsOf(Protocol):
    """Looks up rows for an Arrow array of integers, texts, or dictionary-encoded texts."""

    type: KeyType

    def __call__(self, values: pa.Array) -> NDArray[np.int64]:
        """(n,) -> (n,) rows; 0 for null."""


class _Keyed:
    """Nulls and dictionaries, for both kinds."""

    type: KeyType

    def __call__(self, values: pa.Array) -> NDArray[np.int64]:
        if self.type == "text":
            # Each distinct value is looked up once, not each row.
            encoded = values if pa.types.is_dictionary(values.type) else values.dictionary_encode()
            distinct = encoded.dictionary
            rows = np.where(_nulls(distinct), 0, self._rows(distinct)) if len(distinct) else np.zeros(1, np.int64)
            found = rows[np.asarray(pc.fill_null(encoded.indices, 0))]
        else:
            found = self._rows(pc.fill_null(values, 0) if values.null_count else values)
        return np.where(_nulls(values), 0, found) if values.null_count else found

    def _rows(self, values: pa.Array) -> NDArray[np.int64]:
        raise NotImplementedError


class HashRows(_Keyed):
    def __init__(self, values: HashValues, rows: int):
        self.type, self.seed, self.rows = values.type, values.seed, rows

    def _rows(self, values: pa.Array) -> NDArray[np.int64]:
        return rows_of_hashes(hash_keys(values, self.seed), self.rows)


MANAGED_BITS = 62
"""TorchRec deals ids below 2^62 to ranks by their size: hashes are dealt evenly, and two ids of one are not to be expected."""


class ManagedKeys(_Keyed):
    """Not rows, but hashes that TorchRec's managed collisions find rows for; a missing value is an id of its own, 0."""

    def __init__(self, values: HashValues):
        self.type, self.seed = values.type, values.seed

    def _rows(self, values: pa.Array) -> NDArray[np.int64]:
        return (hash_keys(values, self.seed) >> np.uint64(64 - MANAGED_BITS)).astype(np.int64)


class VocabularyRows(_Keyed):
    """Looks values up among sorted ones: integers as they are, texts by their hash, and then compared."""

    def __init__(self, values: VocabularyValues, keys: pa.Array, rows: NDArray[np.int64]):
        """keys, rows: (n,) distinct values and what row each has."""
        self.type, self.unknown_rows = values.type, values.unknown_rows
        self._seed = _KEY_SEED
        codes = self._codes(keys)
        while self.type == "text" and len(np.unique(codes)) < len(codes):  # two texts of one hash: take another hash
            self._seed += 1
            codes = self._codes(keys)
        order = np.argsort(codes)
        self._sorted, self._of_row = codes[order], rows[order]
        self._texts = keys.take(pa.array(order)).cast(pa.large_string()) if self.type == "text" else None

    def _codes(self, values: pa.Array) -> NDArray:
        return hash_texts(values, self._seed) if self.type == "text" else as_int64(values)

    def _rows(self, values: pa.Array) -> NDArray[np.int64]:
        unknown = np.zeros(len(values), np.int64)
        if self.unknown_rows:
            unknown = rows_of_hashes(hash_keys(values, _KEY_SEED), self.unknown_rows + 1)
        if not len(self._sorted):
            return unknown
        codes = self._codes(values)
        at = np.minimum(np.searchsorted(self._sorted, codes), len(self._sorted) - 1)
        known = self._sorted[at] == codes
        if self._texts is not None:
            same = pc.equal(self._texts.take(pa.array(at)), values.cast(pa.large_string()))
            known &= np.asarray(pc.fill_null(same, False))
        return np.where(known, self._of_row[at], unknown)


def hash_keys(values: pa.Array, seed: int) -> Hashes:
    """(n,) of integers or texts without nulls."""
    if pa.types.is_integer(values.type):
        return hash_integers(values.to_numpy(zero_copy_only=False), seed)
    return hash_texts(values, seed)


def open_values(table: str, values: VocabularyValues | HashValues, rows: int, folder: Path) -> RowsOf:
    """rows: of the table; folder: that of the schema. Raises DataError for a vocabulary that is not what it should be."""
    if isinstance(values, HashValues):
        return HashRows(values, rows)
    path = folder / values.file
    wrong = f"{path}: vocabulary of table {table!r}"
    if not path.is_file():
        raise DataError(f"{wrong}: no such file. It belongs beside the schema; prepare the data again or copy it there.")
    if values.sha256 is not None and file_sha256(path) != values.sha256:
        raise DataError(f"{wrong}: is not the one that the schema was fitted with. Restore it or prepare the data again.")
    try:
        found = pq.read_table(path, columns=["value", "row"]).combine_chunks()
    except (pa.ArrowInvalid, pa.ArrowKeyError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{wrong}: columns value and row cannot be read ({reason}). Write it again.") from None
    keys, numbers = (found.column(c) for c in ("value", "row"))
    keys = keys.combine_chunks() if isinstance(keys, pa.ChunkedArray) else keys
    if pa.types.is_dictionary(keys.type):
        keys = keys.cast(keys.type.value_type)
    if not fits_key(keys.type, values.type):
        raise DataError(f"{wrong}: column 'value' has type {keys.type}, the schema says {values.type}. Correct one of them.")
    if not pa.types.is_integer(numbers.type) or keys.null_count or numbers.null_count:
        raise DataError(f"{wrong}: null or no whole number in column 'row', or null in 'value'. Write it again.")
    of_row = np.asarray(numbers).astype(np.int64)
    if len(pc.unique(keys)) < len(keys):
        raise DataError(f"{wrong}: a value stands in it twice. Write it again.")
    if len(of_row) and not (values.unknown_rows < of_row.min() and of_row.max() < rows):
        raise DataError(
            f"{wrong}: its rows are {of_row.min()} to {of_row.max()}, but the schema leaves it rows {values.unknown_rows + 1} "
            f"to {rows - 1}. Correct the table's rows or unknown_rows in the schema."
        )
    return VocabularyRows(values, keys, of_row)


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fits_key(found: pa.DataType, wanted: KeyType) -> bool:
    if pa.types.is_dictionary(found):
        found = found.value_type
    return pa.types.is_integer(found) if wanted == "integer" else pa.types.is_string(found) or pa.types.is_large_string(found)


def _nulls(values: pa.Array) -> NDArray[np.bool_]:
    return np.asarray(values.is_null())
