"""The layers of a bank on a CPU, each direction one call of the compiled library: see native/bank.hpp."""

import ctypes
import functools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from home_dist.experts.kernels.passes_native import NativePasses
from home_dist.experts.kernels.products import BLOCK_BYTES, Forward, Layers

_CHUNK_BYTES = 512 << 10
"""Of one expert's gradient that a thread holds between a product and the pass over it; half of a core's own cache."""

_LEAST_ROWS = 128
"""Products of fewer samples are slower."""

_ROUTINES = {torch.float32: "sgemm_", torch.float64: "dgemm_"}


@functools.cache
def routine(kind: torch.dtype) -> ctypes.c_void_p | None:
    """The matrix product of the BLAS within torch, if it can be called and computes what it should."""
    name = _ROUTINES.get(kind)
    if name is None or sys.byteorder != "little":
        return None
    for library in sorted((Path(torch.__file__).parent / "lib").glob("libtorch_cpu.*")):
        try:
            found = getattr(ctypes.CDLL(str(library)), name)
        except (OSError, AttributeError):
            continue
        return ctypes.cast(found, ctypes.c_void_p) if _multiplies(found, kind) else None
    return None


def _multiplies(function: Any, kind: torch.dtype) -> bool:
    a, b = torch.arange(6, dtype=kind).view(2, 3), torch.arange(12, dtype=kind).view(3, 4) - 5
    c = torch.zeros(2, 4, dtype=kind)
    scalar = torch.ones((), dtype=kind), torch.zeros((), dtype=kind)
    n, k, m = (ctypes.byref(ctypes.c_int64(size)) for size in (2, 3, 4))
    one, none, of_a, of_b, of_c = (ctypes.c_void_p(t.data_ptr()) for t in (*scalar, a, b, c))
    function(b"N", b"N", m, n, k, one, of_b, m, of_a, k, none, of_c, m)
    return torch.equal(c, a @ b)


class NativeProducts:
    def __init__(self, passes: NativePasses, gemm: ctypes.c_void_p):
        self.passes, self.gemm = passes, gemm

    def forward(self, layers: Layers, keep: bool, of_batch: bool, mask: torch.Tensor | None) -> Forward:
        x, rows, total = layers.inputs[0], len(layers.inputs[0]), sum(layers.experts)
        widths = layers.widths
        y = x.new_empty(total, rows, widths[-1])
        hidden = [_in_blocks(x, total, rows, width) for width in widths[1:-1]] if keep else []
        moments = (x.new_empty(total, widths[-1]), x.new_empty(total, widths[-1])) if of_batch else None
        self._call(
            "bank",
            x,
            _of_experts(layers),
            _pointers(layers.weights),
            _pointers(layers.biases),
            _pointers(_each(hidden)) if keep else None,
            _pointers(y.unbind()),
            mask,
            *(moments or (None, None)),
            (ctypes.c_int64 * len(widths))(*widths),
            len(layers.weights),
            total,
            rows,
        )
        return Forward(y, hidden, moments)

    def backward_(
        self, layers: Layers, down: list[torch.Tensor], hidden: list[list[torch.Tensor]]
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        if not hidden:
            return [], []
        x, rows = layers.inputs[0], len(layers.inputs[0])
        widths = layers.widths
        weight_grads = [torch.empty_like(w) for w in layers.weights[1:]]
        bias_grads = [torch.empty_like(b) for b in layers.biases[: layers.hidden]]
        widest = max(widths[1:])
        threads = torch.get_num_threads()
        # All threads together hold at most half of what one expert's hidden activations take.
        most = min(_CHUNK_BYTES // (widest * x.element_size()), rows // (2 * threads))
        chunk = min(max(most, _LEAST_ROWS), rows)
        near = x.new_empty(threads, chunk, widest)
        self._call(
            "bank_backward",
            x,
            _pointers(_each([down])),
            _pointers(layers.weights),
            _pointers(_each(hidden)),
            (ctypes.c_void_p * len(layers.weights))(None, *(g.data_ptr() for g in weight_grads)),
            _pointers(bias_grads),
            near,
            chunk,
            (ctypes.c_int64 * len(widths))(*widths),
            len(layers.weights),
            sum(layers.experts),
            rows,
        )
        return weight_grads, bias_grads

    def inputs_(self, layers: Layers, down: list[torch.Tensor], grads: Sequence[torch.Tensor | None]) -> torch.Tensor:
        weight = layers.weights[0]
        weight_grad = torch.empty_like(weight)
        starts = [sum(layers.experts[:i]) for i in range(len(layers.experts) + 1)]
        self._call(
            "bank_inputs",
            weight,
            _pointers(_each([down])),
            _of_experts(layers),
            weight,
            weight_grad,
            (ctypes.c_void_p * len(grads))(*(None if g is None else g.data_ptr() for g in grads)),
            (ctypes.c_int64 * len(starts))(*starts),
            len(layers.inputs),
            weight.shape[2],
            weight.shape[1],
            len(weight),
            len(layers.inputs[0]),
        )
        return weight_grad

    def _call(self, name: str, kind: torch.Tensor, *arguments: Any) -> None:
        self.passes.call(name, kind, self.gemm, *arguments)


def _in_blocks(like: torch.Tensor, total: int, rows: int, width: int) -> list[torch.Tensor]:
    """Memory for (E, B, width), in parts of a size that an allocator keeps at hand rather than asking for it each time."""
    step = max(BLOCK_BYTES // max(rows * width * like.element_size(), 1), 1)
    return [like.new_empty(min(step, total - first), rows, width) for first in range(0, total, step)]


def _each(layers: Sequence[Sequence[torch.Tensor]]) -> list[torch.Tensor]:
    """One per layer and expert."""
    return [one for blocks in layers for block in blocks for one in block.unbind()]


def _of_experts(layers: Layers) -> Any:
    """The input of each expert."""
    found = [x.data_ptr() for x, count in zip(layers.inputs, layers.experts, strict=True) for _ in range(count)]
    return (ctypes.c_void_p * len(found))(*found)


def _pointers(tensors: Sequence[torch.Tensor]) -> Any:
    return (ctypes.c_void_p * len(tensors))(*(t.data_ptr() for t in tensors))
