"""rows-NNNNN.bin: one rank's rows, chunk by chunk. Written in one pass, with bounded memory; read by ranges.

A chunk's arrays follow each other, each from a multiple of 8 bytes on: slots (int64), ids if it tells them (int64, or the bytes
of texts and their ends as int64), values, scales. The manifest tells where each begins; nothing else stands in the file.
"""

import hashlib
from collections.abc import Iterator
from typing import Any, BinaryIO, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from home_dist.config.publish import RowType
from home_dist.ids.arrow_types import is_text
from home_dist.publish.codec import SCALES, VALUES, Floats, NotEncodable, encode
from home_dist.publish.manifest import FileEntry, PublishError, RowsChunk

CHUNK_BYTES = 16 << 20
"""Of values in fp32, at most, in a chunk."""
_ALIGN = 8
INTEGERS = np.dtype("<i8")
Slots = NDArray[np.int64]


class RowsFile:
    """Writes the chunks of a rank. Several tables may share it."""

    def __init__(self, stream: BinaryIO, name: str, row_type: RowType):
        self.name, self.row_type, self.chunks = name, row_type, list[RowsChunk]()
        self._stream, self._hash, self._at = stream, hashlib.sha256(), 0

    def rows(self, table: str, slots: Slots, values: Floats, keys: pa.Array | None = None, first_column: int = 0) -> None:
        """Rows of distinct slots (n,), values (n, columns); keys: (n,) their ids, null for a row without one. Raises
        PublishError for values that the type of rows cannot hold, OSError."""
        for part in _parts(values):
            taken = None if keys is None else keys.slice(part.start, part.stop - part.start)
            for which, ids in _by_key(len(slots[part]), taken):
                self._rows("rows", table, slots[part][which], values[part][which], ids, first_column)

    def values(self, table: str, slots: Slots, values: Floats, first_column: int = 0) -> None:
        """As `rows`, of slots that keep the ids which chunks before gave them, in this version or one that it builds on."""
        for part in _parts(values):
            self._rows("values", table, slots[part], values[part], None, first_column)

    def _rows(
        self,
        kind: Literal["rows", "values"],
        table: str,
        slots: Slots,
        values: Floats,
        ids: pa.Array | None,
        first_column: int,
    ) -> None:
        try:
            encoded = encode(values, self.row_type)
        except NotEncodable as error:
            raise PublishError(
                f"table {table!r}, row {slots[error.row]}: {error.problem}. Publish rows as fp32, or lower embedding.lr."
            ) from None
        at = self._slots(slots) | self._ids(ids) | {"values": self._write(encoded.values)}
        if encoded.scales is not None:
            at["scales"] = self._write(encoded.scales)
        self.chunks.append(
            RowsChunk(table, kind, self.name, len(slots), first_column=first_column, columns=values.shape[1], **at)
        )

    def evicted(self, table: str, slots: Slots, ids: pa.Array) -> None:
        """ids: (n,) that no longer have the rows slots (n,)."""
        if len(slots):
            self.chunks.append(RowsChunk(table, "evicted", self.name, len(slots), **self._slots(slots), **self._ids(ids)))

    def aliases(self, table: str, slots: Slots, ids: pa.Array) -> None:
        """ids: (n,) that read the rows slots (n,) of others, such as those that `keep_rows` cuts off."""
        if len(slots):
            self.chunks.append(RowsChunk(table, "alias", self.name, len(slots), **self._slots(slots), **self._ids(ids)))

    def ended(self) -> FileEntry:
        """Call it once the last chunk is written; closes nothing."""
        return FileEntry(self._at, self._hash.hexdigest())

    def _slots(self, slots: Slots) -> dict[str, int]:
        return {"slots": self._write(np.ascontiguousarray(slots, INTEGERS))}

    def _ids(self, ids: pa.Array | None) -> dict[str, int]:
        if ids is None:
            return {}
        if not is_text(ids.type):
            return {"ids": self._write(np.ascontiguousarray(ids, INTEGERS))}
        texts = ids.cast(pa.large_string())
        _, bounds, data = texts.buffers()
        offsets = np.frombuffer(bounds, np.int64)[texts.offset : texts.offset + len(texts) + 1]
        content = np.frombuffer(data, np.uint8)[offsets[0] : offsets[-1]] if data is not None else np.zeros(0, np.uint8)
        ends = np.ascontiguousarray(offsets[1:] - offsets[0], INTEGERS)
        return {"ids": self._write(content), "ends": self._write(ends)}

    def _write(self, array: NDArray[Any]) -> int:
        """Returns where the array begins."""
        at = self._at
        for part in (np.ascontiguousarray(array).reshape(-1).view(np.uint8).data, b"\0" * (-array.nbytes % _ALIGN)):
            self._stream.write(part)
            self._hash.update(part)
            self._at += len(part)
        return at


def _parts(values: Floats) -> Iterator[slice]:
    """Rows of a chunk each."""
    step = max(1, CHUNK_BYTES // (4 * max(1, values.shape[1])))
    for first in range(0, len(values), step):
        yield slice(first, min(first + step, len(values)))


def _by_key(n: int, keys: pa.Array | None) -> Iterator[tuple[NDArray[Any], pa.Array | None]]:
    """(which rows, their ids): those with an id, then those without."""
    if keys is None:
        yield np.arange(n), None
        return
    with_id = ~np.asarray(keys.is_null())
    if with_id.any():
        yield np.flatnonzero(with_id), keys.drop_null()
    if not with_id.all():
        yield np.flatnonzero(~with_id), None


Parts = tuple[Slots, pa.Array | None, NDArray[Any], NDArray[Any] | None]


def read_chunk(content: NDArray[np.uint8], chunk: RowsChunk, row_type: RowType) -> Parts:
    """(slots (n,), ids (n,) or None, values (n, columns) as stored, scales (n, 2) or None) of a chunk; content: of its file.
    Raises ValueError for a chunk that reaches beyond its file."""
    slots = _array(content, chunk.slots, INTEGERS, chunk.n)
    ids = None
    if chunk.ids is not None and chunk.ends is not None:
        ends = _array(content, chunk.ends, INTEGERS, chunk.n)
        bounds = np.concatenate([np.zeros(1, np.int64), ends])
        if (np.diff(bounds) < 0).any():
            raise ValueError("ends of texts fall")
        data = _array(content, chunk.ids, np.dtype("u1"), int(bounds[-1]))
        ids = pa.LargeStringArray.from_buffers(chunk.n, pa.py_buffer(bounds), pa.py_buffer(np.ascontiguousarray(data)))
        ids.validate(full=True)
    elif chunk.ids is not None:
        ids = pa.array(_array(content, chunk.ids, INTEGERS, chunk.n))
    values: NDArray[Any] = np.zeros((chunk.n, 0), VALUES[row_type])
    if chunk.values is not None:
        values = _array(content, chunk.values, VALUES[row_type], chunk.n * chunk.columns).reshape(chunk.n, chunk.columns)
    scales = None if chunk.scales is None else _array(content, chunk.scales, SCALES, chunk.n * 2).reshape(chunk.n, 2)
    return slots, ids, values, scales


def _array(content: NDArray[np.uint8], at: int, kind: np.dtype[Any], count: int) -> NDArray[Any]:
    if at < 0 or at % _ALIGN or count < 0 or at + count * kind.itemsize > len(content):
        raise ValueError(f"{count} values at {at} are not in its {len(content)} bytes")
    return np.frombuffer(content, kind, count, at)
