"""A checkpoint's model with those rows alone that some rows of data read, so that answering them takes no memory for tables.

What is looked up depends on the data alone, never on values of rows: a first pass over empty tables notes it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import nn

from home_dist.config import RunConfig
from home_dist.export.loaded import model_of
from home_dist.export.scorer import Scorer
from home_dist.export.source import Source
from home_dist.schema import InputLayout, Schema


@dataclass(frozen=True)
class _NoRows:
    """Weights (export/scorer.py) of a checkpoint without rows of tables."""

    source: Source

    @property
    def shown(self) -> str:
        return self.source.shown

    @property
    def config(self) -> RunConfig:
        return self.source.config

    @property
    def schema(self) -> Schema:
        return self.source.schema

    @property
    def layout(self) -> InputLayout:
        return self.source.layout

    @property
    def averaged(self) -> bool:
        return self.source.averaged

    def table_shape(self, table: str) -> tuple[int, int]:
        return 0, self.source.table_shape(table)[1]

    def rows(self, table: str) -> Iterator[torch.Tensor]:
        return iter(())

    def head_names(self) -> set[str]:
        return self.source.head_names()

    def head_tensor(self, name: str) -> torch.Tensor:
        return self.source.head_tensor(name)


class _Noting(nn.Module):
    """Looks up zeros, and notes which rows were asked for."""

    def __init__(self, dim: int):
        super().__init__()
        self.dim, self.asked = dim, list[torch.Tensor]()

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        self.asked.append(ids)
        return torch.zeros(len(ids), self.dim)

    def slots(self) -> NDArray[np.int64]:
        """Distinct, ascending."""
        return torch.cat([torch.zeros(0, dtype=torch.int64), *self.asked]).unique().numpy()


class _Few(nn.Module):
    """Rows (n, dim) of slots (n,), ascending."""

    slots: torch.Tensor
    rows: torch.Tensor

    def __init__(self, slots: NDArray[np.int64], rows: torch.Tensor):
        super().__init__()
        self.register_buffer("slots", torch.from_numpy(slots), persistent=False)
        self.register_buffer("rows", rows, persistent=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return nn.functional.embedding(torch.searchsorted(self.slots, ids), self.rows)


class FewRows:
    """The model of a checkpoint, for tables of a few rows."""

    def __init__(self, source: Source):
        """Raises ConfigError, DataError."""
        self._source, self._model = source, model_of(source, _NoRows(source))

    @property
    def columns(self) -> list[str]:
        return self._model.columns

    def predict(self, table: pa.Table) -> pa.Table:
        """As LoadedModel.predict. Raises DataError."""
        scorer = cast(Scorer, self._model.program.run)
        noting = {name: _Noting(self._source.table_shape(name)[1]) for name in scorer.tables}
        scorer.tables = nn.ModuleDict(noting)
        self._model.predict(table)
        read = {name: noted.slots() for name, noted in noting.items()}
        scorer.tables = nn.ModuleDict({name: _Few(slots, self._source.rows_at(name, slots)) for name, slots in read.items()})
        return self._model.predict(table)
