"""What all tasks of a preparation know: the description, where columns are, how the log is cut.

Rows go to partitions by a hash of their user. A partition is a range of hashes, so that concatenated partitions give the same
order of rows however many there are. It is also a range of CELLS: floating-point sums are taken per cell and added up in the
cells' order, so that they do not depend on the number of partitions either.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from home_dist.ids.arrow_types import is_text
from home_dist.ids.hashing import Hashes, hash_integers, mix
from home_dist.ids.keys import missing
from home_dist.ids.rows import hash_keys
from home_dist.prepare.asof import Ints
from home_dist.prepare.generic.columns import Types
from home_dist.prepare.generic.log_spec import LogSpec
from home_dist.prepare.local_clock import Clock, LocalClock

CELL_BITS = 12
CELLS = 1 << CELL_BITS
"""The most partitions."""
FILE_BITS = 40
"""Low bits of a row's number: its place in its file. The file's index is in the bits above."""
_GROUP_BITS = 62


@dataclass(frozen=True)
class Plan:
    spec: LogSpec
    log_types: dict[str, pa.DataType]
    """Types of the used columns of the log itself."""
    types: dict[str, pa.DataType]
    """Types of all columns, side tables included."""
    sides: tuple[tuple[Path, str], ...]
    """Written side tables, and their keys."""
    parts: int
    first_ms: int | None = None
    """Rows before this moment are left out: an earlier preparation has read them."""
    until_ms: int | None = None
    """Rows from this moment on are left out: a later preparation will read them."""
    hold_out: float = 0.0
    """Share of users, chosen anew for each day, whose rows of that day go from the training part to the validation part."""
    keep: tuple[str, ...] = ()
    """Columns that go through unchanged."""
    piece_rows: int = 1 << 62
    """Most events of a partition of keys that are counted in one piece."""
    clock: Clock = LocalClock()  # noqa: RUF009 - it is frozen
    own_parts: bool = False
    """Whether each row's part is told by the description's split, not by its day."""

    @property
    def known(self) -> Types:
        return Types(self.spec.log, self.types)

    @property
    def rates(self) -> tuple[str, ...]:
        """Labels whose rates some [[past]] asks for."""
        asked = {r for p in self.spec.past for r in p.rates}
        return tuple(x.name for x in self.spec.label if x.name in asked)

    @property
    def elsewhere(self) -> tuple[tuple[str, ...], ...]:
        """Key sets that users share. Their past is counted in partitions by key, not by user."""
        return tuple(dict.fromkeys(p.by for p in self.spec.past if self.spec.user not in p.by))

    @property
    def own(self) -> tuple[tuple[str, ...], ...]:
        """Key sets with the user in them. Their past is counted in the users' partitions."""
        return tuple(dict.fromkeys(p.by for p in self.spec.past if self.spec.user in p.by))

    @property
    def stored_keys(self) -> tuple[str, ...]:
        """Key columns in a user's partition beside the user: those of its own past, and those that nothing else there tells, by
        which repeated rows are told from others."""
        told = {s.column for s in self.spec.id if s.separator is None and not self.known.is_list(s.column)}
        own, elsewhere = ([c for by in keys for c in by] for keys in (self.own, self.elsewhere))
        columns = [*own, *(c for c in elsewhere if c not in told)]
        return tuple(dict.fromkeys(c for c in columns if c != self.spec.user))


def user_hashes(users: pa.Array, row: Ints, time: Ints) -> Hashes:
    """(n,) hashes by which rows are partitioned and ordered. A row without a user is hashed by its time and its place in its
    file, whichever files the log has beside it: such rows share no past."""
    alone = mix(hash_integers(time, 1) ^ (row & ((1 << FILE_BITS) - 1)).astype(np.uint64))
    return np.where(missing(users), alone, hash_keys(users, 0))


def cells_of(hashes: Hashes) -> Ints:
    return (hashes >> np.uint64(64 - CELL_BITS)).astype(np.int64)


def parts_of_users(hashes: Hashes, parts: int) -> Ints:
    return cells_of(hashes) * parts // CELLS


def key_hashes(columns: Sequence[pa.Array]) -> Hashes:
    """(n,) a hash of each combination of keys (n,)."""
    combined = np.zeros(len(columns[0]), np.uint64)
    for column in columns:
        combined = mix(combined ^ hash_keys(column, 0))
    return combined


def parts_of_keys(columns: Sequence[pa.Array], parts: int) -> Ints:
    return (key_hashes(columns) % np.uint64(parts)).astype(np.int64)


def groups(users: pa.Array) -> pa.Array:
    """(n,) int64 group ids of users: the user itself if a whole number, else its hash; null where missing."""
    if not is_text(users.type):
        return users
    hashed = (hash_keys(users, 0) >> np.uint64(64 - _GROUP_BITS)).astype(np.int64)
    return pa.array(hashed, mask=missing(users))


def moments(table: pa.Table) -> Ints:
    """(N,) times of rows or events, in ms since 1970."""
    return table.column("time").to_numpy()


def flags(table: pa.Table, name: str) -> NDArray[np.int8]:
    return table.column(name).to_numpy()
