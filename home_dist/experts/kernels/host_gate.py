"""HoME's feature gate on a CPU: low-rank products as torch has them, everything pointwise in one pass over a chunk of samples.

The (G, L, B, F) low-rank gates exist for a chunk only, which stays in the cache; the backward computes them anew. Kept for it
are the inputs, the low-rank activations and the shares.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from home_dist.experts.kernels.grouped import add_back, add_product, by_group, weight_grad
from home_dist.experts.kernels.host import STORED, passes
from home_dist.experts.kernels.operands import Precision
from home_dist.experts.kernels.passes import Passes

_CHUNK_BYTES = 1 << 20
"""Of a chunk's low-rank gates, (L, b, F)."""


def gated(
    x: torch.Tensor,
    down: torch.Tensor,
    up: torch.Tensor,
    choice: torch.Tensor,
    inside: bool,
    precision: Precision,
    using: Passes | None = None,
) -> torch.Tensor:
    """x: (B, F) or (G, B, F); down: (G, L R, F); up: (G L, R, F); choice: (G, L, F). Returns the gated x, (G, B, F).

    `using`: other passes than this machine's best.
    """
    kinds = {t.dtype for t in (x, down, up, choice)}
    if len(kinds) > 1 or not kinds <= {torch.float32, torch.float64}:
        raise TypeError(f"the cpu kernel takes fp32 or fp64 throughout, got {', '.join(sorted(map(str, kinds)))}")
    return _Gated.apply(x.contiguous(), down, up, choice, inside, STORED[precision], using or passes())


class _Gated(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        down: torch.Tensor,
        up: torch.Tensor,
        choice: torch.Tensor,
        inside: bool,
        stored: torch.dtype | None,
        using: Passes,
    ) -> torch.Tensor:
        groups, gates, width = choice.shape
        rows, kind = x.shape[-2], stored or x.dtype
        down, up = down.to(kind), up.to(kind).view(groups, gates, -1, width)
        low = by_group(x.to(kind), down).unflatten(2, (gates, -1))
        share = by_group(x, choice).softmax(2).contiguous()
        out = x.new_empty(groups, rows, width)
        buffer = _buffer(x, gates, kind)
        for g, some in _chunks(groups, rows, buffer):
            wide = _wide(low[g, some], up[g], buffer)
            using.gate(wide, share[g, some], _of(x, g)[some], inside, out[g, some])
        ctx.inside, ctx.using = inside, using
        ctx.save_for_backward(x, low, share, down, up, choice)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, low, share, down, up, choice = ctx.saved_tensors
        grad, kind = grads[0].contiguous(), low.dtype
        groups, gates = share.shape[0], share.shape[2]
        x_grad = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        share_grad, low_grad = torch.empty_like(share), torch.empty_like(low)
        up_grad = torch.zeros_like(up, dtype=grad.dtype)
        buffer = _buffer(x, gates, kind)
        for g, some in _chunks(groups, x.shape[-2], buffer):
            left = low[g, some].transpose(0, 1)  # (L, b, R)
            wide = _wide(low[g, some], up[g], buffer)
            of_x = None if x_grad is None else _of(x_grad, g)[some]
            ctx.using.gate_backward_(
                grad[g, some],
                wide,
                share[g, some],
                _of(x, g)[some],
                ctx.inside,
                share_grad[g, some],
                of_x,
                g > 0 and x.dim() == 2,
            )
            for n in range(gates):
                torch.mm(wide[n], up[g, n].t(), out=low_grad[g, some, n])
                add_product(up_grad[g, n], left[n].t(), wide[n])
        scores_grad = share * (share_grad - (share * share_grad).sum(2, keepdim=True))
        low_grad = low_grad.flatten(2)
        if x_grad is not None:
            add_back(x_grad, low_grad, down)
            add_back(x_grad, scores_grad, choice)
        down_grad = weight_grad(low_grad, x.to(kind)).to(grad.dtype)
        return x_grad, down_grad, up_grad.flatten(0, 1), weight_grad(scores_grad, x), None, None, None


def _of(x: torch.Tensor, g: int) -> torch.Tensor:
    """The input of group g, (B, F)."""
    return x if x.dim() == 2 else x[g]


def _chunks(groups: int, rows: int, buffer: torch.Tensor) -> Iterator[tuple[int, slice]]:
    """(group, samples)"""
    step = buffer.shape[0]
    for g in range(groups):
        for first in range(0, rows, step):
            yield g, slice(first, min(first + step, rows))


def _buffer(x: torch.Tensor, gates: int, kind: torch.dtype) -> torch.Tensor:
    """Memory for a chunk's low-rank gates, (b, L F)."""
    width = gates * x.shape[-1]
    rows = max(_CHUNK_BYTES // (width * kind.itemsize), 16)
    return x.new_empty(min(rows, x.shape[-2]), width, dtype=kind)


def _wide(low: torch.Tensor, up: torch.Tensor, buffer: torch.Tensor) -> torch.Tensor:
    """A chunk's low-rank gates before the sigmoid, in the buffer. low: (b, L, R); up: (L, R, F). Returns (L, b, F)."""
    rows, gates, _ = low.shape
    wide = buffer.view(-1)[: rows * buffer.shape[1]].view(gates, rows, -1)
    for n in range(gates):
        torch.mm(low[:, n], up[n], out=wide[n])
    return wide
