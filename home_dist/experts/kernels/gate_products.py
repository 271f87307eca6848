"""The feature gate between its first products and its result: products and passes over a chunk of samples at a time."""

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import torch

from home_dist.experts.kernels.passes import Passes

CHUNK_BYTES = 1 << 20
"""Of a chunk's low-rank gates, (L, b, F)."""


class Gates(NamedTuple):
    """What the gates of all groups are computed from, all contiguous."""

    x: torch.Tensor
    """(B, F), or one input per group, (G, B, F)"""
    low: torch.Tensor
    """Low-rank activations, (G, B, L, R)"""
    up: torch.Tensor
    """(G, L, R, F)"""
    share: torch.Tensor
    """(G, B, L)"""
    inside: bool


class GateProducts(Protocol):
    def forward(self, gates: Gates) -> torch.Tensor:
        """The gated x, (G, B, F)."""

    def backward(
        self, grad: torch.Tensor, gates: Gates, x_grad: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The gradients of share, low and up; `x_grad`, if wanted, becomes that of x as far as x is multiplied."""


class TorchGateProducts:
    def __init__(self, passes: Passes):
        self.passes = passes

    def forward(self, gates: Gates) -> torch.Tensor:
        x, low, up, share, inside = gates
        rows, width = x.shape[-2:]
        out, buffer = x.new_empty(len(share), rows, width), _buffer(gates)
        for g, some in _chunks(len(share), rows, len(buffer)):
            wide = _wide(low[g, some], up[g], buffer)
            self.passes.gate(wide, share[g, some], _of(x, g)[some], inside, out[g, some])
        return out

    def backward(
        self, grad: torch.Tensor, gates: Gates, x_grad: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        x, low, up, share, inside = gates
        share_grad, low_grad = torch.empty_like(share), torch.empty_like(low)
        up_grad, buffer = torch.zeros_like(up), _buffer(gates)
        for g, some in _chunks(len(share), x.shape[-2], len(buffer)):
            left = low[g, some].transpose(0, 1)  # (L, b, R)
            wide = _wide(low[g, some], up[g], buffer)
            of_x = None if x_grad is None else _of(x_grad, g)[some]
            add = g > 0 and x.dim() == 2
            self.passes.gate_backward_(
                grad[g, some], wide, share[g, some], _of(x, g)[some], inside, share_grad[g, some], of_x, add
            )
            for n in range(up.shape[1]):
                torch.mm(wide[n], up[g, n].t(), out=low_grad[g, some, n])
                up_grad[g, n].addmm_(left[n].t(), wide[n])
        return share_grad, low_grad, up_grad


def chunk_of(gates: Gates) -> int:
    """Samples in a chunk."""
    row = gates.share.shape[2] * gates.x.shape[-1] * gates.low.element_size()
    return max(min(max(CHUNK_BYTES // row, 16), gates.x.shape[-2]), 1)


def _of(x: torch.Tensor, g: int) -> torch.Tensor:
    """The input of group g, (B, F)."""
    return x if x.dim() == 2 else x[g]


def _chunks(groups: int, rows: int, step: int) -> Iterator[tuple[int, slice]]:
    """(group, samples)"""
    for g in range(groups):
        for first in range(0, rows, step):
            yield g, slice(first, min(first + step, rows))


def _buffer(gates: Gates) -> torch.Tensor:
    """Memory for a chunk's low-rank gates, (b, L F)."""
    return gates.low.new_empty(chunk_of(gates), gates.share.shape[2] * gates.x.shape[-1])


def _wide(low: torch.Tensor, up: torch.Tensor, buffer: torch.Tensor) -> torch.Tensor:
    """A chunk's low-rank gates before the sigmoid, in the buffer. low: (b, L, R); up: (L, R, F). Returns (L, b, F)."""
    rows, gates, _ = low.shape
    wide = buffer.view(-1)[: rows * buffer.shape[1]].view(gates, rows, -1)
    for n in range(gates):
        torch.mm(low[:, n], up[n], out=wide[n])
    return wide
