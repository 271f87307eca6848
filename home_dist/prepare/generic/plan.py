"""What all tasks of a preparation know: the description, where columns are, how the log is cut.

Rows go to partitions by a hash of their user. A partition is a range of hashes, so that partitions one after another give the
same order of rows however many there are; and a range of CELLS, so that sums of floating-point numbers can be taken cell by
cell and added up in one order, too.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from home_dist.prepare.asof import Ints
from home_dist.prepare.generic.columns import Types, is_text, missing
from home_dist.prepare.generic.spec import LogSpec
from home_dist.schema.hashing import Hashes, hash_integers, hash_texts, mix

CELL_BITS = 12
CELLS = 1 << CELL_BITS
"""The most partitions."""
HOUR_MS = 3_600_000
_GROUP_BITS = 62


@dataclass(frozen=True)
class Plan:
    spec: LogSpec
    log_types: dict[str, pa.DataType]
    """Columns of the log's own that are used."""
    types: dict[str, pa.DataType]
    """With those of the side tables."""
    sides: tuple[tuple[Path, str], ...]
    """Written side tables, and their keys."""
    parts: int

    @property
    def known(self) -> Types:
        return Types(self.spec.log, self.types)

    @property
    def local_ms(self) -> int:
        """How far timestamps without a zone are ahead of UTC."""
        return int(self.spec.utc_offset_hours * HOUR_MS) if self.spec.times_without_zone == "local" else 0

    @property
    def rates(self) -> tuple[str, ...]:
        """Labels whose rates are asked for."""
        asked = {r for p in self.spec.past for r in p.rates}
        return tuple(x.name for x in self.spec.label if x.name in asked)

    @property
    def elsewhere(self) -> tuple[tuple[str, ...], ...]:
        """Sets of keys that users share: what was known of them is counted in partitions of their own."""
        return tuple(dict.fromkeys(p.by for p in self.spec.past if self.spec.user not in p.by))

    @property
    def stored_keys(self) -> tuple[str, ...]:
        """Columns of one key per row that a user's partition needs beside [[id]]s and the user."""
        own = [c for p in self.spec.past if self.spec.user in p.by for c in p.by]
        return tuple(dict.fromkeys(c for c in own if c != self.spec.user))


def hashes(keys: pa.Array) -> Hashes:
    return hash_texts(keys, 0) if is_text(keys.type) else hash_integers(np.asarray(keys), 0)


def user_hashes(users: pa.Array, row: Ints) -> Hashes:
    """(n,) by which rows are dealt and ordered. Rows without a user have nothing in common, so that their numbers deal them."""
    return np.where(missing(users), hash_integers(row, 1), hashes(users))


def cells_of(found: Hashes) -> Ints:
    return (found >> np.uint64(64 - CELL_BITS)).astype(np.int64)


def parts_of_users(found: Hashes, parts: int) -> Ints:
    return cells_of(found) * parts // CELLS


def parts_of_keys(columns: list[pa.Array], parts: int) -> Ints:
    together = np.zeros(len(columns[0]), np.uint64)
    for column in columns:
        together = mix(together ^ hashes(column))
    return (together % np.uint64(parts)).astype(np.int64)


def groups(users: pa.Array) -> Ints:
    """(n,) whole numbers that stand for users: themselves if they are some, else their hashes; -1 where missing."""
    if not is_text(users.type):
        return np.asarray(users)
    found = (hashes(users) >> np.uint64(64 - _GROUP_BITS)).astype(np.int64)
    return np.where(missing(users), -1, found)


def counted(values: pa.Array) -> pa.Table:
    """Columns value and count."""
    found = pc.value_counts(values)
    return pa.table({"value": found.field("values"), "count": found.field("counts").cast(pa.int64())})


def merge_counts(parts: list[pa.Table], kind: pa.DataType) -> pa.Table:
    empty = pa.table({"value": pa.array([], kind), "count": pa.array([], pa.int64())})
    merged = pa.concat_tables([empty, *parts]).group_by("value").aggregate([("count", "sum")])
    return merged.rename_columns({"count_sum": "count"}).select(["value", "count"])


def flags(table: pa.Table, name: str) -> NDArray[np.int8]:
    return table.column(name).to_numpy()
