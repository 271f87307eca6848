"""Tables of keys that may be larger than memory: cut by a hash of the key into parts on disk, and sorted by runs on disk."""

import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from home_dist.ids.hashing import mix
from home_dist.ids.rows import hash_keys
from home_dist.prepare.engine.spill import one_batch, read_part, write_parts

_LEAST_BATCH = 64  # rows of a run that are read together
_SAMPLES = 64  # samples of runs per piece of the sorted table
_GOLDEN = (math.sqrt(5) - 1) / 2  # its multiples, modulo 1, are spread evenly


class KeyParts:
    """A table cut into parts: a key's rows are all in the same one."""

    def __init__(self, folder: Path, count: int, schema: pa.Schema):
        """folder: made here; schema: with a column `value`, int64 or text."""
        folder.mkdir(parents=True)
        self._folder, self.count, self._schema = folder, count, schema
        self._files: list[Path] = []

    def add(self, table: pa.Table) -> None:
        """Appends rows. As much memory as some copies of them."""
        if not len(table):
            return
        # Mixed once more: the counted log may be cut by the same hash.
        hashes = mix(hash_keys(table.column("value").combine_chunks(), 0))
        path = self._folder / f"{len(self._files):05d}.arrow"
        write_parts(path, table.cast(self._schema), (hashes % np.uint64(self.count)).astype(np.int64), self.count)
        self._files.append(path)

    def part(self, number: int) -> pa.Table:
        return read_part(self._files, number) if self._files else self._schema.empty_table()


class SortedRuns:
    """Sorts a table of distinct keys by runs: each is sorted in memory, and all are then read range by range."""

    def __init__(self, folder: Path, order: Sequence[tuple[str, str]], rows: int):
        """folder: made here; order: columns, each with "ascending" or "descending"; descending ones are numbers. rows: about as
        many are read at a time."""
        folder.mkdir(parents=True)
        self._folder, self._order, self._at_a_time = folder, list(order), rows
        self._batch = max(_LEAST_BATCH, rows >> 10)
        self._runs: list[Path] = []
        self._samples: list[tuple] = []
        self.rows = 0

    def add(self, table: pa.Table) -> None:
        if not len(table):
            return
        run = one_batch(table.sort_by(self._order))
        path = self._folder / f"{len(self._runs):05d}.arrow"
        with pa.ipc.new_file(str(path), run.schema) as writer:
            for first in range(0, len(run), self._batch):
                writer.write_batch(run.slice(first, self._batch))
        step = max(1, self._at_a_time // _SAMPLES)
        # Each run begins elsewhere: short runs have a sample as often as is their share, and those of alike runs lie apart.
        first = int(len(self._runs) * _GOLDEN % 1 * step)
        self._samples += [self._key(run, place) for place in range(first, len(run), step)]
        self._runs.append(path)
        self.rows += len(run)

    def _key(self, run: pa.RecordBatch, place: int) -> tuple:
        """What rows are compared by, here as in Arrow: texts by their bytes."""
        key: list[int | bytes] = []
        for name, direction in self._order:
            value = run.column(name)[place].as_py()
            if isinstance(value, str):
                key.append(value.encode())
            else:
                key.append(-value if direction == "descending" else value)
        return tuple(key)

    def tables(self) -> Iterator[pa.Table]:
        """All rows in order, piece by piece."""
        samples, ranges = sorted(self._samples), max(1, -(-self.rows // self._at_a_time))
        cuts = sorted({samples[len(samples) * n // ranges] for n in range(1, ranges)}) if samples else []
        bounds = [self._bounds(run, cuts) for run in self._runs]
        for number in range(len(cuts) + 1):
            slices = []
            for run, of_run in zip(self._runs, bounds, strict=True):
                first, last = of_run[number], of_run[number + 1]
                if first < last:
                    slices += self._read(run, first, last)
            if slices:
                yield pa.Table.from_batches(slices).sort_by(self._order)

    def _read(self, run: Path, first: int, last: int) -> list[pa.RecordBatch]:
        """Rows first .. last - 1. Read, not mapped: mapped pages would count as this process's memory."""
        with pa.OSFile(str(run)) as source:
            file, size = pa.ipc.open_file(source), self._batch
            batches = [(n * size, file.get_batch(n)) for n in range(first // size, -(-last // size))]
        return [b.slice(max(first - at, 0), min(last - at, size) - max(first - at, 0)) for at, b in batches]

    def _bounds(self, run: Path, cuts: list[tuple]) -> list[int]:
        """The run's first row of each range, and at the end its number of rows."""
        with pa.memory_map(str(run)) as source:
            file, bounds = pa.ipc.open_file(source), [0]
            last = file.num_record_batches - 1
            rows = last * self._batch + len(file.get_batch(last))
            for cut in cuts:
                low, high = bounds[-1], rows
                while low < high:
                    middle = (low + high) // 2
                    is_before = self._key(file.get_batch(middle // self._batch), middle % self._batch) < cut
                    low, high = (middle + 1, high) if is_before else (low, middle)
                bounds.append(low)
            return [*bounds, rows]


def pieces_of(tables: Iterable[pa.Table], rows: int) -> Iterator[pa.Table]:
    """The same rows in tables of `rows` rows; the last one may be shorter."""
    held: list[pa.Table] = []
    count = 0
    for table in tables:
        held.append(table)
        count += len(table)
        while count >= rows:
            whole = pa.concat_tables(held)
            yield whole.slice(0, rows)
            held, count = [whole.slice(rows)], count - rows
    if count:
        yield pa.concat_tables(held)
