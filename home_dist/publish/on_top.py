"""A newer version on top of one that is open: deltas alone are read, and tables are shared, so that taking a version costs what
has changed, in time and memory.

Changed rows lie over the shared rows until the older versions are gone; `settle` then writes them into the shared rows. A
look-up meanwhile gets the same values from either place.
"""

import weakref
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import nn

from home_dist.export.managed_rows import ManagedRows, StoredRows, with_managed_rows
from home_dist.export.scorer import Scorer
from home_dist.publish.codec import decode
from home_dist.publish.few_rows import DenseWeights
from home_dist.publish.folder import VersionsFolder
from home_dist.publish.manifest import RowsChunk
from home_dist.publish.reading import chain_of, copies, read_dense, read_rows
from home_dist.publish.rows_file import Parts
from home_dist.publish.scoring import VersionModel
from home_dist.training.stored_tables import all_tables, replicated_tables, replicated_weight

Slots = NDArray[np.int64]


@dataclass(frozen=True)
class Shared:
    """Rows (rows, dim) of a table that versions share."""

    values: torch.Tensor
    users: "weakref.WeakSet[nn.Module]"
    """Tables of versions that still answer."""


class SharedTable(nn.Module):
    """A table of a version: the shared rows, and over them rows (n, dim) of slots (n,), ascending."""

    def __init__(self, shared: Shared, slots: torch.Tensor, rows: torch.Tensor):
        super().__init__()
        self.shared, self.over = shared, (slots, rows)
        shared.users.add(self)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """ids: (n,) -> (n, dim) float32."""
        slots, rows = self.over  # before the shared rows are read: `settle` writes these first
        found = nn.functional.embedding(ids, self.shared.values)
        if not len(slots):
            return found
        at = torch.searchsorted(slots, ids).clamp(max=len(slots) - 1)
        changed = (slots.index_select(0, at) == ids).nonzero().squeeze(1)
        return found.index_copy(0, changed, rows.index_select(0, at.index_select(0, changed)))

    def settle(self) -> bool:
        """Writes what lies over the shared rows into them, if no other version uses them. Whether it did."""
        if len(self.shared.users) > 1:
            return False
        slots, rows = self.over
        self.shared.values.index_copy_(0, slots, rows)
        self.over = slots[:0], rows[:0]
        return True


def open_on_top(model: VersionModel, place: str, version: str | None = None) -> VersionModel | None:
    """A version, by default the current one, on top of `model`, one of the versions that it builds on; None if it does not.
    Raises PublishError, which names the file and what is wrong with it; StoreError, ConfigError."""
    folder = VersionsFolder(place)
    chain = chain_of(folder, version)
    if model.manifest not in chain[:-1]:
        return None
    deltas, newest = chain[chain.index(model.manifest) + 1 :], chain[-1]
    old, layout = cast(Scorer, model.program.run), model.program.layout
    stored = {i.table.name: i.rows_of.stored for i in layout.inputs if isinstance(i.rows_of, ManagedRows)}
    changes = {name: _Changes(table.dim, stored.get(name)) for name, table in newest.tables.items()}
    with copies() as to:
        for manifest in deltas:
            read_rows(folder, manifest, changes, to)
        dense = read_dense(folder, newest, to)
    head = _replicated(old, changes) | {name.removeprefix("head."): values for name, values in dense.items()}
    dims = {name: table.dim for name, table in newest.tables.items()}
    run = model.program.trained
    weights = folder.shown(newest.version), run.config, run.schema, old.layout, False, dims, head.keys(), head.__getitem__
    scorer = Scorer(DenseWeights(*weights))
    scorer.tables = nn.ModuleDict({name: changes[name].over(table) for name, table in old.tables.items()})
    layout = with_managed_rows(layout, lambda name: changes[name].stored())
    about = {**model.program.about, "predictions": newest.predictions, "step": str(newest.step)}
    program = replace(model.program, run=scorer, layout=layout, about=about)
    return replace(model, program=program, step=newest.step, manifest=newest)


def settle(model: VersionModel) -> bool:
    """Writes changed rows into the shared ones where no older version uses them any more. Whether that is so of all tables."""
    tables = cast(Scorer, model.program.run).tables.values()
    settled = [table.settle() for table in tables if isinstance(table, SharedTable)]
    return all(settled)


