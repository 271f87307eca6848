"""Rows of the ids of a managed table, from the checkpoint; an export has them in managed/TABLE.parquet (hash, row).

An id without a row of its own reads, as in training, the first row of its set (ids/managed_sets.py).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from home_dist.errors import DataError
from home_dist.export.source import Source
from home_dist.ids.managed_sets import ManagedSets
from home_dist.ids.rows import RowsOf
from home_dist.schema import IdInput, InputLayout, Table

_STATE = "dense/managed._managed_collision_collection._managed_collision_modules.{table}.{name}"
_ROWS = b"rows_of_the_table"


def write_managed(source: Source, folder: Path) -> list[str]:
    """Writes managed/TABLE.parquet for each managed table. Returns the tables' names."""
    tables = sorted((t for t in source.layout.tables if t.managed), key=lambda t: t.name)
    for table in tables:
        stored = stored_rows(source, table)
        about = {_ROWS: str(stored.table_rows).encode()}
        written = pa.table({"hash": stored.hashes, "row": stored.rows}).replace_schema_metadata(about)
        (folder / "managed").mkdir(exist_ok=True)
        pq.write_table(written, folder / "managed" / f"{table.name}.parquet")
    return [t.name for t in tables]


@dataclass(frozen=True)
class StoredRows:
    """Ids that have a row of their own."""

    table_rows: int
    """Rows of the table, with or without an id."""
    hashes: NDArray[np.int64]
    """(ids,) in order."""
    rows: NDArray[np.int64]
    """(ids,)"""

    @staticmethod
    def of(table_rows: int, hashes: NDArray[np.int64], rows: NDArray[np.int64]) -> "StoredRows":
        """hashes, rows: (ids,) in any order."""
        order = np.argsort(hashes, kind="stable")
        return StoredRows(table_rows, hashes[order], rows[order])


def stored_rows(source: Source, table: Table) -> StoredRows:
    """Of a managed table, from the checkpoint."""
    owners, seen, step = (
        source.stored.whole(_STATE.format(table=table.name, name=n)).numpy()
        for n in ("owners.id", "owners.seen", "_current_iter_tensor")
    )
    rows = np.flatnonzero((owners >= 0) & (table.max_age is None or step[0] - seen <= (table.max_age or 0)))
    return StoredRows.of(len(owners), owners[rows], rows)


def read_managed(path: Path) -> StoredRows:
    """As `write_managed` wrote them. Raises DataError."""
    try:
        stored = pq.read_table(path)
        return StoredRows(int(stored.schema.metadata[_ROWS]), *(np.asarray(stored[c]) for c in ("hash", "row")))
    except (pa.ArrowInvalid, OSError, KeyError, TypeError) as error:
        raise DataError(f"{path}: the rows of managed ids cannot be read ({error}). Export the program again.") from None


class ManagedRows:
    def __init__(self, hashes_of: RowsOf, stored: StoredRows):
        """hashes_of: maps keys to hashes, as in training."""
        self.type, self.hashes_of, self.stored = hashes_of.type, hashes_of, stored
        self.sets = ManagedSets.of(stored.table_rows)

    def __call__(self, values: pa.Array) -> NDArray[np.int64]:
        hashes, known = self.hashes_of(values), self.stored.hashes
        shared = hashes // self.sets.quotient * self.sets.width
        if not len(known):
            return shared
        at = np.minimum(np.searchsorted(known, hashes), len(known) - 1)
        return np.where(known[at] == hashes, self.stored.rows[at], shared)


def with_managed_rows(layout: InputLayout, stored: Callable[[str], StoredRows]) -> InputLayout:
    """The layout whose managed tables' keys become rows. layout: whose keys become hashes, or other rows of such tables;
    stored: by the table's name."""
    hashes_of = {i.table.name: i.rows_of for i in layout.inputs if i.rows_of is not None and i.table.managed}
    managed = {
        table: ManagedRows(rows_of.hashes_of if isinstance(rows_of, ManagedRows) else rows_of, stored(table))
        for table, rows_of in hashes_of.items()
    }

    def with_rows(item: IdInput) -> IdInput:
        return replace(item, rows_of=managed.get(item.table.name, item.rows_of))

    return layout.of_each_input(with_rows)
