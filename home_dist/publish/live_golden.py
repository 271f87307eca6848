"""Golden requests of a run that trains: the rows that they read are copied at a version's step on the ranks that hold them, and
the first rank computes the answers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch

from home_dist.config import RunConfig
from home_dist.export.columns import batches_of
from home_dist.export.managed_rows import StoredRows, with_managed_rows
from home_dist.export.program_inputs import inputs_of
from home_dist.publish.few_rows import DenseWeights, FewRows
from home_dist.publish.golden import golden_rows, with_answers
from home_dist.publish.keys import Slots
from home_dist.publish.live_tables import LiveRows, Owners
from home_dist.schema import InputLayout, Schema
from home_dist.training.stored_tables import all_tables

_HEAD = "dense/head."


@dataclass(frozen=True)
class Read:
    """What golden requests read of tables; the same on all ranks."""

    slots: dict[str, Slots]
    """By table that is not managed: (n,) ascending."""
    hashes: dict[str, Owners]
    """By managed table: (n,) ids, whose rows change."""


@dataclass(frozen=True)
class LiveGolden:
    config: RunConfig
    schema: Schema
    layout: InputLayout
    requests: pa.Table
    read: Read

    @staticmethod
    def of(config: RunConfig, schema: Schema, layout: InputLayout, names: Sequence[str], count: int) -> "LiveGolden":
        """names: of the tensors of the network's head. Raises PublishError if no rows can be had."""
        requests = golden_rows(layout, config.data, count)
        zeros = {name.removeprefix("head."): torch.zeros(()) for name in names}
        noting = FewRows(_weights(config, schema, layout, zeros), layout, lambda *_: torch.zeros(0))
        managed = {t.name for t in layout.tables if t.managed}
        slots = {t: s for t, s in noting.slots(requests).items() if t not in managed}
        [inputs] = batches_of(requests, layout, len(requests))
        hashes = {table: np.zeros(0, np.int64) for table in managed}
        for name, value in inputs_of(layout).items():
            if value.item is not None and value.item.table.name in managed and value.kind in ("ids", "list"):
                table = value.item.table.name
                hashes[table] = np.union1d(hashes[table], inputs[name].numpy())
        return LiveGolden(config, schema, layout, requests, Read(slots, hashes))

    def answered(self, dense: Mapping[str, torch.Tensor], found: Sequence[LiveRows]) -> pa.Table:
        """Requests with answers. dense: all tensors that are no table's, as checkpoints name them; found: what all ranks have
        of `read`. Raises ConfigError, DataError."""
        tensors = {name.removeprefix(_HEAD): value for name, value in dense.items() if name.startswith(_HEAD)}
        by_table: dict[str, list[LiveRows]] = {}
        for rows in found:
            by_table.setdefault(rows.table, []).append(rows)
        dims = {t.name: t.dim for t in self.layout.tables}

        def rows_at(table: str, slots: Slots) -> torch.Tensor:
            values = torch.zeros(len(slots), dims[table])
            for rows in by_table.get(table, ()):
                at = np.searchsorted(slots, rows.slots)
                here = np.flatnonzero(slots[np.minimum(at, len(slots) - 1)] == rows.slots) if len(slots) else at[:0]
                last = rows.first_column + rows.values.shape[1]
                values[torch.from_numpy(at[here]), rows.first_column : last] = rows.values[torch.from_numpy(here)].float()
            return values

        tables = all_tables(self.layout)

        def stored(table: str) -> StoredRows:
            slots = np.concatenate([np.zeros(0, np.int64), *(r.slots for r in by_table.get(table, ()))])
            owners = np.concatenate(
                [np.zeros(0, np.int64), *(r.owners for r in by_table.get(table, ()) if r.owners is not None)]
            )
            owned = np.flatnonzero(owners >= 0)
            owned = owned[np.argsort(owners[owned], kind="stable")]
            return StoredRows(tables[table].rows, owners[owned], slots[owned])

        weights = _weights(self.config, self.schema, self.layout, tensors)
        return with_answers(
            self.requests, FewRows(weights, with_managed_rows(self.layout, stored), rows_at).predict(self.requests)
        )


def _weights(config: RunConfig, schema: Schema, layout: InputLayout, tensors: Mapping[str, torch.Tensor]) -> DenseWeights:
    averaged = config.train.ema is not None and config.train.ema.use
    dims = {t.name: t.dim for t in layout.tables}
    return DenseWeights("the run", config, schema, layout, averaged, dims, tensors.keys(), tensors.__getitem__)