class _Changes:
    """Rows of a table in deltas, the later ones last, and who owns rows of a managed one."""

    def __init__(self, dim: int, stored: StoredRows | None):
        self.dim = dim
        self._chunks = list[tuple[torch.Tensor, int, torch.Tensor]]()
        self._owners = _Owners(stored) if stored is not None else None

    def add(self, chunk: RowsChunk, parts: Parts) -> None:
        slots, ids, values, scales = parts
        if self._owners is not None:
            self._owners.add(chunk, slots, ids)
        if chunk.kind in ("rows", "values"):
            taken = np.array(slots), np.array(decode(values, scales))  # their file will be gone
            self._chunks.append((torch.from_numpy(taken[0]), chunk.first_column, torch.from_numpy(taken[1])))

    def over(self, before: nn.Module) -> SharedTable:
        """The table with these changes. before: the table of the version that they build on."""
        if isinstance(before, SharedTable):
            return SharedTable(before.shared, *self._rows(before, before.over[0]))
        shared = Shared(cast(torch.Tensor, before.values), weakref.WeakSet([before]))
        return SharedTable(shared, *self._rows(before, torch.zeros(0, dtype=torch.int64)))

    def write(self, rows: torch.Tensor) -> None:
        """Changes all rows (rows, dim) of the table in place."""
        for slots, first, values in self._chunks:
            rows[slots, first : first + values.shape[1]] = values

    def _rows(self, before: nn.Module, over: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(slots (n,), rows (n, dim)) of changes, and of the slots `over`."""
        slots = torch.cat([over, *(changed for changed, _, _ in self._chunks)]).unique()
        rows: torch.Tensor = before(slots).clone()
        for changed, first, values in self._chunks:
            rows[torch.searchsorted(slots, changed), first : first + values.shape[1]] = values
        return slots, rows

    def stored(self) -> StoredRows:
        """Of a managed table."""
        return cast(_Owners, self._owners).stored()


class _Owners:
    """Ids that own rows of a managed table, as deltas change them."""

    def __init__(self, before: StoredRows):
        self._before = before
        # Zeros take memory where they are written alone. 0: as before; 1: nobody's; h + 2: that of the hash h.
        self._now = np.zeros(before.table_rows, np.int64)
        self._changed: list[Slots] = []

    def add(self, chunk: RowsChunk, slots: Slots, ids: pa.Array | None) -> None:
        hashes = None if ids is None else np.asarray(ids, dtype=np.int64)
        if chunk.kind == "evicted" and hashes is not None:
            now = self._now[slots]
            slots = slots[np.where(now == 0, self._owned_before(hashes, slots), now == hashes + 2)]
            self._now[slots] = 1
        elif chunk.kind == "rows":
            self._now[slots] = 1 if hashes is None else hashes + 2
        self._changed.append(np.array(slots))

    def _owned_before(self, hashes: Slots, slots: Slots) -> NDArray[np.bool_]:
        known, rows = self._before.hashes, self._before.rows
        if not len(known):
            return np.zeros(len(slots), np.bool_)
        at = np.minimum(np.searchsorted(known, hashes), len(known) - 1)
        return (known[at] == hashes) & (rows[at] == slots)

    def stored(self) -> StoredRows:
        changed = np.unique(np.concatenate([np.zeros(0, np.int64), *self._changed]))
        kept = self._now[self._before.rows] == 0
        owned = changed[self._now[changed] > 1]
        hashes = np.concatenate([self._before.hashes[kept], self._now[owned] - 2])
        rows = np.concatenate([self._before.rows[kept], owned])
        return StoredRows.of(self._before.table_rows, hashes, rows)


def _replicated(old: Scorer, changes: dict[str, _Changes]) -> dict[str, torch.Tensor]:
    """The head's weights that hold replicated tables, by name in the head."""
    places, now = replicated_tables(old.layout), old.head.state_dict()
    names = {key: replicated_weight(key).removeprefix("head.") for key in places.weights}
    weights = {key: now[name].clone() for key, name in names.items()}
    for table in all_tables(old.layout).values():
        if table.replicated:
            key, first = places.place(table.name)
            changes[table.name].write(weights[key][first : first + table.rows])
    return {names[key]: weight for key, weight in weights.items()}
