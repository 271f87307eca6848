"""The requests of a split: how many rows each has, and in which slices of row groups they are read."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from home_dist.data.files import DataFiles
from home_dist.data.order import RowGroup
from home_dist.data.raw_rows import Heads
from home_dist.data.sampling import Sampler

_COUNTED = 1 << 22  # requests that are counted at once, each in 8 bytes
_MARKED = 4  # row groups whose sampled rows stay marked, as slices of one follow each other


class RequestSlice(NamedTuple):
    """Consecutive requests that begin in one row group. The last one may reach into the next row groups."""

    file: int
    group: int
    rows: int
    """Rows that the epoch reads."""
    first: int
    stop: int
    """Requests first .. stop - 1 of the split."""
    groups: tuple[RowGroup, ...]
    """The slices of row groups in which its rows lie, in the order of the rows."""


@dataclass(frozen=True, eq=False)
class Requests:
    """The requests of a split, in the order of files and rows. A request belongs to the row group in which it begins.

    Every rank holds all of them, in 1 byte per request if none has more than 255 rows, else in 2 or 4, and 16 bytes per row
    group: 100 MB for 10^8 requests.
    """

    files: DataFiles
    sizes: NDArray
    """(requests,) rows of each, of the smallest unsigned type."""
    firsts: NDArray[np.int64]
    """(row groups + 1,): the first request that begins in each of `files.groups`, or after it if none does."""
    heads: NDArray[np.int64]
    """(row groups,): first rows of the row group that belong to a request that begins before it."""

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        """(largest + 1,): number of requests of each size."""
        counts = np.zeros(int(self.sizes.max(initial=0)) + 1, np.int64)
        for first in range(0, len(self.sizes), _COUNTED):
            counts += np.bincount(self.sizes[first : first + _COUNTED], minlength=len(counts))
        return counts

    @property
    def largest(self) -> int:
        return len(self.counts) - 1

    def place(self, request: int) -> tuple[str, int, int]:
        """File, row group and row within it where a request begins."""
        number = int(np.searchsorted(self.firsts, request, "right")) - 1
        group = self.files.groups[number]
        row = int(self.heads[number]) + int(self.sizes[self.firsts[number] : request].sum())
        return self.files.shown(group.file), group.group, row

    def fingerprint(self) -> str:
        """Digest of names of files, columns and sizes, on which a position in an epoch depends."""
        digest = hashlib.sha256(repr((self.files.fingerprint(), self.files.request, self.sizes.dtype.str)).encode())
        for array in (self.sizes, self.firsts, self.heads):
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()[:16]

    def head_rows(self) -> Heads:
        return {(g.file, g.group): int(h) for g, h in zip(self.files.groups, self.heads, strict=True) if h}

    def slices(self, whole_rows: int | None, slice_rows: int, sampler: "RequestSampler | None" = None) -> list[RequestSlice]:
        """A slice per row group; row groups of more than `whole_rows` rows are cut into slices of about `slice_rows`. Those
        without a request of the sample are left out."""
        kept, slices = None if sampler is None else sampler.kept, []
        for number, group in enumerate(self.files.groups):
            first, stop = int(self.firsts[number]), int(self.firsts[number + 1])
            if first == stop:
                continue
            bounds = np.concatenate([[0], np.cumsum(self.sizes[first:stop], dtype=np.int64)])
            span = int(bounds[-1])
            cuts = np.array([0, stop - first])
            if whole_rows is not None and span > whole_rows:
                count = -(-span // slice_rows)
                cuts = np.unique(np.searchsorted(bounds, np.arange(count + 1) * span // count))
            read = bounds
            if kept is not None:
                read = np.concatenate([[0], np.cumsum(np.where(kept[first:stop], self.sizes[first:stop], 0), dtype=np.int64)])
            for a, b in zip(cuts[:-1].tolist(), cuts[1:].tolist(), strict=True):
                start, rows = int(self.heads[number] + bounds[a]), int(read[b] - read[a])
                if rows:
                    groups = self._row_groups(number, start, int(bounds[b] - bounds[a]), sampler)
                    slices.append(RequestSlice(group.file, group.group, rows, first + a, first + b, groups))
        return slices

    def _row_groups(self, number: int, start: int, left: int, sampler: "RequestSampler | None") -> tuple[RowGroup, ...]:
        """The slices of row groups that hold the next `left` rows from row `start` of row group `number` on."""
        groups = []
        while left:
            whole = self.files.groups[number]
            rows = min(left, whole.rows - start)
            group = whole._replace(rows=rows, start=start)
            if sampler is not None and sampler.rates[whole.file] < 1:
                group = group._replace(sampled_from=rows)
                group = group._replace(rows=len(sampler.chosen(group)))
            if group.rows:
                groups.append(group)
            start, left, number = 0, left - rows, number + 1
        return tuple(groups)

    @cached_property
    def numbers(self) -> dict[tuple[int, int], int]:
        """Place in `files.groups` by file and row group."""
        return {(g.file, g.group): number for number, g in enumerate(self.files.groups)}


class RequestSampler(Sampler):
    """Samples whole requests: of each row group, the same ones of those that begin in it in every epoch."""

    def __init__(self, requests: Requests, rates: Mapping[str, float], seed: int):
        super().__init__(requests.files, rates, seed)
        self.requests = requests
        self._marked = lru_cache(_MARKED)(self._marks)
        self.kept = np.ones(len(requests.sizes), np.bool_)
        """(requests,)"""
        for number, group in enumerate(self.files.groups):
            if self.rates[group.file] < 1:
                first, stop = int(requests.firsts[number]), int(requests.firsts[number + 1])
                self.kept[first:stop] = False
                self.kept[first + self.chosen_of(group.file, group.group, stop - first)] = True
        self.refuse_none(bool(self.kept.any()))

    def chosen(self, group: RowGroup) -> NDArray[np.int64]:
        return np.flatnonzero(self._marked(self.requests.numbers[group.file, group.group])[group.start : group.stop])

    def _marks(self, number: int) -> NDArray[np.bool_]:
        """Marks the sampled ones among the rows of a row group and those after it that belong to its last request."""
        requests = self.requests
        # The request that the head belongs to is the last one that begins before the row group.
        first, stop, head = int(requests.firsts[number]), int(requests.firsts[number + 1]), int(requests.heads[number])
        of_head = np.full(head, head > 0 and self.kept[first - 1])
        return np.concatenate([of_head, np.repeat(self.kept[first:stop], requests.sizes[first:stop])])

    def fingerprint(self) -> str:
        return hashlib.sha256(repr((self.requests.fingerprint(), super().fingerprint())).encode()).hexdigest()[:16]


def sampler_of(files: DataFiles, requests: Requests | None, rates: Mapping[str, float], seed: int) -> Sampler:
    """Samples rows, or whole requests where they are kept together."""
    return Sampler(files, rates, seed) if requests is None else RequestSampler(requests, rates, seed)
