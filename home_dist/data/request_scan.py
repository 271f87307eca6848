"""Finds the requests of a split before the first step: their sizes, and that each one's rows follow each other in one file.

Ranks share the row groups, and read only the columns that name a request. To find requests that come again, a rank gets the
keys that a hash gives to it from all ranks, and sorts them. This takes some 100 bytes per request of its share: 80 MB for 10^8
requests on 128 ranks. Sizes are then gathered on every rank (requests.py says how large).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from home_dist.data.column_reader import ColumnReader
from home_dist.data.files import DataFiles
from home_dist.data.order import RowGroup
from home_dist.data.raw_rows import RawReader, RawRows
from home_dist.data.requests import Requests
from home_dist.data.scanning import join_shares, scan
from home_dist.distributed.ranks import Ranks, together
from home_dist.errors import DataError
from home_dist.metrics.own_groups import rows_of_own_groups

Result = TypeVar("Result")


@dataclass(frozen=True)
class _Runs:
    """The runs of rows of one row group that have the same key. A row without a key is a run of its own."""

    keys: NDArray[np.int64]
    lengths: NDArray[np.uint32]
    absent: NDArray[np.bool_]

    @property
    def ends(self) -> tuple[int | None, int | None]:
        """Keys of the first and the last row, None where a row has none."""
        first, last = (None if self.absent[i] else int(self.keys[i]) for i in (0, -1))
        return first, last


def find_requests(files: DataFiles, ranks: Ranks | None = None, threads: int = 1) -> Requests:
    """Reads the columns `files.request`. Collective, unless `ranks` is None.

    Raises DataError, which names files and rows, if the rows of a request do not follow each other in one file; OtherRankFailed
    on the other ranks.
    """
    rank, world = (0, 1) if ranks is None else (ranks.rank, ranks.world_size)
    only = replace(files, columns=dict.fromkeys(files.request, ("key",)), dictionaries=())
    firsts = np.cumsum([0, *(g.rows for g in files.groups)])
    shares = np.searchsorted(firsts[1:], firsts[-1] * np.arange(world + 1) // world)
    own = slice(int(shares[rank]), int(shares[rank + 1]) if rank + 1 < world else len(files.groups))

    def runs_of(group: RowGroup, pieces: Iterator[RawRows]) -> _Runs:
        return _joined([_runs(raw, files.request) for raw in pieces])

    runs = _agreed(ranks, lambda: scan(only, files.groups[own], threads, runs_of))
    ends = [e for of_rank in _of_all(ranks, [r.ends for r in runs]) for e in of_rank]
    continues = [False] + [
        a.file == b.file and last is not None and last == first
        for (a, b, (_, last), (first, _)) in zip(files.groups, files.groups[1:], ends, ends[1:], strict=False)
    ]
    share = _Share.of(runs, continues[own], firsts[own])
    again = _coming_again(share, ranks)
    _agreed(ranks, lambda: _refuse(again, only, firsts))
    return _gathered(files, share, ranks)


@dataclass(frozen=True)
class _Share:
    """The requests that begin in a rank's row groups, without rows of theirs in other ranks' row groups."""

    sizes: NDArray[np.uint32]
    keys: NDArray[np.int64]
    absent: NDArray[np.bool_]
    starts: NDArray[np.int64]
    """First row of each, among all rows of the split."""
    lead: int
    """Rows before the first of them: the end of a request that begins in another rank's row groups."""
    counts: NDArray[np.int64]
    """(row groups,): requests that begin in each."""
    heads: NDArray[np.int64]
    """(row groups,): as in Requests."""

    @staticmethod
    def of(runs: Sequence[_Runs], continues: Sequence[bool], firsts: NDArray[np.int64]) -> "_Share":
        """continues: whether a row group begins with rows of the request before; firsts: first row of each row group."""
        lengths = np.concatenate([np.zeros(0, np.uint32), *(r.lengths for r in runs)])
        begins = np.ones(len(lengths), np.bool_)
        begins[np.cumsum([0, *(len(r.keys) for r in runs)])[:-1][np.asarray(continues, np.bool_)]] = False
        at = np.flatnonzero(begins)
        lead = int(lengths[: at[0]].sum() if len(at) else lengths.sum())
        starts = (firsts[0] if len(firsts) else 0) + np.cumsum(lengths, dtype=np.int64) - lengths
        return _Share(
            sizes=np.add.reduceat(lengths, at, dtype=np.uint32) if len(at) else np.zeros(0, np.uint32),
            keys=np.concatenate([np.zeros(0, np.int64), *(r.keys for r in runs)])[at],
            absent=np.concatenate([np.zeros(0, np.bool_), *(r.absent for r in runs)])[at],
            starts=starts[at],
            lead=lead,
            counts=np.array([len(r.keys) - c for r, c in zip(runs, continues, strict=True)], np.int64),
            heads=np.array([int(r.lengths[0]) if c else 0 for r, c in zip(runs, continues, strict=True)], np.int64),
        )


