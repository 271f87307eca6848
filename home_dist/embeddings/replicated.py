"""Small tables, kept whole on every rank and trained with the dense parameters: a local look-up is cheaper than an exchange."""

import ctypes
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torchrec.sparse.jagged_tensor import JaggedTensor

from home_dist.native_library import library_if_possible
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

    def listed(self, ids: JaggedTensor, item: IdInput) -> torch.Tensor:
        """The embeddings of a list column's values, (n, dim)."""
        return _rows(self.weights[str(item.table.dim)], ids.values() + self._offset[item.table.name])


def _rows(weight: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """(*rows, dim). The gradient adds rows in their order, everywhere the same bits as embedding's. On a CPU the compiled sum
    takes a tenth of the time of embedding's backward, and index_select's, without a compiler, a fifth; in a program that is
    traced there is index_select. On a GPU only embedding's backward adds in a fixed order."""
    if weight.device.type != "cpu":
        return nn.functional.embedding(rows, weight)
    flat = rows.flatten()
    compiled = weight.dtype in _ADD and not torch.compiler.is_compiling() and weight.requires_grad and _native() is not None
    vectors = _LookUp.apply(weight, flat) if compiled else weight.index_select(0, flat)
    return vectors.unflatten(0, rows.shape)


class _LookUp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(rows)
        ctx.shape = weight.shape
        return weight.index_select(0, rows)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
        [rows], [grad], library = ctx.saved_tensors, grads, _native()
        grad, rows, table = grad.contiguous(), rows.contiguous(), grad.new_zeros(ctx.shape)
        if library is None or torch.is_grad_enabled():  # the latter for a derivative of the gradient
            return grads[0].new_zeros(ctx.shape).index_add(0, rows, grads[0]), None
        at = (ctypes.c_void_p(t.data_ptr()) for t in (table, rows, grad))
        getattr(library, _ADD[grad.dtype])(*at, ctypes.c_int64(len(rows)), ctypes.c_int64(grad.shape[1]))
        return table, None


_ADD = {torch.float32: "add_fp32", torch.float64: "add_fp64"}
_SOURCE = Path(__file__).parent / "native" / "rows.cpp"


@functools.cache
def _native() -> ctypes.CDLL | None:
    return library_if_possible(_SOURCE)
