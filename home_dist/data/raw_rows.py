"""Reads row groups and slices of them as Arrow tables. Thread-safe."""

import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from home_dist.data.files import DataFiles, open_parquet, partition_value
from home_dist.data.order import RowGroup
from home_dist.data.sampling import Sampler
from home_dist.errors import DataError

_FOOTERS = 64  # parsed footers that are kept: a file's row groups share one
_STREAMS = 4  # row groups kept open for reading slices; slices come in order, so that few suffice
_STREAM_ROWS = 8192
_STREAM_BUFFER = 1 << 18  # bytes per column


Heads = Mapping[tuple[int, int], int]
"""By file and row group: its first rows, which belong to a request that begins in a row group before."""


@dataclass(frozen=True)
class RawRows:
    """Rows of one row group, as an Arrow table."""

    table: pa.Table
    path: str
    group: RowGroup
    chosen: NDArray[np.int64] | None = None
    """Indices of the rows within the slice; None: all rows of the slice."""

    counted_in: str = "its row group"
    """Where row numbers start, for messages."""

    def row(self, index: int) -> int:
        """Number, within `counted_in`, of the table's row at `index`."""
        return self.group.start + (index if self.chosen is None else int(self.chosen[index]))

    @property
    def rows(self) -> NDArray[np.int64]:
        """(rows,): the numbers of all rows, see `row`."""
        return self.group.start + (np.arange(self.table.num_rows) if self.chosen is None else self.chosen)

    def only(self, kept: NDArray[np.bool_]) -> "RawRows":
        """The rows that `kept` (rows,) marks."""
        chosen = np.flatnonzero(kept)
        return replace(self, table=self.table.take(chosen), chosen=chosen if self.chosen is None else self.chosen[chosen])


class RawReader:
    def __init__(self, files: DataFiles, sampler: Sampler | None = None, heads: Heads | None = None):
        """heads: rows that are read apart from the rest of their row group, at another time."""
        self.files, self.sampler, self.heads = files, sampler, heads or {}
        self._columns = [tuple(c for c in files.columns if c not in p) for p in files.partitions]
        self._sizes = {(g.file, g.group): g.rows for g in files.groups}
        self._footers: OrderedDict[int, pq.FileMetaData] = OrderedDict()
        self._streams: OrderedDict[tuple[int, int], _Stream] = OrderedDict()
        self._lock = threading.Lock()

    def streamed(self, group: RowGroup) -> bool:
        """Whether it is one of several slices of a row group, which are read in the order of their rows."""
        return self._before(group) < group.stop < self._sizes[group.file, group.group] or group.start > self._before(group)

    def _before(self, group: RowGroup) -> int:
        return self.heads.get((group.file, group.group), 0)

    def read(self, group: RowGroup) -> RawRows:
        """Reads a row group or a slice. Slices are cheap if read in the order of their rows, by one thread at a time; the head
        of a row group may be read at any time."""
        path = self.files.shown(group.file)
        try:
            if self.streamed(group):
                table = self._slice(group)
            elif group.stop < self._sizes[group.file, group.group]:
                table = self._stream(group).read(0, group.stop)
            else:
                table = self._whole(group).slice(group.start)
        except (pa.ArrowInvalid, OSError) as error:
            reason = str(error).splitlines()[0]
            raise DataError(
                f"{path}: row group {group.group} cannot be read, the file may be damaged ({reason}). Write the file again."
            ) from None
        chosen = None
        if group.sampled_from is not None and self.sampler is not None:
            chosen = self.sampler.chosen(group)
            table = table.take(chosen)
        for column, value in self.files.partitions[group.file].items():
            scalar = partition_value(path, column, value, self.files.columns[column])
            table = table.append_column(column, pa.repeat(scalar, table.num_rows))
        return RawRows(table, path, group, chosen)

    def _whole(self, group: RowGroup) -> pa.Table:
        return self._open(group.file).read_row_group(group.group, columns=list(self._columns[group.file]), use_threads=False)

    def _slice(self, group: RowGroup) -> pa.Table:
        key = group.file, group.group
        with self._lock:
            stream = self._streams.get(key)
        if stream is None or stream.at > group.start:
            stream = self._stream(group)
        table = stream.read(group.start, group.stop)
        with self._lock:
            self._streams[key] = stream
            self._streams.move_to_end(key)
            if group.stop == self._sizes[key]:
                del self._streams[key]
            elif len(self._streams) > _STREAMS:
                self._streams.popitem(last=False)
        return table

    def _stream(self, group: RowGroup) -> "_Stream":
        file = self._open(group.file, _STREAM_BUFFER)
        columns, rows = list(self._columns[group.file]), _STREAM_ROWS if self.streamed(group) else min(group.stop, _STREAM_ROWS)
        return _Stream(file.iter_batches(rows, row_groups=[group.group], columns=columns, use_threads=False))

    def _open(self, file: int, buffer_size: int = 0) -> pq.ParquetFile:
        with self._lock:
            footer = self._footers.get(file)
        opened = open_parquet(self.files.store, self.files.paths[file], self.files.dictionaries, footer, buffer_size)
        with self._lock:
            self._footers[file] = opened.metadata
            self._footers.move_to_end(file)
            if len(self._footers) > _FOOTERS:
                self._footers.popitem(last=False)
        return opened


class _Stream:
    """A row group that is read from start to end."""

    def __init__(self, batches: Iterator[pa.RecordBatch]):
        self.batches, self.at = batches, 0
        self.left: pa.RecordBatch | None = None

    def read(self, start: int, stop: int) -> pa.Table:
        """Rows start .. stop - 1; rows before are skipped."""
        taken = []
        while self.at < stop:
            batch = self.left if self.left is not None else next(self.batches, None)
            if batch is None:
                raise pa.ArrowInvalid("fewer rows than its footer says")
            end = self.at + len(batch)
            first, last = max(start - self.at, 0), min(stop, end) - self.at
            if first < last:
                taken.append(batch.slice(first, last - first))
            used = min(stop, end) - self.at
            self.left = batch.slice(used) if used < len(batch) else None
            self.at += used
        return pa.Table.from_batches(taken)
