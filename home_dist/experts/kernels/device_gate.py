"""HoME's feature gate on a GPU: what follows the low-rank gates' first product is one kernel."""

from typing import Any

import torch
import triton
from torch.autograd.function import once_differentiable

from home_dist.experts.kernels import tiles, triton_gate
from home_dist.experts.kernels.choice import WIDTH_MULTIPLE
from home_dist.experts.kernels.device import padded
from home_dist.experts.kernels.operands import Precision


def gated(
    x: torch.Tensor, low: torch.Tensor, up: torch.Tensor, share: torch.Tensor, inside: bool, precision: Precision
) -> torch.Tensor:
    """x: (B, F) or (G, B, F); low: (G, L, B, R); up: (G, L, R, F); share: (G, L, B). Returns the gated x, (G, B, F)."""
    out = _Gated.apply(padded(x).contiguous(), low, padded(up).contiguous(), share.transpose(1, 2), inside, precision == "bf16")
    return out[..., : x.shape[-1]]


class _Gated(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, low: torch.Tensor, up: torch.Tensor, share: torch.Tensor, inside: bool, bf16: bool
    ) -> torch.Tensor:
        low = low if low.stride(3) == 1 else low.contiguous()
        share = share.contiguous()
        groups, _, rows, _ = low.shape
        out = x.new_empty(groups, rows, x.shape[-1])
        with torch.profiler.record_function("triton::feature_gate"):
            triton_gate.feature_gate[_grid(out)](x, low, up, share, out, *_sizes(x, low), **_constants(inside, bf16))
        ctx.inside, ctx.bf16 = inside, bf16
        ctx.save_for_backward(x, low, up, share)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, low, up, share = ctx.saved_tensors
        grad = grads[0].contiguous()
        kind = torch.bfloat16 if ctx.bf16 else torch.float32
        x_grad, wide_grad = torch.empty_like(grad), grad.new_empty(*low.shape[:3], x.shape[-1], dtype=kind)
        share_grad = grad.new_empty(_grid(grad)[1], *share.shape)
        constants = _constants(ctx.inside, ctx.bf16)
        with torch.profiler.record_function("triton::feature_gate_backward"):
            triton_gate.feature_gate_backward[_grid(grad)](
                grad, x, low, up, share, x_grad, wide_grad, share_grad, *_sizes(x, low), **constants
            )
        wide = wide_grad.flatten(0, 1)
        low_grad = torch.bmm(wide, up.flatten(0, 1).transpose(1, 2).to(kind)).view_as(low)
        up_grad = torch.bmm(low.flatten(0, 1).transpose(1, 2).to(kind), wide).view_as(up)
        of_x = x_grad.sum(0) if x.dim() == 2 else x_grad
        return of_x, low_grad.to(grad.dtype), up_grad.to(grad.dtype), share_grad.sum(0), None, None


def _grid(out: torch.Tensor) -> tuple[int, int, int]:
    groups, rows, width = out.shape
    return triton.cdiv(rows, tiles.GATE.BM), triton.cdiv(width, tiles.GATE.BN), groups


def _sizes(x: torch.Tensor, low: torch.Tensor) -> tuple[int, ...]:
    _, gates, rows, rank = low.shape
    x_group = 0 if x.dim() == 2 else x.stride(0)
    return rows, x.shape[-1] // WIDTH_MULTIPLE, gates, rank, x_group, low.stride(0), low.stride(2), low.stride(1)


def _constants(inside: bool, bf16: bool) -> dict[str, Any]:
    return {"INSIDE": inside, "BF16": bf16, **tiles.GATE.arguments()}