def _runs(raw: RawRows, columns: Sequence[str]) -> _Runs:
    keys, absent = ColumnReader([raw]).request_keys(columns)
    at = _begins(keys, absent)
    return _Runs(keys[at], np.diff(at, append=len(keys)).astype(np.uint32), absent[at])


def _begins(keys: NDArray[np.int64], absent: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Where a key differs from the one before."""
    new = np.ones(len(keys), np.bool_)
    new[1:] = (keys[1:] != keys[:-1]) | absent[1:] | absent[:-1]
    return np.flatnonzero(new)


def _joined(pieces: Sequence[_Runs]) -> _Runs:
    """Runs of consecutive slices as those of one row group."""
    if len(pieces) == 1:
        return pieces[0]
    keys, lengths, absent = (np.concatenate([getattr(p, name) for p in pieces]) for name in ("keys", "lengths", "absent"))
    at = _begins(keys, absent)
    return _Runs(keys[at], np.add.reduceat(lengths, at, dtype=np.uint32), absent[at])


def _coming_again(share: _Share, ranks: Ranks | None) -> tuple[int, int] | None:
    """First rows, among all rows of the split, of a request's first two parts; None if each request begins once. Each rank
    looks at the keys that a hash gives to it."""
    named = ~share.absent
    keys, starts = torch.from_numpy(share.keys[named]), torch.from_numpy(share.starts[named])
    if ranks is not None:
        keys, starts = rows_of_own_groups(keys, starts)
    order = np.argsort(keys.numpy(), kind="stable")  # the ranks' keys come in the order of their rows
    by_key, places = keys.numpy()[order], starts.numpy()[order]
    twice = np.flatnonzero(by_key[1:] == by_key[:-1])
    if not len(twice):
        return None
    first = twice[np.argmin(places[twice])]
    return int(places[first]), int(places[first + 1])


def _refuse(again: tuple[int, int] | None, files: DataFiles, firsts: NDArray[np.int64]) -> None:
    """Raises DataError for a request that comes again."""
    if again is None:
        return
    shown = []
    for place in again:
        number = int(np.searchsorted(firsts, place, "right")) - 1
        group = files.groups[number]
        row = place - int(firsts[number])
        raw = RawReader(files).read(RowGroup(group.file, group.group, 1, row))
        shown.append(f"row {row} of row group {group.group} of {raw.path}")
        request = ", ".join(f"{c} = {raw.table.column(c)[0].as_py()!r}" for c in files.request)
    raise DataError(
        f"data.request: the rows of request {request} do not follow each other: they begin at {shown[0]} and again at "
        f"{shown[1]}. Write a request's rows one after another into one file when the data is prepared, or name columns of "
        "which this is true in data.request."
    )


def _gathered(files: DataFiles, share: _Share, ranks: Ranks | None) -> Requests:
    """The requests of all ranks, on every rank."""
    leads = _of_all(ranks, (share.lead, len(share.sizes)))
    sizes, rank = share.sizes, 0 if ranks is None else ranks.rank
    if len(sizes):
        for lead, count in leads[rank + 1 :]:
            sizes[-1] += lead
            if count:
                break
    largest = max(_of_all(ranks, int(sizes.max(initial=0))))
    own = sizes.astype(np.min_scalar_type(largest))
    of_groups = _of_all(ranks, (share.counts, share.heads))
    counts, heads = (np.concatenate([part[i] for part in of_groups]) for i in (0, 1))
    bounds = np.cumsum([0, *(count for _, count in leads)]).tolist()
    whole = np.empty(bounds[-1], own.dtype)
    join_shares(whole, bounds, own, ranks)
    return Requests(files, whole, np.concatenate([[0], np.cumsum(counts)]), heads)


def _agreed(ranks: Ranks | None, action: Callable[[], Result]) -> Result:
    return action() if ranks is None else together(action)


def _of_all(ranks: Ranks | None, own: Result) -> list[Result]:
    """The value of each rank."""
    if ranks is None:
        return [own]
    values = [own] * ranks.world_size
    dist.all_gather_object(values, own)
    return values
