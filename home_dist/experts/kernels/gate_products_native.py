"""The same by the compiled library, each direction one call: see native/feature_gate.hpp."""

import ctypes
from typing import Any

import torch

from home_dist.experts.kernels.gate_products import Gates, chunk_of
from home_dist.experts.kernels.passes_native import NativePasses

_MOST_PARTS, _LEAST_ROWS = 16, 128
"""Into which the backward cuts samples, each with sums of its own: for as many threads, and worth a product."""


class NativeGateProducts:
    def __init__(self, passes: NativePasses, gemm: ctypes.c_void_p):
        self.passes, self.gemm = passes, gemm

    def forward(self, gates: Gates) -> torch.Tensor:
        x, low, up, share, _ = gates
        out = x.new_empty(*share.shape[:2], x.shape[-1])
        self._call("feature_gates", x, x, low, up, share, out, *_near(gates), *_sizes(gates))
        return out

    def backward(
        self, grad: torch.Tensor, gates: Gates, x_grad: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        x, low, up, share, _ = gates
        share_grad, low_grad = torch.empty_like(share), torch.empty_like(low)
        # Not by the number of threads: sums would depend on it.
        parts = max(min(x.shape[-2] // _LEAST_ROWS, _MOST_PARTS), 1)
        up_grads = up.new_empty(parts, *up.shape)
        results = (share_grad, low_grad, x_grad, up_grads)
        self._call("feature_gates_backward", x, grad, x, low, up, share, *results, *_near(gates), parts, *_sizes(gates))
        return share_grad, low_grad, up_grads[0] if parts == 1 else up_grads.sum(0)

    def _call(self, name: str, kind: torch.Tensor, *arguments: Any) -> None:
        self.passes.call(name, kind, self.gemm, *arguments)


def _near(gates: Gates) -> tuple[torch.Tensor, int]:
    """Memory for each thread's chunk, and its samples."""
    chunk = chunk_of(gates)
    return gates.x.new_empty(torch.get_num_threads(), gates.share.shape[2], chunk, gates.x.shape[-1]), chunk


def _sizes(gates: Gates) -> tuple[int, ...]:
    groups, rows, count, rank = gates.low.shape
    width = gates.x.shape[-1]
    return rows * width if gates.x.dim() == 3 else 0, int(gates.inside), groups, count, rank, rows, width
