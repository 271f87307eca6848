"""Packs the requests of a window into bins, which order.py deals to lanes as it deals rows otherwise.

A bin holds whole requests of at most `bin_rows` rows together. This number divides the batch size: a rank's batch is a fixed
number of bins, so that every request lies in one batch of one rank. The rest of a bin is padding. The requests of a window are
permuted with the seed. Each goes to the open bin or, if it does not fit, opens the next one (next-fit). About one per bin is
held back until then, and goes where it leaves least room.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from home_dist.data.order import Deal, Windows, collect, row_order
from home_dist.data.requests import Requests, RequestSlice
from home_dist.errors import ConfigError

_SAMPLED_WINDOWS = 8
"""Windows that are packed to choose the size of bins."""
_ABOUT = 0.005
"""Share of padding that is given for fewer bins, which are packed faster."""


def bin_size(requests: Requests, batch_size: int, lane_rows: float, window_rows: int) -> int:
    """Rows of a bin: of the divisors of the batch size that hold the largest request and are at most a lane's share of a global
    batch, `lane_rows`, the largest one of about the least padding; if there is none, the smallest one that holds the largest
    request.

    Raises ConfigError if the largest request does not fit in a batch.
    """
    if requests.largest > batch_size:
        largest, (file, group, row) = requests.largest, requests.place(int(requests.sizes.argmax()))
        raise ConfigError(
            f"train.batch_size = {batch_size:,}, but the largest request has {largest:,} rows: {file}, row group {group}, "
            f"from row {row} on. data.request keeps a request in one rank's batch. Raise train.batch_size to {largest:,} or "
            "more, split requests of this size when the data is prepared, or name columns of smaller requests in data.request."
        )
    fitting = [size for size in range(max(1, requests.largest), batch_size + 1) if batch_size % size == 0]
    of_lane = [size for size in fitting if size <= lane_rows] or fitting[:1]
    padding = {size: expected_padding(requests, size, window_rows) for size in of_lane}
    return max(size for size in of_lane if padding[size] <= min(padding.values()) + _ABOUT)


def expected_padding(requests: Requests, size: int, window_rows: int) -> float:
    """Share of padding in bins of `size` rows, from packing a few windows' worth of consecutive requests."""
    rows_in_all = int(requests.counts @ np.arange(requests.largest + 1))
    count = min(len(requests.sizes), max(1, window_rows * len(requests.sizes) // rows_in_all))
    firsts = np.linspace(0, len(requests.sizes) - count, _SAMPLED_WINDOWS).astype(np.int64)
    rows = bins = 0
    for first in np.unique(firsts):
        sizes = requests.sizes[first : first + count].astype(np.int64)
        rows += int(sizes.sum())
        bins += len(fill(sizes[row_order(0, 0, int(first), count)], size)[1]) - 1
    return 1 - rows / (bins * size)


@dataclass(frozen=True, eq=False)
class BinnedWindows(Windows):
    """Windows whose fragments count bins. Packing 10^8 requests takes 10 to 20 s per epoch, on each rank."""

    requests: Requests
    kept: NDArray[np.bool_] | None
    """(requests,): the requests of a sample; None: all."""
    slices: tuple[tuple[RequestSlice, ...], ...]
    """By window."""
    size: int
    """Rows of a bin."""
    firsts: NDArray[np.int64]
    """(windows + 1,): the first bin of each window among all bins."""
    filled: NDArray[np.int32]
    """(bins,): rows of each bin without padding."""

    @property
    def bin_rows(self) -> int:
        return self.size

    def rows(self, window: int) -> int:
        """Number of bins."""
        return int(self.firsts[window + 1] - self.firsts[window])

    def ordered(self, window: int) -> tuple[NDArray[np.int64], NDArray[np.int64] | None]:
        sizes = _sizes(self.requests, self.slices[window], self.kept)
        order, bins = _packed(sizes, self.size, self.seed, self.epoch, window)
        sizes, starts = sizes[order], (np.cumsum(sizes) - sizes)[order]
        ends = np.cumsum(sizes)
        rows = np.arange(ends[-1]) + np.repeat(starts - (ends - sizes), sizes)
        return rows, np.concatenate([[0], ends])[bins]

    def permutation(self, window: int) -> NDArray[np.int64]:
        return self.ordered(window)[0]

    @property
    def padding(self) -> float:
        """Share of padding in the epoch's bins."""
        return 1 - float(self.filled.sum()) / (len(self.filled) * self.size)

    def rows_by_step(self, dealt: Deal) -> NDArray[np.int64]:
        """(steps,): rows without padding that all lanes together read in each step."""
        rows = np.zeros(dealt.steps, np.int64)
        for fragments, quota in zip(dealt.lanes, dealt.quota, strict=True):
            if fragments:
                pieces = [self.filled[(first := self.firsts[f.window]) + f.start : first + f.stop] for f in fragments]
                of_lane = np.zeros(dealt.steps * quota, np.int64)
                joined = np.concatenate(pieces)
                of_lane[: len(joined)] = joined
                rows += of_lane.reshape(dealt.steps, quota).sum(1)
        return rows


def pack(
    requests: Requests,
    slices_of_split: Sequence[RequestSlice],
    kept: NDArray[np.bool_] | None,
    window_rows: int,
    bin_rows: int,
    seed: int | None,
    epoch: int,
) -> BinnedWindows:
    """The windows of an epoch, of about `window_rows` rows. kept: (requests,) marks the requests of a sample."""
    slices = tuple(collect(slices_of_split, window_rows, seed, epoch))
    filled = []
    for window, parts in enumerate(slices):
        of_window = _sizes(requests, parts, kept)
        order, bins = _packed(of_window, bin_rows, seed, epoch, window)
        filled.append(np.add.reduceat(of_window[order], bins[:-1]).astype(np.int32))
    return BinnedWindows(
        groups=tuple(tuple(g for part in parts for g in part.groups) for parts in slices),
        seed=seed,
        epoch=epoch,
        requests=requests,
        kept=kept,
        slices=slices,
        size=bin_rows,
        firsts=np.cumsum([0, *map(len, filled)]),
        filled=np.concatenate(filled),
    )


def fill(sizes: NDArray[np.int64], capacity: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """sizes: (n,) of a window's requests in a random order, none above `capacity` -> (n,) their indices bin by bin, and
    (bins + 1,) where each bin begins among them.

    Positions of checkpoints count these bins: another way of packing needs a new name in them.
    """
    held_back = min(len(sizes) // 4, -(-int(sizes.sum()) // capacity))
    first = len(sizes) - held_back
    bins = next_fit(sizes[:first], capacity)
    bin_of = np.empty(len(sizes), np.int64)
    bin_of[:first] = np.repeat(np.arange(len(bins) - 1), np.diff(bins))
    room = capacity - np.add.reduceat(sizes[:first], bins[:-1])
    order = first + np.argsort(sizes[first:], kind="stable")
    waiting, their_sizes = order.tolist(), sizes[order].tolist()
    for number, left in enumerate(room.tolist()):
        while (place := bisect_right(their_sizes, left)) > 0:  # the largest one that fits
            left -= their_sizes.pop(place - 1)
            bin_of[waiting.pop(place - 1)] = number
    rest = np.sort(np.asarray(waiting, np.int64))
    places = np.arange(len(room)) / len(room)
    if len(rest):  # bins of their own, spread among the others
        more = next_fit(sizes[rest], capacity)
        bin_of[rest] = len(room) + np.repeat(np.arange(len(more) - 1), np.diff(more))
        places = np.concatenate([places, np.arange(len(more) - 1) / (len(more) - 1)])
    rank = np.empty(len(places), np.int64)
    rank[np.argsort(places, kind="stable")] = np.arange(len(places))
    bin_of = rank[bin_of]
    return np.argsort(bin_of, kind="stable"), np.concatenate([[0], np.cumsum(np.bincount(bin_of))])


def next_fit(sizes: NDArray[np.int64], capacity: int) -> NDArray[np.int64]:
    """(bins + 1,): the index of each bin's first request, and the number of requests. sizes: (n,), n > 0, none above
    `capacity`."""
    ends = np.cumsum(sizes)
    following = np.searchsorted(ends, ends - sizes + capacity, "right").tolist()
    firsts = [0]
    while firsts[-1] < len(sizes):
        firsts.append(following[firsts[-1]])
    return np.asarray(firsts)


def _sizes(requests: Requests, parts: Sequence[RequestSlice], kept: NDArray[np.bool_] | None) -> NDArray[np.int64]:
    """(n,): sizes of a window's requests, in the order of reading."""
    sizes = np.concatenate([requests.sizes[p.first : p.stop] for p in parts])
    if kept is not None:
        sizes = sizes[np.concatenate([kept[p.first : p.stop] for p in parts])]
    return sizes.astype(np.int64)


def _packed(
    sizes: NDArray[np.int64], capacity: int, seed: int | None, epoch: int, window: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(n,) the order of a window's requests, and (bins + 1,) where each bin begins in it. Without a seed, the order stays."""
    if seed is None:
        return np.arange(len(sizes)), next_fit(sizes, capacity)
    permuted = row_order(seed, epoch, window, len(sizes))
    order, bins = fill(sizes[permuted], capacity)
    return permuted[order], bins
