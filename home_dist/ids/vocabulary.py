"""Vocabularies, in which each key has its own row. Fitted by counting, stored as Parquet, read back with checks.

Rows are in order of falling frequency in the training part, then of value: keeping a table's first rows cuts its tail. The file
has the columns value, row and count.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from home_dist.errors import DataError
from home_dist.files.hashes import file_sha256
from home_dist.ids.arrow_types import is_text
from home_dist.ids.keys import KeyType, as_keys, fits_key, key_type

_PENDING = 1 << 20  # counted keys that may wait to be merged
_PIECE = 1 << 17  # rows of a file that are read at a time
_BUFFER = 1 << 20  # bytes of a column that are read at a time
_STORED = {True: pa.int64(), False: pa.string()}  # by whether keys are whole numbers


def counted(values: pa.Array) -> pa.Table:
    """Counts keys (n,) of any type: columns value and count, without missing keys. Raises NotKeys."""
    keys = as_keys(values, key_type(values.type) or "text").drop_null()
    counts = pc.value_counts(keys)
    value = counts.field("values")
    return pa.table({"value": value.cast(_STORED[value.type == pa.int64()]), "count": counts.field("counts")})


def merged(parts: Iterable[pa.Table], kind: KeyType) -> pa.Table:
    """Sums of counts by key, in no order."""
    empty = pa.table({"value": pa.array([], _STORED[kind == "integer"]), "count": pa.array([], pa.int64())})
    sums = pa.concat_tables([empty, *parts]).group_by("value").aggregate([("count", "sum")])
    return sums.rename_columns({"count_sum": "count"}).select(["value", "count"])


class Counts:
    """Counts keys batch by batch. Memory grows with distinct keys, not with rows."""

    def __init__(self, kind: KeyType):
        self.kind = kind
        self.unsigned = False
        """Whether some keys came as unsigned integers of 64 bits."""
        self._parts: list[pa.Table] = []
        self._pending, self._merged = 0, 0

    def add(self, values: pa.Array) -> None:
        """values: (n,); missing keys are not counted. Raises NotKeys."""
        part = counted(values)
        self.unsigned |= pa.types.is_uint64(values.type)
        self._parts.append(part)
        self._pending += len(part)
        if self._pending > max(_PENDING, self._merged):  # so each key is merged only a few times, however many keys there are
            self.total()

    @property
    def nbytes(self) -> int:
        """Of the counts in memory."""
        return sum(part.nbytes for part in self._parts)

    def total(self) -> pa.Table:
        """Columns value and count, in no order."""
        sums = merged(self._parts, self.kind)
        self._parts, self._pending, self._merged = [sums], 0, len(sums)
        return sums


def most_frequent(
    counts: pa.Table, min_count: int, first_row: int = 1, max_rows: int | None = None, unsigned: bool = False
) -> pa.Table:
    """Columns value, row and count, by falling count, then by value. Rows start at `first_row`.

    counts: columns value and count; max_rows: bound of the table's rows, rows before `first_row` included; unsigned: keys came
    as unsigned integers, so that keys from 2^63 on are written unsigned.
    """
    kept = counts.filter(pc.greater_equal(counts["count"], min_count)).combine_chunks()
    if unsigned and len(kept) and pc.min(kept["value"]).as_py() < 0:
        values = pa.chunked_array([chunk.view(pa.uint64()) for chunk in kept["value"].chunks])
        kept = kept.set_column(0, "value", values)
    kept = kept.sort_by([("count", "descending"), ("value", "ascending")])
    if max_rows is not None:
        kept = kept.slice(0, max(0, max_rows - first_row))
    rows = pa.array(np.arange(first_row, first_row + len(kept)), pa.int64())
    return pa.table({"value": kept["value"], "row": rows, "count": kept["count"]}).combine_chunks()


@dataclass(frozen=True)
class Vocabulary:
    """keys: (n,) distinct, int64 or text; rows: (n,) the row of each key."""

    keys: pa.Array
    rows: NDArray[np.int64]


@dataclass(frozen=True)
class VocabularyFile:
    """A vocabulary's file, whose footer and types are checked; its keys are read piece by piece or whole."""

    path: Path
    table: str
    """For messages."""
    kind: KeyType
    keys: int
    """Their number."""
    given: str | None
    """The SHA-256 that the schema names; the file has it."""

    @staticmethod
    def open(path: Path, table: str, kind: KeyType | None, sha256: str | None = None) -> "VocabularyFile":
        """kind: None accepts the file's. Raises DataError, which names table and file."""
        wrong = f"{path}: vocabulary of table {table!r}"
        if not path.is_file():
            raise DataError(f"{wrong}: no such file. It belongs beside the schema; prepare the data again or copy it there.")
        if sha256 is not None and file_sha256(path) != sha256:
            raise DataError(f"{wrong}: is not the one that the schema was fitted with. Restore it or prepare the data again.")
        try:
            with pq.ParquetFile(path) as file:
                columns, keys = file.schema_arrow, file.metadata.num_rows
            values, numbers = columns.field("value").type, columns.field("row").type
        except (pa.ArrowInvalid, KeyError, OSError) as error:
            raise _unreadable(wrong, error) from None
        values = values.value_type if pa.types.is_dictionary(values) else values
        kind = kind or ("text" if is_text(values) else "integer")
        if not fits_key(values, kind):
            raise DataError(f"{wrong}: column 'value' has type {values}, the schema says {kind}. Correct one of them.")
        if not pa.types.is_integer(numbers):
            raise _no_rows(wrong)
        return VocabularyFile(path, table, kind, keys, sha256)

    @cached_property
    def sha256(self) -> str:
        return self.given or file_sha256(self.path)

    @property
    def _wrong(self) -> str:
        return f"{self.path}: vocabulary of table {self.table!r}"

    def pieces(self) -> Iterator[tuple[pa.Array, NDArray[np.int64]]]:
        """(keys (n,), rows (n,)) piece by piece. Raises DataError for missing keys and rows, and for a damaged file."""
        try:
            for batch in batches(self.path, ["value", "row"]):
                yield self._checked(*(batch.column(name) for name in ("value", "row")))
        except (pa.ArrowInvalid, OSError) as error:
            raise _unreadable(self._wrong, error) from None

    def whole(self, first_row: int, rows: int) -> Vocabulary:
        """All keys in memory. Raises DataError as `pieces`, for a key that stands in it twice, and for rows outside of
        first_row .. rows - 1."""
        try:
            columns = pq.read_table(self.path, columns=["value", "row"]).combine_chunks()
        except (pa.ArrowInvalid, OSError) as error:
            raise _unreadable(self._wrong, error) from None
        values, numbers = (columns.column(c).combine_chunks() for c in ("value", "row"))
        keys, of_row = self._checked(values, numbers)
        if len(pc.unique(keys)) < len(keys):
            raise self.twice()
        if len(of_row):
            self.check_rows(int(of_row.min()), int(of_row.max()), first_row, rows)
        return Vocabulary(keys, of_row)

    def _checked(self, values: pa.Array, numbers: pa.Array) -> tuple[pa.Array, NDArray[np.int64]]:
        if pa.types.is_dictionary(values.type):
            values = values.cast(values.type.value_type)
        if values.null_count or numbers.null_count:
            raise _no_rows(self._wrong)
        return as_keys(values, self.kind), np.asarray(numbers).astype(np.int64)

    def twice(self) -> DataError:
        return DataError(f"{self._wrong}: a value stands in it twice. Write it again.")

    def check_rows(self, least: int, greatest: int, first_row: int, rows: int) -> None:
        """Raises DataError unless its rows, least .. greatest, lie in first_row .. rows - 1."""
        if not (first_row <= least and greatest < rows):
            raise DataError(
                f"{self._wrong}: its rows are {least} to {greatest}, but the schema leaves it rows {first_row} "
                f"to {rows - 1}. Correct the table's rows or unknown_rows in the schema."
            )


def batches(path: Path, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
    """Some rows of a Parquet file at a time. By default Arrow would hold the file's bytes in memory."""
    with pq.ParquetFile(path, pre_buffer=False, buffer_size=_BUFFER) as file:
        yield from file.iter_batches(_PIECE, columns=columns)


def _unreadable(wrong: str, error: Exception) -> DataError:
    reason = str(error).splitlines()[0]
    return DataError(f"{wrong}: columns value and row cannot be read ({reason}). Write it again.")


def _no_rows(wrong: str) -> DataError:
    return DataError(f"{wrong}: null or no whole number in column 'row', or null in 'value'. Write it again.")
