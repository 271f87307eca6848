"""Small tables, kept whole on every rank and trained with the dense parameters: a local look-up is cheaper than an exchange."""

from collections.abc import Sequence

import torch
from torch import nn
from torchrec.sparse.jagged_tensor import JaggedTensor

from home_dist.embeddings.side_by_side import Rows, side_by_side
from home_dist.schema import IdInput


class ReplicatedTables(nn.Module):
    """Replicated tables. Tables of one width share one weight, each at its own offset: many columns are one look-up."""

    def __init__(self, inputs: Sequence[IdInput], init_std: float):
        """inputs: every input of a replicated table."""
        super().__init__()
        tables = {i.table.name: i.table for i in inputs}
        self.dims = sorted({t.dim for t in tables.values()})
        self._offset: dict[str, int] = {}
        self._weight = {name: str(table.dim) for name, table in tables.items()}
        self.weights = nn.ParameterDict()
        for dim in self.dims:
            rows = 0
            for table in tables.values():
                if table.dim == dim:
                    self._offset[table.name] = rows
                    rows += table.rows
            drawn = torch.randn(rows, dim) * init_std if init_std else torch.zeros(rows, dim)  # whoever wants none draws none
            self.weights[str(dim)] = nn.Parameter(drawn)
        small = [i for i in inputs if i.place == "small"]
        self._columns = {dim: [n for n, i in enumerate(small) if i.table.dim == dim] for dim in self.dims}
        for dim in self.dims:
            chosen = [small[n] for n in self._columns[dim]]
            self.register_buffer(f"columns_{dim}", torch.tensor(self._columns[dim], dtype=torch.int64), persistent=False)
            offsets = torch.tensor([self._offset[i.table.name] for i in chosen], dtype=torch.int64)
            self.register_buffer(f"offsets_{dim}", offsets, persistent=False)

    def place(self, table: str) -> tuple[str, int]:
        """Key of the table's weight in `weights`, and the table's first row in it."""
        return self._weight[table], self._offset[table]

    def single(self, small: torch.Tensor) -> dict[int, torch.Tensor]:
        """small: (B, S) ids. Returns embeddings by width: (B, columns of that width, dim)."""
        by_width = {}
        for dim in self.dims:
            columns = getattr(self, f"columns_{dim}")
            if len(columns):
                rows = small.index_select(1, columns) + getattr(self, f"offsets_{dim}")
                by_width[dim] = _rows(self.weights[str(dim)], rows)
        return by_width

    def position(self, column: int) -> tuple[int, int]:
        """Place of column `column` of Batch.small in the result of `single`: (width, index)."""
        for dim, columns in self._columns.items():
            if column in columns:
                return dim, columns.index(column)
        raise KeyError(column)

    def rows(self, ids: JaggedTensor, item: IdInput) -> Rows:
        """The weight (R, dim), and which of its rows the values of a list column have, (n,)."""
        return self.weights[str(item.table.dim)], ids.values() + self._offset[item.table.name]


def _rows(weight: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """(*rows, dim)"""
    return side_by_side([(weight, rows.flatten())]).unflatten(0, rows.shape)
