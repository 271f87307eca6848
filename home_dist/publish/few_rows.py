"""A model with those rows alone that some rows of data read, so that answering them takes no memory for tables.

What is looked up depends on the data alone, never on values of rows: a first pass over empty tables notes it.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass

import pyarrow as pa
import torch
from torch import nn

from home_dist.config import RunConfig
from home_dist.export.columns import batches_of
from home_dist.export.managed_rows import stored_rows, with_managed_rows
from home_dist.export.numbers import Inputs
from home_dist.export.program_inputs import inputs_of
from home_dist.export.scorer import Scorer
from home_dist.export.source import Source
from home_dist.publish.keys import Slots
from home_dist.schema import InputLayout, Schema


@dataclass(frozen=True)
class DenseWeights:
    """Weights (export/scorer.py) without rows of tables."""

    shown: str
    config: RunConfig
    schema: Schema
    layout: InputLayout
    averaged: bool
    dims: Mapping[str, int]
    """By table."""
    names: Collection[str]
    """Of the tensors of the network's head."""
    head_tensor: Callable[[str], torch.Tensor]

    def table_shape(self, table: str) -> tuple[int, int]:
        return 0, self.dims[table]

    def rows(self, table: str) -> Iterator[torch.Tensor]:
        return iter(())

    def head_names(self) -> set[str]:
        return set(self.names)


class FewRows:
    def __init__(self, weights: DenseWeights, layout: InputLayout, rows_at: Callable[[str, Slots], torch.Tensor]):
        """layout: whose keys become rows, also managed ones. rows_at: (n, dim) of a table's slots (n,), ascending. Draws random
        numbers, as networks do that are made. Raises ConfigError."""
        self.layout, self.rows_at = layout, rows_at
        self._dims = weights.dims
        self._scorer = Scorer(weights)

    @staticmethod
    def of(source: Source) -> "FewRows":
        """Of a checkpoint. Raises ConfigError, DataError."""
        dims = {name: source.table_shape(name)[1] for name in source.places}
        parts = source.shown, source.config, source.schema, source.layout, source.averaged
        weights = DenseWeights(*parts, dims, source.head_names(), source.head_tensor)
        tables = {t.name: t for t in source.layout.tables}
        layout = with_managed_rows(source.layout, lambda name: stored_rows(source, tables[name]))
        return FewRows(weights, layout, source.rows_at)

    @torch.no_grad()
    def refill(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Other parameters and statistics of the head, by name."""
        for name, value in self._scorer.head.state_dict().items():
            value.copy_(tensors[name])

    def slots(self, table: pa.Table) -> dict[str, Slots]:
        """(n,) rows of each table that these rows of data read, ascending. Raises DataError."""
        return self._slots(self._inputs(table))

    def predict(self, table: pa.Table) -> pa.Table:
        """A column of float32 per prediction, as LoadedModel.predict gives. Raises DataError."""
        inputs = self._inputs(table)
        few = {name: _Few(slots, self.rows_at(name, slots)) for name, slots in self._slots(inputs).items()}
        scores = self._scores(inputs, few).numpy()
        return pa.table({name: pa.array(scores[:, n]) for n, name in enumerate(self._scorer.names)})

    def _inputs(self, table: pa.Table) -> Inputs:
        [inputs] = batches_of(table, self.layout, max(1, len(table)))
        return {name: inputs[name] for name in inputs_of(self.layout)}

    def _slots(self, inputs: Inputs) -> dict[str, Slots]:
        noting = {name: _Noting(self._dims[name]) for name in self._scorer.tables}
        self._scores(inputs, noting)
        return {name: noted.slots() for name, noted in noting.items()}

    @torch.no_grad()
    def _scores(self, inputs: Inputs, tables: Mapping[str, nn.Module]) -> torch.Tensor:
        self._scorer.tables = nn.ModuleDict(tables)
        scores: torch.Tensor = self._scorer(inputs)
        return scores


class _Noting(nn.Module):
    """Looks up zeros, and notes which rows were asked for."""

    def __init__(self, dim: int):
        super().__init__()
        self.dim, self.asked = dim, list[torch.Tensor]()

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        self.asked.append(ids)
        return torch.zeros(len(ids), self.dim)

    def slots(self) -> Slots:
        """Distinct, ascending."""
        found: Slots = torch.cat([torch.zeros(0, dtype=torch.int64), *self.asked]).unique().numpy()
        return found


class _Few(nn.Module):
    """Rows (n, dim) of slots (n,), ascending."""

    slots: torch.Tensor
    rows: torch.Tensor

    def __init__(self, slots: Slots, rows: torch.Tensor):
        super().__init__()
        self.register_buffer("slots", torch.from_numpy(slots), persistent=False)
        self.register_buffer("rows", rows.float(), persistent=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return nn.functional.embedding(torch.searchsorted(self.slots, ids), self.rows)
