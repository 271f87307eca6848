"""The order of an epoch: a pure function of (data, seed, epoch, lanes, global batch), independent of the number of ranks.

Row groups are permuted with the seed and collected into *windows*; then the rows of each window are permuted. A global batch
is mixed from a fixed number of *lanes*. Each lane runs through fragments (window, start, stop) of permuted windows and gives
the same number of rows to every step. Rank r owns the r-th share of the lanes. A position in an epoch is thus one number, the
steps done. It determines the remaining fragments, which can be dealt anew to any other number of lanes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heappop, heapreplace
from itertools import groupby
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

_GROUPS, _ROWS = 1, 2  # purposes of random streams: part of their seeds


class RowGroup(NamedTuple):
    """A row group or a slice of it. file: index into the sorted list of files; group: index of the row group in the file."""

    file: int
    group: int
    rows: int
    """Number of rows that the epoch reads."""
    start: int = 0
    """The slice's first row within the row group."""
    sampled_from: int | None = None
    """Number of the slice's rows in the file, if `rows` are only a sample of them."""

    @property
    def stop(self) -> int:
        return self.start + (self.rows if self.sampled_from is None else self.sampled_from)


class Fragment(NamedTuple):
    """Rows start .. stop - 1 of a window, after its permutation. With `data.request`, they count bins of rows (bins.py)."""

    window: int
    start: int
    stop: int

    @property
    def rows(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class Windows:
    """The windows of one epoch. Without shuffling (seed None) they follow the order of the files."""

    groups: tuple[tuple[RowGroup, ...], ...]
    seed: int | None
    epoch: int

    @property
    def bin_rows(self) -> int:
        """Most rows that a fragment's `rows` may stand for each: 1, or the size of a bin."""
        return 1

    def rows(self, window: int) -> int:
        return sum(g.rows for g in self.groups[window])

    def ordered(self, window: int) -> tuple[NDArray[np.int64], NDArray[np.int64] | None]:
        """The permutation, and for bins (bins + 1,) where each begins in it."""
        return self.permutation(window), None

    def permutation(self, window: int) -> NDArray[np.int64]:
        """(rows,) the order in which a window's rows are read."""
        if self.seed is None:
            return np.arange(self.rows(window))
        return row_order(self.seed, self.epoch, window, self.rows(window))

    def rows_by_step(self, dealt: "Deal") -> NDArray[np.int64]:
        """(steps,): rows that all lanes together read in each step."""
        return np.minimum(dealt.global_batch, dealt.rows - np.arange(dealt.steps) * dealt.global_batch)

    def whole(self) -> list[Fragment]:
        return [Fragment(w, 0, self.rows(w)) for w in range(len(self.groups))]


def cut(groups: Sequence[RowGroup], whole_rows: int, slice_rows: int) -> list[RowGroup]:
    """Cuts row groups of more than `whole_rows` rows into slices of at most `slice_rows`, of about equal length."""
    slices = []
    for group in groups:
        count = 1 if group.rows <= whole_rows else -(-group.rows // slice_rows)
        bounds = [group.rows * i // count for i in range(count + 1)]
        slices += [group._replace(start=a, rows=b - a) for a, b in zip(bounds, bounds[1:], strict=False)]
    return slices


def make_windows(groups: Sequence[RowGroup], window_rows: int, seed: int | None, epoch: int) -> Windows:
    """Windows of row groups and slices of them, see `collect`."""
    return Windows(tuple(collect(groups, window_rows, seed, epoch)), seed, epoch)


class RowSpan(Protocol):
    """A row group, a slice of it, or the requests that begin in a slice."""

    @property
    def file(self) -> int: ...

    @property
    def group(self) -> int: ...

    @property
    def rows(self) -> int: ...


AnySpan = TypeVar("AnySpan", bound=RowSpan)


def collect(groups: Sequence[AnySpan], window_rows: int, seed: int | None, epoch: int) -> list[tuple[AnySpan, ...]]:
    """Permutes row groups and collects them into windows of at least `window_rows` rows (the last may have fewer).

    Slices of one row group stay together and in order, since a row group can only be read from start to end.
    """
    runs = [list(run) for _, run in groupby(groups, key=lambda g: (g.file, g.group))]
    order = range(len(runs)) if seed is None else _random(seed, epoch, _GROUPS).permutation(len(runs)).tolist()
    windows: list[tuple[AnySpan, ...]] = []
    current: list[AnySpan] = []
    rows = 0
    for group in (g for index in order for g in runs[index]):
        current.append(group)
        rows += group.rows
        if rows >= window_rows:
            windows.append(tuple(current))
            current, rows = [], 0
    if current:
        windows.append(tuple(current))
    return windows


def quotas(total: int, lanes: int) -> list[int]:
    """Splits `total` rows over lanes so that the first k * lanes / ranks lanes have exactly k / ranks of the rows."""
    return [(lane + 1) * total // lanes - lane * total // lanes for lane in range(lanes)]


@dataclass(frozen=True)
class Deal:
    """The fragments of each lane. In step s, lane l reads its rows s * quota[l] .. (s + 1) * quota[l] - 1, if it has them."""

    lanes: tuple[tuple[Fragment, ...], ...]
    global_batch: int

    @property
    def quota(self) -> list[int]:
        return quotas(self.global_batch, len(self.lanes))

    @property
    def rows(self) -> int:
        return sum(f.rows for lane in self.lanes for f in lane)

    @property
    def steps(self) -> int:
        return -(-self.rows // self.global_batch)

    def remaining(self, steps_done: int) -> list[Fragment]:
        """The fragments left after `steps_done` steps, in the order in which the lanes reach them."""
        left: list[list[Fragment]] = []
        for lane, quota in zip(self.lanes, self.quota, strict=True):
            skip, rest = steps_done * quota, []
            for fragment in lane:
                taken = min(skip, fragment.rows)
                skip -= taken
                if taken < fragment.rows:
                    rest.append(fragment._replace(start=fragment.start + taken))
            left.append(rest)
        longest = max((len(rest) for rest in left), default=0)
        return [rest[i] for i in range(longest) for rest in left if i < len(rest)]


def deal(fragments: Sequence[Fragment], lanes: int, global_batch: int) -> Deal:
    """Deals fragments to lanes so that all steps but the last are full, and the last step is shared evenly among the lanes.

    A fragment is split only where its lane becomes full, which happens near the end of the epoch.
    """
    quota = quotas(global_batch, lanes)
    total = sum(f.rows for f in fragments)
    full_steps, rest = divmod(total, global_batch)
    last = [rest * q // global_batch for q in quota]
    room = [lane for lane in range(lanes) if last[lane] < quota[lane]]
    for lane in room[: rest - sum(last)]:  # rounding down left fewer rows than there are lanes
        last[lane] += 1
    target = [full_steps * q + extra for q, extra in zip(quota, last, strict=True)]

    dealt: list[list[Fragment]] = [[] for _ in range(lanes)]
    filled = [0] * lanes
    # The least full lane is next; among equally full lanes, the one with the lowest number.
    open_lanes = [(0.0, lane) for lane in range(lanes) if target[lane]]
    for window, start, end in fragments:
        while start < end:
            lane = open_lanes[0][1]
            stop = min(end, start + target[lane] - filled[lane])
            dealt[lane].append(Fragment(window, start, stop))
            filled[lane] += stop - start
            start = stop
            if filled[lane] < target[lane]:
                heapreplace(open_lanes, (filled[lane] / target[lane], lane))
            else:
                heappop(open_lanes)
    return Deal(tuple(tuple(lane) for lane in dealt), global_batch)


def lanes_for(world_size: int, wanted: int) -> int:
    """The number of lanes: `wanted` rounded up to a multiple of the number of ranks."""
    return -(-wanted // world_size) * world_size


def row_order(seed: int, epoch: int, window: int, count: int) -> NDArray[np.int64]:
    """(count,): the permutation of a window's rows or requests."""
    return _random(seed, epoch, _ROWS, window).permutation(count)


def _random(*key: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(key)))
