"""Keeps a share of the rows that have no positive label, the same ones in every epoch: a hash of the row chooses them.

Which rows have one is known only to the label columns. They are read once before the first step, each rank a share of the row
groups, so that the number of an epoch's steps is known and all ranks make the same number. Every rank then holds one bit per
row: 125 MB for 10^9 rows.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from home_dist.data.arrow_arrays import joined_floats
from home_dist.data.column_reader import ColumnReader
from home_dist.data.files import DataFiles, Uses
from home_dist.data.order import RowGroup
from home_dist.data.raw_rows import RawRows
from home_dist.data.sampling import Sampler
from home_dist.data.scanning import join_shares, scan
from home_dist.distributed.ranks import Ranks, together
from home_dist.errors import DataError
from home_dist.ids.hashing import mix
from home_dist.schema import TaskSpec


@dataclass(frozen=True, eq=False)
class Kept:
    """The rows of a split that are kept, as bits. first: (row groups + 1,) each row group's first byte."""

    files: DataFiles
    told: str
    """What they depend on beside the files, as text."""
    bits: NDArray[np.uint8]
    first: NDArray[np.int64]

    def of(self, number: int) -> NDArray[np.bool_]:
        """(rows,) of the row group at this place of `files.groups`."""
        part = self.bits[self.first[number] : self.first[number + 1]]
        return np.unpackbits(part, count=self.files.groups[number].rows).astype(bool)


class NegativeSampler(Sampler):
    """Reads the rows that are kept."""

    def __init__(self, kept: Kept):
        super().__init__(kept.files, {}, 0)
        self.rates, self.kept = [0.0] * len(kept.files.names), kept
        self._number = {(g.file, g.group): number for number, g in enumerate(kept.files.groups)}

    def refuse_none(self, any_kept: bool) -> None:
        if not any_kept:
            raise DataError("data.negatives leaves no row of the training files: none has a positive label. Raise `keep`.")

    def fingerprint(self) -> str:
        return hashlib.sha256(repr((self.files.fingerprint(), self.kept.told)).encode()).hexdigest()[:16]

    def _of_group(self, file: int, group: int) -> NDArray[np.int64]:
        return np.flatnonzero(self.kept.of(self._number[file, group]))

    def _count(self, file: int, group: int, size: int) -> int:
        return int(self.kept.of(self._number[file, group]).sum())


def find_kept(
    files: DataFiles, keep: float, tasks: Sequence[TaskSpec], seed: int, ranks: Ranks | None = None, threads: int = 1
) -> Kept:
    """Reads the label columns of `tasks`. Collective, unless `ranks` is None. keep: share of rows without a positive label."""
    columns: Uses = {c: ("number",) for t in tasks for c in (t.column, t.weight_column) if c is not None}
    only = replace(files, columns=columns, dictionaries=())
    first = np.cumsum([0, *(-(-g.rows // 8) for g in files.groups)])
    rank, world = (0, 1) if ranks is None else (ranks.rank, ranks.world_size)
    shares = np.searchsorted(first[1:], first[-1] * np.arange(world + 1) // world)
    shares[-1] = len(files.groups)

    def bits_of(group: RowGroup, pieces: Iterator[RawRows]) -> NDArray[np.uint8]:
        return np.packbits(_kept(files.names[group.file], group, pieces, keep, tasks, seed))

    def of_share() -> NDArray[np.uint8]:
        return np.concatenate(
            [np.zeros(0, np.uint8), *scan(only, files.groups[shares[rank] : shares[rank + 1]], threads, bits_of)]
        )

    own = of_share() if ranks is None else together(of_share)
    bits = np.empty(int(first[-1]), np.uint8)
    join_shares(bits, first[shares].tolist(), own, ranks)
    return Kept(files, repr((keep, [t.name for t in tasks], seed)), bits, first)


def positive(labels: Sequence[NDArray], weights: Sequence[NDArray | None]) -> NDArray[np.bool_]:
    """(rows,): rows with a known positive label of one of the tasks."""
    found = np.zeros(len(labels[0]), np.bool_)
    for label, weight in zip(labels, weights, strict=True):
        found |= (label == 1) if weight is None else (label == 1) & (weight != 0)
    return found


def _kept(
    file: str, group: RowGroup, pieces: Iterator[RawRows], keep: float, tasks: Sequence[TaskSpec], seed: int
) -> NDArray[np.bool_]:
    """(rows,) of a row group. file: its name."""
    parts = []
    for piece in pieces:
        columns = ColumnReader([piece])
        labels = [joined_floats(columns.chunks(t.column), np.float32) for t in tasks]
        # A weight that is none is no reason to leave a row out: whoever reads the row refuses or skips it.
        weights = [
            None if t.weight_column is None else joined_floats(columns.chunks(t.weight_column), np.float32) for t in tasks
        ]
        parts.append(positive(labels, weights))
    name = hashlib.sha256(file.encode()).digest()[:8]
    of_group = mix(mix(np.array([int.from_bytes(name, "little") ^ group.group], np.uint64)) ^ np.uint64(seed))
    chance = mix(np.arange(group.rows, dtype=np.uint64) ^ of_group)
    return np.concatenate(parts) | (chance < np.uint64(min(keep * 2.0**64, 2.0**64 - 2048)))
