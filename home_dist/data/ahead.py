"""Reads windows ahead: threads decode them in the order in which a rank's lanes reach them, within a bound of rows in memory.

A window is decoded once. Rows that the rank's fragments need are permuted as soon as they are decoded; the rest is dropped.
"""

import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from home_dist.data.buffers import Buffers
from home_dist.data.decode import Decoder, WindowRows
from home_dist.data.decoded_rows import Rows
from home_dist.data.order import Fragment, RowGroup, Windows

MOST_DECODERS = 4
"""Most decoding threads of a rank, unless data.threads says otherwise."""


@dataclass(frozen=True)
class FragmentRows:
    """A fragment's rows, permuted into the order of reading."""

    rows: Rows
    bounds: NDArray[np.int64] | None = None
    """(rows of the fragment + 1,): number of good rows before each row, or bin; None if rows are not in bins and all good."""

    def between(self, start: int, stop: int) -> tuple[Rows, int, int]:
        """Rows (or bins) start .. stop - 1 of the fragment, without bad rows, as a range of `rows`."""
        if self.bounds is None:
            return self.rows, start, stop
        return self.rows, int(self.bounds[start]), int(self.bounds[stop])


@dataclass
class _Window:
    number: int
    fragments: list[Fragment]
    after: "threading.Event | None" = None
    """Set when the row group's previous slice, in another window, has been read: a row group is read from start to end."""
    read: threading.Event = field(default_factory=threading.Event)
    future: "Future[dict[Fragment, FragmentRows]] | None" = None
    held: int = 0
    """Rows that are in memory, or will be once decoded."""


class Ahead:
    """Decodes windows ahead of one consuming thread, which enters and leaves each fragment, about in the given order."""

    def __init__(
        self,
        decoder: Decoder,
        windows: Windows,
        fragments: Sequence[Fragment],
        buffers: Buffers,
        threads: int,
        most: int,
        most_rows: int,
    ):
        """buffers: makes the arrays of the permuted rows. most: bound of windows decoded but not yet entered; most_rows: bound
        of rows in memory, entered windows included."""
        self.buffers = buffers
        self.decoder, self.windows, self.most, self.most_rows = decoder, windows, most, most_rows
        ahead: dict[int, _Window] = {}
        for fragment in fragments:
            ahead.setdefault(fragment.window, _Window(fragment.window, [])).fragments.append(fragment)
        self._order = self._in_reading_order(list(ahead.values()))
        self._place = {window.number: place for place, window in enumerate(self._order)}
        self._next = 0  # place in the order of the window that is given to the threads next
        self._rows = 0
        self._waiting = 0  # windows that no lane has entered yet
        self._entered: set[int] = set()
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")

    def _in_reading_order(self, ahead: list[_Window]) -> list[_Window]:
        """Reorders the windows that hold slices of row groups, among their places, by window number: a row group's slices must
        be read in order. Other windows stay."""
        places = [i for i, window in enumerate(ahead) if self._sliced(window.number)]
        ordered = sorted((ahead[i] for i in places), key=lambda window: window.number)
        latest: dict[tuple[int, int], _Window] = {}
        for place, window in zip(places, ordered, strict=True):
            ahead[place] = window
            for group in filter(self.decoder.raw.streamed, self.windows.groups[window.number]):
                previous = latest.get((group.file, group.group))
                if previous is not None and previous is not window:
                    window.after = previous.read
                latest[group.file, group.group] = window
        return ahead

    def _sliced(self, window: int) -> bool:
        return any(map(self.decoder.raw.streamed, self.windows.groups[window]))

    def enter(self, fragment: Fragment) -> FragmentRows:
        place = self._place[fragment.window]
        while self._next <= place:
            self._start()
        self._fill()
        window = self._order[place]
        if fragment.window not in self._entered:
            self._entered.add(fragment.window)
            self._waiting -= 1
        if window.future is None:
            raise ValueError("a window that was started has a future")
        return window.future.result().pop(fragment)

    def leave(self, fragment: Fragment) -> None:
        window = self._order[self._place[fragment.window]]
        rows = fragment.rows * self.windows.bin_rows
        window.held -= rows
        self._rows -= rows
        if not window.held:
            window.future = None
        self._fill()

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _fill(self) -> None:
        while self._next < len(self._order) and self._waiting < self.most:
            if self._rows + self._most_rows_of(self._order[self._next]) > self.most_rows:
                return
            self._start()

    def _most_rows_of(self, window: _Window) -> int:
        return sum(f.rows for f in window.fragments) * self.windows.bin_rows

    def _start(self) -> None:
        window = self._order[self._next]
        self._next += 1
        self._waiting += 1
        window.held = self._most_rows_of(window)
        self._rows += window.held
        window.future = self._pool.submit(self._decode, window)

    def _decode(self, window: _Window) -> dict[Fragment, FragmentRows]:
        groups: tuple[RowGroup, ...] = self.windows.groups[window.number]
        try:
            if window.after is not None:
                window.after.wait()  # no deadlock: the window of the previous slice was started earlier
            raw = [self.decoder.raw.read(group) for group in groups]
        finally:
            window.read.set()
        decoded = self.decoder.decode(raw)
        del raw
        order, bins = self.windows.ordered(window.number)
        permuted = {f: self._permuted(decoded, f, order, bins) for f in window.fragments}
        runs = decoded.rows.runs
        shared = runs is not None and len(runs.firsts) < len(runs.numbers)
        del decoded, runs
        if shared:  # of a request's rows one is kept; Arrow's allocator would keep the memory of the others
            pa.default_memory_pool().release_unused()
        return permuted

    def _permuted(
        self, decoded: WindowRows, fragment: Fragment, order: NDArray[np.int64], bins: NDArray[np.int64] | None
    ) -> FragmentRows:
        if bins is not None:
            bins = bins[fragment.start : fragment.stop + 1]
            order, bins = order[bins[0] : bins[-1]], bins - bins[0]
        else:
            order = order[fragment.start : fragment.stop]
        if decoded.kept is None:
            return FragmentRows(decoded.rows.take(np.ascontiguousarray(order), self.buffers), bins)
        rows = self._without_bad(decoded, order)
        return rows if bins is None or rows.bounds is None else FragmentRows(rows.rows, rows.bounds[bins])

    def _without_bad(self, decoded: WindowRows, order: NDArray[np.int64]) -> FragmentRows:
        if decoded.kept is None or self.decoder.bad_rows is None:
            raise ValueError("rows are left out only where bad ones are taken")
        place = np.full(len(decoded.kept) + len(decoded.bad), -1)
        place[decoded.kept] = np.arange(len(decoded.kept))
        good = place[order] >= 0
        # Only bad rows of this rank's fragments: two ranks may read a window, which must not count twice.
        self.decoder.bad_rows.add([decoded.bad[i] for i in order[~good].tolist()])
        return FragmentRows(decoded.rows.take(place[order[good]], self.buffers), np.concatenate([[0], np.cumsum(good)]))
