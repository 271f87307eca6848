"""Events of a partition of keys that do not fit in memory: cut into slices of time, each of which does.

A slice holds the events from one moment up to another, as they were read. Keys become codes; the values that they stand for
stay in memory: a hash spreads keys evenly over partitions, however often one of them occurs.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from home_dist.prepare.asof import Ints
from home_dist.prepare.engine.spill import batches_of, read_part, write_parts
from home_dist.prepare.generic.log_plan import moments
from home_dist.prepare.generic.repeated import CONTENT, later_copies

CODE = "code"
"""Column of an event's key, as a number from 0 on."""
_SAMPLES = 1024  # moments sampled per piece of rows
_FAN_OUT = 32  # parts of a file
_PAIR_BITS = 31  # of each of two codes that are combined to one


class MomentSample:
    """Every so many rows' moment, from which slices of about equally many rows are cut."""

    def __init__(self, rows: int):
        """rows: of two slices together, about."""
        self._step, self._parts, self._seen = max(1, rows // _SAMPLES), list[Ints](), 0
        self._of_slice = max(1, rows // 2 // self._step)  # sampled moments of a slice

    def add(self, times: Ints) -> None:
        self._parts.append(times[-self._seen % self._step :: self._step].copy())
        self._seen += len(times)

    def begins(self) -> Ints:
        """(slices,) the moment at which each slice begins; the first one's is that of the earliest sample or later."""
        sample = np.sort(np.concatenate([np.zeros(0, np.int64), *self._parts]))
        return np.unique(sample[:: self._of_slice])


class KeyCodes:
    """Numbers of distinct keys, from 0 on in the order in which they come; a key is a combination of columns."""

    def __init__(self, columns: int):
        self._columns = [_Values() for _ in range(columns)]
        self._pairs = [_Values() for _ in range(columns - 1)]

    def add(self, columns: Sequence[pa.Array]) -> Ints:
        """(n,) codes of keys (n,), none of which is missing."""
        codes = [values.add(column) for values, column in zip(self._columns, columns, strict=True)]
        combined = codes[0]
        for pairs, code in zip(self._pairs, codes[1:], strict=True):
            combined = pairs.add(pa.array(combined << _PAIR_BITS | code))
        return combined

    def __len__(self) -> int:
        return len([*self._columns[:1], *self._pairs][-1].values)

    def keys(self, codes: Ints) -> list[pa.Array]:
        """By column, the (n,) values of codes (n,)."""
        of_columns: list[Ints] = []
        for pairs in reversed(self._pairs):
            pair = np.asarray(pairs.values)[codes]
            of_columns.insert(0, pair & ((1 << _PAIR_BITS) - 1))
            codes = pair >> _PAIR_BITS
        of_columns.insert(0, codes)
        return [v.values.take(pa.array(c)) for v, c in zip(self._columns, of_columns, strict=True)]


class _Values:
    def __init__(self) -> None:
        self.values: pa.Array = pa.array([], pa.int64())

    def add(self, column: pa.Array) -> Ints:
        """(n,) place of each value among the distinct ones so far."""
        encoded = column.dictionary_encode()
        distinct = encoded.dictionary
        if not len(self.values):
            self.values = distinct
            return np.asarray(encoded.indices).astype(np.int64)
        at = pc.index_in(distinct, value_set=self.values)
        is_new = np.asarray(at.is_null())
        places = np.where(is_new, len(self.values) + np.cumsum(is_new) - 1, np.asarray(pc.fill_null(at, 0))).astype(np.int64)
        if is_new.any():
            self.values = pa.concat_arrays([self.values, distinct.filter(pa.array(is_new))])
        return places[np.asarray(encoded.indices)]


class TimeSlices:
    """A partition's events by slices of time: with column CODE in place of the key's columns."""

    def __init__(self, folder: Path, begins: Ints, columns: int, merge: bool, rows: int):
        """folder: made here; begins: (slices,) rising moments; columns: of a key; merge: of repeated rows only the first one
        counts; rows: that are in memory at a time."""
        folder.mkdir()
        self.begins, self.keys, self._merge, self._rows = begins, KeyCodes(columns), merge, rows
        self._folder, self._written = folder, 0
        self._places: list[tuple[list[Path], int]] = [([], 0)] * len(begins)  # of a slice: its files, and its batch in each
        self.read = lru_cache(maxsize=2)(self._read)

    def __len__(self) -> int:
        return len(self.begins)

    def of(self, times: Ints) -> Ints:
        """(n,) index of the slice that each moment lies in; 0 for those before all."""
        return np.maximum(np.searchsorted(self.begins, times, side="right") - 1, 0)

    def fill(self, tables: Iterable[pa.Table]) -> None:
        """tables: events with columns time and key_*; their keys are not missing."""
        self._cut((self._coded(table) for table in self._gathered(tables)), 0, len(self))

    def _gathered(self, tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
        """The same rows in tables of half of those that are in memory at a time, or more."""
        held: list[pa.Table] = []
        for table in tables:
            held.append(table)
            if sum(map(len, held)) >= self._rows // 2:
                yield pa.concat_tables(held).combine_chunks()
                held = []
        if held:
            yield pa.concat_tables(held).combine_chunks()

    def _coded(self, table: pa.Table) -> pa.Table:
        names = [n for n in table.column_names if n.startswith("key_")]
        codes = self.keys.add([table.column(n).combine_chunks() for n in names])
        return table.drop_columns(names).append_column(CODE, pa.array(codes))

    def _cut(self, tables: Iterable[pa.Table], first: int, end: int) -> None:
        """Cuts rows of the slices first .. end - 1. A file has a batch for each of at most _FAN_OUT parts: for each slice, or
        for neighbouring slices, whose rows are then cut again. With a batch for each slice in each file, batches would grow
        with the square of the slices."""
        each = 1
        while each * _FAN_OUT < end - first:
            each *= _FAN_OUT
        parts, files = -(-(end - first) // each), list[Path]()
        for table in tables:
            files.append(self._folder / f"{self._written:07d}.arrow")
            self._written += 1
            write_parts(files[-1], table, (self.of(moments(table)) - first) // each, parts)
        for part in range(parts):
            begin = first + part * each
            if each == 1:
                self._places[begin] = files, part
            elif files:
                batches = (pa.Table.from_batches([batch]) for batch in batches_of(files, part))
                self._cut(self._gathered(batches), begin, min(begin + each, end))
        if each > 1:
            for file in files:
                file.unlink()

    def _read(self, number: int) -> pa.Table:
        """A slice, by code and time; of one code and moment as they were read."""
        table = read_part(*self._places[number])
        if self._merge:
            row, time, content = (table.column(name).to_numpy() for name in ("row", "time", CONTENT))
            is_copy, of_log = np.zeros(len(table), np.bool_), row >= 0
            is_copy[of_log] = later_copies(row[of_log], time[of_log], content[of_log])
            table = table.filter(pa.array(~is_copy))
        order = np.lexsort((moments(table), table.column(CODE).to_numpy()))
        return table.take(pa.array(order)).combine_chunks()
