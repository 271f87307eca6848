"""Decoded columns in the chunks and types that they were read in. Rows are gathered from them without a copy before."""

import ctypes
import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from home_dist.native_library import CannotBuild, native_library

_SOURCE = Path(__file__).parent / "native" / "columns.cpp"
_FLAGS = ("-O3", "-std=c++20", "-fPIC", "-shared")
# The order of columns.cpp's.
_TYPES = {np.dtype(t): i for i, t in enumerate(["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"])}

Chunks = Sequence[NDArray]
"""A column's values: one array, or one for each chunk in which the window's rows were read."""


@functools.cache
def native() -> ctypes.CDLL | None:
    """None: without a compiler numpy does the same, in some ten times the time for lists."""
    try:
        return native_library(_SOURCE, _FLAGS)
    except CannotBuild:
        return None


class ChunkStarts:
    """Where the chunks of a window's columns begin, in rows."""

    def __init__(self, lengths: Sequence[int]):
        self.lengths = tuple(lengths)
        self.starts = np.cumsum([0, *self.lengths])[:-1]
        self.chunk_of: NDArray[np.int32] | None = None
        """(rows,), None where there is one chunk."""
        if len(self.lengths) > 1:
            self.chunk_of = np.repeat(np.arange(len(self.lengths), dtype=np.int32), self.lengths)


class ChunkedColumns:
    """Columns, or lists of the same lengths in all columns."""

    def __init__(self, columns: Sequence[Chunks], starts: ChunkStarts, offsets: NDArray[np.int64] | None = None):
        """offsets: (rows + 1,), where each row's list begins and the last one's ends, counted through all chunks."""
        self.starts, self.offsets = starts, offsets
        self.columns = [[_number(chunk) for chunk in column] for column in columns]
        if native() is None:
            self.columns = [[np.concatenate(column)] for column in self.columns]
            return
        begins = starts.starts if offsets is None else offsets[starts.starts]
        count = len(starts.lengths)
        self._bases = np.empty((len(columns), count), np.int64)
        for index, column in enumerate(self.columns):
            for chunk in range(count):
                if len(column) == 1:
                    self._bases[index, chunk] = address(column[0])
                else:
                    self._bases[index, chunk] = address(column[chunk]) - int(begins[chunk]) * column[chunk].itemsize
        self._types = np.array([_TYPES[column[0].dtype] for column in self.columns], np.uint8)

    def __len__(self) -> int:
        return len(self.columns)

    def offsets_of(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """(rows + 1,): where the lists of `rows` begin once they are gathered, and the last one ends."""
        if self.offsets is None:
            raise ValueError("columns without lists have no offsets")
        found = np.zeros(len(rows) + 1, np.int64)
        np.cumsum(self.offsets[rows + 1] - self.offsets[rows], out=found[1:])
        return found

    def gather(self, rows: NDArray[np.int64], outs: Sequence[NDArray]) -> None:
        """Writes the values of `rows`, one after another, to an array of int32, int64 or float32 per column: (rows,), all with
        the same stride, or, contiguous, as long as the lists together are."""
        if not self.columns or not len(rows):
            return
        rows = np.ascontiguousarray(rows, np.int64)
        library = native()
        if library is None:
            positions = rows if self.offsets is None else _within(self.offsets, rows)
            for column, out in zip(self.columns, outs, strict=True):
                out[:] = column[0][positions]
            return
        call = getattr(library, f"{'columns' if self.offsets is None else 'lists'}_{outs[0].dtype.name}")
        addresses = np.array([address(out) for out in outs])
        last = outs[0].strides[0] // outs[0].itemsize if self.offsets is None else address(self.offsets)
        sizes = (len(outs), len(self.starts.lengths), address(self._types), address(self._bases))
        chunk_of = 0 if self.starts.chunk_of is None else address(self.starts.chunk_of)
        call(*map(ctypes.c_int64, (*sizes, chunk_of, address(rows), len(rows), address(addresses), last)))


def _number(array: NDArray) -> NDArray:
    """Contiguous, in a type that can be gathered from."""
    if array.dtype == bool:
        array = array.view(np.uint8)
    elif array.dtype not in _TYPES:
        array = array.astype(np.float64)
    return np.ascontiguousarray(array)


def address(array: NDArray) -> int:
    return array.__array_interface__["data"][0]


def _within(offsets: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where the values of the rows' lists stand, one list after another."""
    begins, lengths = offsets[rows], offsets[rows + 1] - offsets[rows]
    ends = np.cumsum(lengths)
    return np.arange(ends[-1]) + np.repeat(begins - (ends - lengths), lengths)
