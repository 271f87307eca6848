"""One rank's tables while it trains: all rows, to be read beside training, and copies of the rows that training has touched.

`sweep` reads rows while training changes them, so that a row may be half of one step and half of another. Whoever sweeps calls
`restart` before it, and `changed` after it, between two steps: all rows that were changed meanwhile are in the latter.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torchrec.distributed import DistributedModelParallel

from home_dist.embeddings.managed import ShardedManaged
from home_dist.embeddings.managed_ids import ManagedIds
from home_dist.embeddings.touched import Part, TouchedRows
from home_dist.ids.managed_sets import ManagedSets
from home_dist.publish.keys import Slots, shared_or_owned
from home_dist.training.checkpoint.contents import weight_pieces
from home_dist.training.checkpoint.pieces import Piece

_BLOCK_BYTES = 16 << 20
_TABLES, _MANAGED = "tables/", "dense/managed."
Owners = NDArray[np.int64]
"""(rows,) the hash that owns each row of a part of a managed table; -1 for none."""


@dataclass(frozen=True)
class LiveRows:
    """Rows of a table, copied at one step."""

    table: str
    slots: Slots
    """(n,) ascending"""
    values: torch.Tensor
    """(n, columns)"""
    first_column: int = 0
    owners: Owners | None = None
    """(n,) of a managed table."""
    lost: tuple[Slots, Owners] | None = None
    """Rows that ids of the version before no longer have, and these ids."""

    @property
    def ids(self) -> pa.Array | None:
        """(n,) of a managed table, null for a row without one."""
        return None if self.owners is None else pa.array(self.owners, mask=self.owners < 0)


@dataclass(frozen=True)
class Changes:
    """Of one rank, at one step."""

    rows: list[LiveRows]
    dense: list[Piece]
    """What this rank tells of parameters and statistics that are no table's; small tables that each rank holds are among
    them."""
    marked: dict[Part, torch.Tensor]


class LiveTables:
    def __init__(self, model: DistributedModelParallel):
        self._model, self._touched = model, TouchedRows(model)
        self._ids = {name: ids for module in model.modules() for name, ids in _managed_of(module)}
        self._published: dict[str, Owners] = {}
        """Of this rank's part of each managed table, as versions tell."""
        self._to_sweep: list[Piece] = []

    def restart(self) -> None:
        """Forgets what was touched. Between two steps."""
        for part in self._touched.marks:
            self._touched.take(part)
        self._published = {name: _owners(ids).copy() for name, ids in self._ids.items()}
        self._to_sweep = [p for p in self._tables() if _part(p) in self._touched.marks]

    def sweep(self) -> Iterator[LiveRows]:
        """All rows of sharded tables on this rank, in blocks; beside training, after `restart`."""
        for piece in self._to_sweep:
            table, (first, column) = _table(piece), piece.offsets
            owners = self._published.get(table)
            step = max(1, _BLOCK_BYTES // max(1, piece.values[:1].nbytes))
            for start in range(0, len(piece.values), step):
                part = slice(start, min(start + step, len(piece.values)))
                slots = np.arange(first + part.start, first + part.stop)
                values = piece.values[part].detach().to("cpu", copy=True)
                yield self._read(table, LiveRows(table, slots, values, column, None if owners is None else owners[part]))

    def changed(self) -> Changes:
        """What was touched since `restart` or the last call, and all that each rank holds whole. Between two steps."""
        marked = {part: self._touched.take(part) for part in self._touched.marks}
        rows, dense = [], []
        for piece in weight_pieces(self._model):
            if not piece.name.startswith(_TABLES):
                if not piece.name.startswith(_MANAGED):
                    dense.append(_copy(piece))
            elif _part(piece) in marked:
                rows.append(self._changed(piece, marked[_part(piece)]))
            else:  # a data-parallel table, of which one rank tells
                rows.append(LiveRows(_table(piece), np.arange(piece.offsets[0], piece.shape[0]), _copy(piece).values))
        return Changes(rows, dense, marked)

    def published(self, changes: Changes) -> None:
        """The changes are in a version."""
        for rows in changes.rows:
            ids = self._ids.get(rows.table)
            if ids is not None:
                known = self._published[rows.table]
                if rows.lost is not None:
                    known[rows.lost[0] - ids.first_row] = -1
                if rows.owners is not None:
                    known[rows.slots - ids.first_row] = rows.owners

    def give_back(self, changes: Changes) -> None:
        """The changes are in no version: they will be among the next ones."""
        for part, rows in changes.marked.items():
            self._touched.give_back(part, rows)

    def at(self, slots: dict[str, Slots], hashes: dict[str, Owners]) -> list[LiveRows]:
        """Those of some rows that this rank has. slots: by table; hashes: of managed tables, whose rows, or their sets' first
        rows, are wanted. Between two steps."""
        found = []
        for piece in self._tables():
            table, first = _table(piece), piece.offsets[0]
            wanted = slots.get(table, np.zeros(0, np.int64))
            if table in self._ids:
                wanted = self._rows_of(self._ids[table], hashes.get(table, np.zeros(0, np.int64)))
            wanted = wanted[(wanted >= first) & (wanted < first + len(piece.values))]
            values = piece.values[torch.from_numpy(wanted - first).to(piece.values.device)].detach().cpu()
            owners = _owners(self._ids[table], wanted - first) if table in self._ids else None
            found.append(LiveRows(table, wanted, values, piece.offsets[1], owners))
        return found

    def close(self) -> None:
        self._touched.close()

    def _tables(self) -> Iterator[Piece]:
        return (piece for piece in weight_pieces(self._model) if piece.name.startswith(_TABLES))

    def _changed(self, piece: Piece, marked: torch.Tensor) -> LiveRows:
        table, (first, column) = _table(piece), piece.offsets
        local = marked.cpu().numpy()
        local = local[local < len(piece.values)]  # rows that pad a managed table are never read
        ids, lost = self._ids.get(table), None
        owners: Owners | None = None
        if ids is not None:
            now, known = _owners(ids), self._published[table]
            if ids.max_age is not None:  # ids lose rows by age, untouched
                local = np.union1d(local, np.flatnonzero(now != known[: len(now)]))
            owners = now[local]
            before = known[local]
            gone = (before >= 0) & (before != owners)
            lost = first + local[gone], before[gone]
        values = piece.values[torch.from_numpy(local).to(piece.values.device)].detach().cpu()
        return self._read(table, LiveRows(table, first + local, values, column, owners, lost))

    def _read(self, table: str, rows: LiveRows) -> LiveRows:
        """Without rows of a managed table that no id reads."""
        if rows.owners is None or rows.ids is None:
            return rows
        read = shared_or_owned(rows.slots, rows.ids, self._ids[table].sets.width)
        values = rows.values[torch.from_numpy(read)]
        return LiveRows(table, rows.slots[read], values, rows.first_column, rows.owners[read], rows.lost)

    def _rows_of(self, ids: ManagedIds, hashes: Owners) -> Slots:
        """Rows here that these hashes own or share."""
        sets: ManagedSets = ids.sets
        firsts = np.unique(hashes // sets.quotient * sets.width)
        firsts = firsts[(firsts >= ids.first_row) & (firsts < ids.first_row + len(ids.owners.id))]
        rows = (firsts[:, None] + np.arange(sets.width)).ravel()
        owned = np.isin(_owners(ids, rows - ids.first_row), hashes)
        return np.union1d(firsts, rows[owned])


def _managed_of(module: torch.nn.Module) -> Iterator[tuple[str, ManagedIds]]:
    if isinstance(module, ShardedManaged):
        for name, ids in module._managed_collision_collection._managed_collision_modules.items():
            if isinstance(ids, ManagedIds):
                yield name, ids


def _owners(ids: ManagedIds, rows: Slots | slice = slice(None)) -> Owners:
    """(n,) of this rank's rows of a managed table; an id that was not seen for `max_age` steps owns none."""
    owners: Owners = ids.owners.id.cpu().numpy()[rows]
    if ids.max_age is None:
        return owners
    age = int(ids._current_iter_tensor) - ids.owners.seen.cpu().numpy()[rows].astype(np.int64)
    return np.where(age <= ids.max_age, owners, -1)


def _table(piece: Piece) -> str:
    return piece.name.split("/")[1]


def _part(piece: Piece) -> Part:
    return _table(piece), piece.offsets[0]


def _copy(piece: Piece) -> Piece:
    return Piece(piece.name, piece.shape, piece.offsets, piece.values.detach().to("cpu", copy=True))
