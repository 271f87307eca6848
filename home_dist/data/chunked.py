"""Decoded columns, kept in the chunks and types in which they were read. Rows are gathered from the chunks without a prior
copy."""

import ctypes
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from home_dist.native_library import library_if_possible

_SOURCE = Path(__file__).parent / "native" / "columns.cpp"
# The same order as in columns.cpp.
_TYPES = {np.dtype(t): i for i, t in enumerate(["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"])}

Chunks = Sequence[NDArray]
"""A column's values: one array, or one for each chunk in which the window's rows were read."""


def native() -> ctypes.CDLL | None:
    """The compiled library; None without a compiler. numpy then does the same, some ten times slower for lists."""
    return library_if_possible(_SOURCE)


class ChunkStarts:
    """First rows of the chunks of a window's columns."""

    def __init__(self, lengths: Sequence[int]):
        self.lengths = tuple(lengths)
        self.starts = np.cumsum([0, *self.lengths])[:-1]
        self.chunk_of: NDArray[np.int32] | None = None
        """(rows,) chunk of each row; None if there is one chunk."""
        if len(self.lengths) > 1:
            self.chunk_of = np.repeat(np.arange(len(self.lengths), dtype=np.int32), self.lengths)


class ChunkedColumns:
    """Columns of scalars, or of lists that have the same lengths in all columns."""

    def __init__(self, columns: Sequence[Chunks], starts: ChunkStarts, offsets: NDArray[np.int64] | None = None):
        """offsets: (rows + 1,) of the rows' lists, counted through all chunks; None for scalars."""
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
        """(rows + 1,): offsets of the gathered lists of `rows`."""
        if self.offsets is None:
            raise ValueError("columns without lists have no offsets")
        offsets = np.zeros(len(rows) + 1, np.int64)
        np.cumsum(self.offsets[rows + 1] - self.offsets[rows], out=offsets[1:])
        return offsets

    def gather(self, rows: NDArray[np.int64], outs: Sequence[NDArray]) -> None:
        """Writes the values of `rows`, one after another, to one array per column, of int32, int64 or float32. For scalars the
        arrays are (rows,), all with the same stride; for lists contiguous, as long as all gathered lists together."""
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

    def differing(self, column: int, rows: NDArray[np.int64], others: NDArray[np.int64]) -> NDArray[np.bool_]:
        """(n,): whether each of `rows` (n,) has another value or list than the row at the same place of `others` (n,)."""
        out = np.zeros(len(rows), np.bool_)
        library = native()
        if library is None:
            self._compare(self.columns[column][0], rows, others, out)
        elif len(rows):
            rows, others = (np.ascontiguousarray(r, np.int64) for r in (rows, others))
            arrays = (self._bases[column], self.starts.chunk_of, self.offsets, rows, others, out)
            addresses = [0 if array is None else address(array) for array in arrays]
            library.differing(*map(ctypes.c_int64, (int(self._types[column]), len(rows), *addresses)))
        return out

    def _compare(self, values: NDArray, rows: NDArray[np.int64], others: NDArray[np.int64], out: NDArray[np.bool_]) -> None:
        """As `differing`, into `out`."""
        if self.offsets is None:
            out[:] = values[rows] != values[others]
            return
        lengths = np.diff(self.offsets)
        out[:] = lengths[rows] != lengths[others]
        alike = np.flatnonzero(~out & (lengths[rows] > 0))
        unequal = values[_within(self.offsets, rows[alike])] != values[_within(self.offsets, others[alike])]
        out[np.repeat(alike, lengths[rows[alike]])[unequal]] = True


def _number(array: NDArray) -> NDArray:
    """The array, contiguous and in one of _TYPES."""
    if array.dtype == bool:
        array = array.view(np.uint8)
    elif array.dtype not in _TYPES:
        array = array.astype(np.float64)
    return np.ascontiguousarray(array)


def address(array: NDArray) -> int:
    return array.__array_interface__["data"][0]


def _within(offsets: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Positions of the values of the rows' lists, one list after another."""
    begins, lengths = offsets[rows], offsets[rows + 1] - offsets[rows]
    ends = np.cumsum(lengths)
    if not len(rows):
        return ends
    return np.arange(ends[-1]) + np.repeat(begins - (ends - lengths), lengths)
