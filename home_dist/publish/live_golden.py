"""Golden requests of a run that trains: the rows that they read are copied at a version's step on the ranks that hold them, and
the first rank computes the answers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch

from home_dist.config import RunConfig
from home_dist.config.stopping import averages_wanted
from home_dist.export.columns import batches_of
from home_dist.export.managed_rows import StoredRows, with_managed_rows
from home_dist.export.program_inputs import inputs_of
from home_dist.publish.few_rows import DenseWeights, FewRows
from home_dist.publish.golden import golden_rows, with_answers
from home_dist.publish.keys import Slots
from home_dist.publish.live_tables import LiveRows, Owners
from home_dist.schema import InputLayout, Schema
from home_dist.training.pipeline import TRACING
from home_dist.training.stored_tables import all_tables


@dataclass(frozen=True)
class Read:
    """What golden requests read of tables; the same on all ranks."""

    slots: dict[str, Slots]
    """By table that is not managed: (n,) ascending."""
    hashes: dict[str, Owners]
    """By managed table: (n,) ids, whose rows change."""


class LiveGolden:
    """Of the first rank."""

    def __init__(self, config: RunConfig, schema: Schema, layout: InputLayout, names: Sequence[str], count: int):
        """names: of the tensors of the network's head. Made before training, as it draws random numbers. Raises ConfigError."""
        self._data, self._layout, self._count = config.data, layout, count
        averaged = averages_wanted(config, None)
        dims = {t.name: t.dim for t in layout.tables}
        weights = DenseWeights("the run", config, schema, layout, averaged, dims, names, lambda _: torch.zeros(()))
        self._model = FewRows(weights, layout, lambda table, slots: torch.zeros(len(slots), dims[table]))
        self._requests: pa.Table | None = None

    def find(self) -> Read:
        """Takes requests from the run's data. Raises PublishError if none can be had."""
        requests, layout = golden_rows(self._layout, self._data, self._count), self._layout
        managed = {t.name for t in layout.tables if t.managed}
        with TRACING:
            slots = {t: s for t, s in self._model.slots(requests).items() if t not in managed}
        [inputs] = batches_of(requests, layout, len(requests))
        hashes = {table: np.zeros(0, np.int64) for table in managed}
        for name, value in inputs_of(layout).items():
            if value.item is not None and value.item.table.name in managed and value.kind in ("ids", "list"):
                table = value.item.table.name
                hashes[table] = np.union1d(hashes[table], inputs[name].numpy())
        self._requests = requests
        return Read(slots, hashes)

    def answered(self, head: Mapping[str, torch.Tensor], found: Sequence[LiveRows]) -> pa.Table | None:
        """Requests with answers; None before `find` has found some. head: tensors of the network's head that serve, by name;
        found: what all ranks have of what `find` gave. Raises DataError."""
        if self._requests is None:
            return None
        by_table: dict[str, list[LiveRows]] = {}
        for rows in found:
            by_table.setdefault(rows.table, []).append(rows)
        dims = {t.name: t.dim for t in self._layout.tables}

        def rows_at(table: str, slots: Slots) -> torch.Tensor:
            values = torch.zeros(len(slots), dims[table])
            for rows in by_table.get(table, ()):
                at = np.searchsorted(slots, rows.slots)
                here = np.flatnonzero(slots[np.minimum(at, len(slots) - 1)] == rows.slots) if len(slots) else at[:0]
                last = rows.first_column + rows.values.shape[1]
                values[torch.from_numpy(at[here]), rows.first_column : last] = rows.values[torch.from_numpy(here)].float()
            return values

        def stored(table: str) -> StoredRows:
            parts = [(r.slots, r.owners) for r in by_table.get(table, ()) if r.owners is not None]
            slots, owners = (
                np.concatenate([np.zeros(0, np.int64), *x]) for x in (zip(*parts, strict=True) if parts else ((), ()))
            )
            owned = np.flatnonzero(owners >= 0)
            return StoredRows.of(all_tables(self._layout)[table].rows, owners[owned], slots[owned])

        self._model.rows_at, self._model.layout = rows_at, with_managed_rows(self._layout, stored)
        self._model.refill(head)
        with TRACING:
            return with_answers(self._requests, self._model.predict(self._requests))
