"""Rows of the ids of a managed table, from the checkpoint; an export has them in managed/TABLE.parquet (hash, row).

An id without a row reads, as in training, the last row of the rank whose range of hashes contains its hash.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from home_dist.errors import DataError
from home_dist.export.source import Source
from home_dist.ids.rows import MANAGED_BITS, RowsOf

_STATE = "dense/managed._managed_collision_collection._managed_collision_modules.{table}.{name}"
_UNOWNED = b"rows_without_id"


def write_managed(source: Source, folder: Path) -> list[str]:
    """Writes managed/TABLE.parquet for each managed table. Returns the tables' names."""
    tables = sorted(t.name for t in source.layout.tables if t.managed)
    for table in tables:
        ids, rows = (
            source.stored.whole(_STATE.format(table=table, name=n)).numpy()
            for n in ("_mch_sorted_raw_ids", "_mch_remapped_ids_mapping")
        )
        owned = ids < 2**MANAGED_BITS  # larger values mark rows without an id
        shards = sorted(source.record.plan[table].shards, key=lambda s: s.rank)
        last = ",".join(str(sum(s.rows) - 1) for s in shards)
        written = pa.table({"hash": ids[owned], "row": rows[owned]}).replace_schema_metadata({_UNOWNED: last.encode()})
        (folder / "managed").mkdir(exist_ok=True)
        pq.write_table(written.sort_by("hash"), folder / "managed" / f"{table}.parquet")
    return tables


class ManagedRows:
    def __init__(self, hashes_of: RowsOf, path: Path):
        """hashes_of: maps keys to hashes, as in training. Raises DataError."""
        self.type, self.hashes_of = hashes_of.type, hashes_of
        try:
            stored = pq.read_table(path)
            last = stored.schema.metadata[_UNOWNED].decode().split(",")
        except (pa.ArrowInvalid, OSError, KeyError, TypeError) as error:
            raise DataError(f"{path}: the rows of managed ids cannot be read ({error}). Export the program again.") from None
        self.hashes, self.rows = (np.asarray(stored[c]) for c in ("hash", "row"))
        self.starts = np.array([rank * 2**MANAGED_BITS // len(last) for rank in range(len(last))])
        self.last = np.array([int(row) for row in last])

    def __call__(self, values: pa.Array) -> NDArray[np.int64]:
        hashes = self.hashes_of(values)
        unowned = self.last[np.searchsorted(self.starts, hashes, side="right") - 1]
        if not len(self.hashes):
            return unowned
        at = np.minimum(np.searchsorted(self.hashes, hashes), len(self.hashes) - 1)
        return np.where(self.hashes[at] == hashes, self.rows[at], unowned)
