"""Rows of the ids of a managed table, from the checkpoint; an export has them in managed/TABLE.parquet (hash, row).

An id without a row of its own reads, as in training, the first row of its set (ids/managed_sets.py).
"""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from home_dist.errors import DataError
from home_dist.export.source import Source
from home_dist.ids.managed_sets import ManagedSets
from home_dist.ids.rows import RowsOf

_STATE = "dense/managed._managed_collision_collection._managed_collision_modules.{table}.{name}"
_ROWS = b"rows_of_the_table"


def write_managed(source: Source, folder: Path) -> list[str]:
    """Writes managed/TABLE.parquet for each managed table. Returns the tables' names."""
    tables = sorted((t for t in source.layout.tables if t.managed), key=lambda t: t.name)
    for table in tables:
        owners, seen, step = (
            source.stored.whole(_STATE.format(table=table.name, name=n)).numpy()
            for n in ("owners.id", "owners.seen", "_current_iter_tensor")
        )
        rows = np.flatnonzero((owners >= 0) & (table.max_age is None or step[0] - seen <= (table.max_age or 0)))
        about = {_ROWS: str(len(owners)).encode()}
        written = pa.table({"hash": owners[rows], "row": rows}).replace_schema_metadata(about)
        (folder / "managed").mkdir(exist_ok=True)
        pq.write_table(written.sort_by("hash"), folder / "managed" / f"{table.name}.parquet")
    return [t.name for t in tables]


class ManagedRows:
    def __init__(self, hashes_of: RowsOf, path: Path):
        """hashes_of: maps keys to hashes, as in training. Raises DataError."""
        self.type, self.hashes_of = hashes_of.type, hashes_of
        try:
            stored = pq.read_table(path)
            self.sets = ManagedSets.of(int(stored.schema.metadata[_ROWS]))
        except (pa.ArrowInvalid, OSError, KeyError, TypeError) as error:
            raise DataError(f"{path}: the rows of managed ids cannot be read ({error}). Export the program again.") from None
        self.hashes, self.rows = (np.asarray(stored[c]) for c in ("hash", "row"))

    def __call__(self, values: pa.Array) -> NDArray[np.int64]:
        hashes = self.hashes_of(values)
        shared = hashes // self.sets.quotient * self.sets.width
        if not len(self.hashes):
            return shared
        at = np.minimum(np.searchsorted(self.hashes, hashes), len(self.hashes) - 1)
        return np.where(self.hashes[at] == hashes, self.rows[at], shared)
