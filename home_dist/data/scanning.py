"""Reads some columns of a split before the first step: each rank a share of its row groups, by threads."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TypeVar

import torch
import torch.distributed as dist
from numpy.typing import NDArray

from home_dist.data.files import DataFiles
from home_dist.data.order import RowGroup, cut
from home_dist.data.raw_rows import RawReader, RawRows
from home_dist.distributed.ranks import Ranks

_MOST_ROWS = 1 << 22
"""Rows of a row group that are read at once."""
_REMOTE_THREADS = 16

Result = TypeVar("Result")


def scan(
    files: DataFiles, groups: Sequence[RowGroup], threads: int, of_group: Callable[[RowGroup, Iterator[RawRows]], Result]
) -> list[Result]:
    """of_group: called with each row group and its rows, piece by piece; its results in the order of `groups`. files: with
    the columns to read."""
    shared = RawReader(files)

    def scanned(group: RowGroup) -> Result:
        # The slices of a huge row group come from a reader that no other thread uses.
        raw = shared if group.rows <= _MOST_ROWS else RawReader(replace(files, groups=(group,)))
        return of_group(group, (raw.read(piece) for piece in cut([group], _MOST_ROWS, _MOST_ROWS)))

    with ThreadPoolExecutor(threads if files.store.local else max(threads, _REMOTE_THREADS)) as pool:
        return list(pool.map(scanned, groups))


def join_shares(whole: NDArray, bounds: Sequence[int], own: NDArray, ranks: Ranks | None) -> None:
    """Fills `whole`, of which rank r has bounds[r] .. bounds[r + 1] - 1, on every rank. Collective, unless `ranks` is None.
    own: this rank's part."""
    rank = 0 if ranks is None else ranks.rank
    for source in range(len(bounds) - 1):
        part = whole[bounds[source] : bounds[source + 1]]
        if source == rank:
            part[:] = own
        if ranks is not None and len(part):
            dist.broadcast(torch.from_numpy(part.view("u1")), source)
