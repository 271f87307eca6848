"""Tables that one task leaves for others: Arrow files with a batch per partition; each reader takes its partition's batch.

There is a file per writer, not per writer and reader: files stay few however finely a log is cut.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from home_dist.prepare.engine.mirror import opened

_LZ4 = pa.ipc.IpcWriteOptions(compression="lz4")


def write_parts(path: Path, table: pa.Table, part: NDArray[np.int64], parts: int) -> None:
    """part: (N,) the partition of each row. Rows of a partition keep their order."""
    order = np.argsort(part, kind="stable")
    bounds = np.searchsorted(part[order], np.arange(parts + 1))
    taken = table.take(pa.array(order)).combine_chunks()
    with pa.ipc.new_file(str(path), table.schema, options=_LZ4) as writer:
        for first, last in zip(bounds, bounds[1:], strict=False):
            writer.write_batch(one_batch(taken.slice(first, last - first)))


def batches_of(paths: Iterable[Path], part: int) -> Iterator[pa.RecordBatch]:
    """A partition's batch of each file."""
    for path in paths:
        with opened(path) as source:
            yield pa.ipc.open_file(source).get_batch(part)


def read_part(paths: Iterable[Path], part: int) -> pa.Table:
    """A partition's rows from several files, one file after another."""
    return pa.Table.from_batches(batches_of(paths, part)).combine_chunks()


def read_at_most(paths: Iterable[Path], part: int, rows: int) -> pa.Table | None:
    """As `read_part`; None if there are more than `rows` rows."""
    batches, count = [], 0
    for batch in batches_of(paths, part):
        count += len(batch)
        if count > rows:
            return None
        batches.append(batch)
    return pa.Table.from_batches(batches).combine_chunks()


def write_batches(path: Path, batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> None:
    with pa.ipc.new_file(str(path), schema, options=_LZ4) as writer:
        for batch in batches:
            writer.write_batch(batch)


def read_rows(files: Iterable[tuple[Path, int]], first: int, last: int) -> Iterator[pa.RecordBatch]:
    """Rows first .. last - 1 of concatenated files, batch by batch. files: paths with their numbers of rows."""
    begin = 0
    for path, rows in files:
        if begin + rows > first and begin < last:
            at = begin
            with opened(path) as source:
                file = pa.ipc.open_file(source)
                for number in range(file.num_record_batches):
                    batch = file.get_batch(number)
                    start, stop = max(first - at, 0), min(last - at, batch.num_rows)
                    if start < stop:
                        yield batch.slice(start, stop - start)
                    at += batch.num_rows
        begin += rows


def one_batch(table: pa.Table) -> pa.RecordBatch:
    batches = table.combine_chunks().to_batches()
    return (
        batches[0] if batches else pa.RecordBatch.from_arrays([pa.array([], f.type) for f in table.schema], schema=table.schema)
    )
