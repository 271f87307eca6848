"""Vocabularies fitted out of core: counts on disk -> frequent keys in the order of rows -> a Parquet file, piece by piece.

The order is that of ids/vocabulary.py: by falling count, then by value.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from home_dist.ids.keys import KeyType
from home_dist.ids.vocabulary import Counts, merged
from home_dist.prepare.key_parts import KeyParts, SortedRuns, pieces_of

COUNTED: dict[KeyType, pa.Schema] = {
    "integer": pa.schema({"value": pa.int64(), "count": pa.int64()}),
    "text": pa.schema({"value": pa.string(), "count": pa.int64()}),
}
_BY_COUNT = (("count", "descending"), ("value", "ascending"))
_COPIES = 16  # of a part's columns in memory: read, summed, filtered, sorted, and what the allocator keeps
_ROW_BYTES = 64  # of a key with its count, typically
_PARTS = 256  # of counts whose number is not known at first
ROW_GROUP = 1 << 20
"""Rows of a row group of a vocabulary."""


def rows_at_a_time(memory: int) -> int:
    """Rows of counts that may be in memory at a time. memory: bytes."""
    return max(1 << 10, memory // (_ROW_BYTES * _COPIES))


def parts_for(rows: int, memory: int) -> int:
    """Number of parts for so many rows of counts."""
    return max(1, -(-rows // rows_at_a_time(memory)))


class SpilledCounts:
    """Counts keys batch by batch, as Counts; counts beyond the memory wait on disk."""

    def __init__(self, kind: KeyType, folder: Path, memory: int):
        """folder: made at need; memory: bytes."""
        self.kind, self.memory, self.folder = kind, memory, folder
        self.unsigned = False
        self._counts = Counts(kind)
        self._parts: KeyParts | None = None

    def add(self, values: pa.Array) -> None:
        """values: (n,); missing keys are not counted. Raises NotKeys."""
        self._counts.add(values)
        self.unsigned |= self._counts.unsigned
        if self._counts.nbytes > self.memory // _COPIES:
            self._spill()

    def _spill(self) -> None:
        if self._parts is None:
            self._parts = KeyParts(self.folder / "counts", _PARTS, COUNTED[self.kind])
        self._parts.add(self._counts.total())
        self._counts = Counts(self.kind)
        pa.default_memory_pool().release_unused()

    def totals(self) -> Iterator[pa.Table]:
        """Columns value and count, part by part."""
        if self._parts is None:
            yield self._counts.total()
            return
        self._spill()
        for number in range(self._parts.count):
            yield merged([self._parts.part(number)], self.kind)


class FrequentKeys:
    """Frequent keys, by falling count, then by value."""

    def __init__(self, folder: Path, min_count: int, unsigned: bool, memory: int):
        """folder: made here; unsigned: keys came as unsigned integers, so that keys from 2^63 on are written unsigned."""
        self._runs = SortedRuns(folder, _BY_COUNT, rows_at_a_time(memory))
        self._min_count, self._unsigned = min_count, unsigned
        self.has_large = False
        """Whether there are unsigned keys from 2^63 on."""

    @property
    def keys(self) -> int:
        return self._runs.rows

    def add(self, counts: pa.Table) -> None:
        """counts: columns value and count of keys that were not added yet."""
        kept = counts.filter(pc.greater_equal(counts["count"], self._min_count)).combine_chunks()
        if self._unsigned and len(kept):
            self.has_large |= pc.min(kept["value"]).as_py() < 0
            kept = _viewed(kept, pa.uint64())
        self._runs.add(kept)

    def tables(self, first_row: int, most: int | None = None) -> Iterator[pa.Table]:
        """Columns value, row and count, piece by piece; `most` keys at most."""
        left = self.keys if most is None else max(0, min(self.keys, most))
        for table in self._runs.tables():
            table = table.slice(0, left)
            if not len(table):
                return
            table = table if self.has_large or not self._unsigned else _viewed(table, pa.int64())
            rows = pa.array(np.arange(first_row, first_row + len(table)), pa.int64())
            yield pa.table({"value": table["value"], "row": rows, "count": table["count"]})
            first_row, left = first_row + len(table), left - len(table)


def _viewed(table: pa.Table, kind: pa.DataType) -> pa.Table:
    values = pa.chunked_array([chunk.view(kind) for chunk in table["value"].chunks], kind)
    return table.set_column(0, "value", values)


def empty_vocabulary(kind: KeyType) -> pa.Table:
    return pa.schema({"value": COUNTED[kind].field("value").type, "row": pa.int64(), "count": pa.int64()}).empty_table()


def write_row_groups(file: BinaryIO, tables: Iterable[pa.Table], empty: pa.Table, **options: Any) -> None:
    """Writes tables as pq.write_table writes their concatenation: the same bytes. empty: is written if there are no rows;
    options: as those of pq.write_table."""
    writer: pq.ParquetWriter | None = None
    try:
        for group in pieces_of(tables, ROW_GROUP):
            writer = writer or pq.ParquetWriter(file, group.schema, **options)
            writer.write_table(group, ROW_GROUP)
        if writer is None:
            writer = pq.ParquetWriter(file, empty.schema, **options)
            writer.write_table(empty, ROW_GROUP)
    finally:
        if writer is not None:
            writer.close()
