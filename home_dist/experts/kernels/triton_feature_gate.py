# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
"""Triton: HoME's feature gate. Import it only if Triton is installed.

One kernel computes the second product of the low-rank gates, the sigmoid, the weighted sum and the multiplication with x. The
forward never writes the low-rank gates (G, L, B, F) to memory. The operator is an autograd function and no custom op, which
takes longer: see kernels/__init__.py.
"""

from dataclasses import asdict, dataclass
from typing import Any

import torch
import triton
import triton.language as tl

from home_dist.experts.kernels.choice import WIDTH_MULTIPLE
from home_dist.experts.kernels.once import once_differentiable
from home_dist.experts.kernels.operands import Precision
from home_dist.experts.kernels.triton_products import added_product, as_stored, padded, rounded


@triton.jit
def _wide(low, up, g, n, rows, columns, row_in, f_in, B, F, L, RANK, low_g, low_b, low_l, RT: tl.constexpr, BF16: tl.constexpr):
    """A tile (BM, BN) of low-rank gate n of group g before its sigmoid: low (B, R) @ up (R, F)."""
    at = tl.arange(0, RT)
    left = low + g * low_g + n * low_l + rows[:, None] * low_b + at[None, :]
    right = up + (g * L + n) * RANK * F + at[:, None] * F + columns[None, :]
    total = tl.zeros((rows.shape[0], columns.shape[0]), dtype=tl.float32)
    for r in range(0, RANK, RT):
        r_in = at < RANK - r
        x = tl.load(left, mask=row_in[:, None] & r_in[None, :], other=0.0)
        y = tl.load(right, mask=r_in[:, None] & f_in[None, :], other=0.0)
        left += RT
        right += RT * F
        total = added_product(x, y, total, BF16)
    if BF16:
        total = rounded(total).to(tl.float32)
    return total


@triton.jit
def gate_kernel(
    x, low, up, share, out, B, F, L, RANK, x_g, low_g, low_b, low_l,
    INSIDE: tl.constexpr, BF16: tl.constexpr, RT: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """out (G, B, F) = x * 2 sum_l share[g, b, l] sigmoid(wide_l), or x * 2 sigmoid(sum_l share[g, b, l] wide_l).

    F is passed divided by 8. x: (B, F) at x + g * x_g; low: (G, B, L, R), by strides; up: (G, L, R, F); share: (G, B, L).
    """
    F *= 8
    g = tl.program_id(2).to(tl.int64)
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    columns = tl.program_id(1) * BN + tl.arange(0, BN)
    row_in, f_in = rows < B, columns < F
    inside = row_in[:, None] & f_in[None, :]
    total = tl.zeros((BM, BN), dtype=tl.float32)
    for n in range(0, L):
        wide = _wide(low, up, g, n, rows, columns, row_in, f_in, B, F, L, RANK, low_g, low_b, low_l, RT, BF16)
        weight = tl.load(share + (g * B + rows) * L + n, mask=row_in, other=0.0)[:, None]
        if INSIDE:
            total += weight * tl.sigmoid(wide)
        else:
            total += weight * wide
    if not INSIDE:
        total = tl.sigmoid(total)
    place = rows[:, None] * F + columns[None, :]
    value = tl.load(x + g * x_g + place, mask=inside, other=0.0)
    tl.store(out + g * B * F + place, 2 * value * total, mask=inside)


@triton.jit
def gate_backward_kernel(
    grad, x, low, up, share, x_grad, wide_grad, share_grad, B, F, L, RANK, x_g, low_g, low_b, low_l,
    INSIDE: tl.constexpr, BF16: tl.constexpr, RT: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """x_grad (G, B, F): the gradient of x as a factor of out; wide_grad (G, L, B, F); share_grad (tiles of F, G, B, L)."""
    F *= 8
    g = tl.program_id(2).to(tl.int64)
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    columns = tl.program_id(1) * BN + tl.arange(0, BN)
    row_in, f_in = rows < B, columns < F
    inside = row_in[:, None] & f_in[None, :]
    place = rows[:, None] * F + columns[None, :]
    total = tl.zeros((BM, BN), dtype=tl.float32)
    for n in range(0, L):
        wide = _wide(low, up, g, n, rows, columns, row_in, f_in, B, F, L, RANK, low_g, low_b, low_l, RT, BF16)
        weight = tl.load(share + (g * B + rows) * L + n, mask=row_in, other=0.0)[:, None]
        if INSIDE:
            total += weight * tl.sigmoid(wide)
        else:
            total += weight * wide
    if not INSIDE:
        total = tl.sigmoid(total)
    out_grad = tl.load(grad + g * B * F + place, mask=inside, other=0.0)
    tl.store(x_grad + g * B * F + place, 2 * out_grad * total, mask=inside)
    total_grad = 2 * out_grad * tl.load(x + g * x_g + place, mask=inside, other=0.0)
    if not INSIDE:
        total_grad = total_grad * total * (1 - total)
    for n in range(0, L):
        wide = _wide(low, up, g, n, rows, columns, row_in, f_in, B, F, L, RANK, low_g, low_b, low_l, RT, BF16)
        weight = tl.load(share + (g * B + rows) * L + n, mask=row_in, other=0.0)[:, None]
        if INSIDE:
            s = tl.sigmoid(wide)
            of_share = total_grad * s
            of_wide = total_grad * weight * s * (1 - s)
        else:
            of_share = total_grad * wide
            of_wide = total_grad * weight
        tl.store(wide_grad + (g * L + n) * B * F + place, as_stored(of_wide, wide_grad), mask=inside)
        tile = (tl.program_id(1) * tl.num_programs(2) + g) * B + rows
        tl.store(share_grad + tile * L + n, tl.sum(of_share, 1), mask=row_in)


@dataclass(frozen=True)
class GateTile:
    """The meta-parameters of both kernels: a program computes (BM, BN) of the output, RT of the rank at a time."""

    BM: int
    BN: int
    RT: int
    num_warps: int = 4


TILE = GateTile(32, 32, 32)


def gated(
    x: torch.Tensor, low: torch.Tensor, up: torch.Tensor, share: torch.Tensor, inside: bool, precision: Precision
) -> torch.Tensor:
    """x: (B, F) or (G, B, F); low: (G, L, B, R); up: (G, L, R, F); share: (G, L, B). Returns the gated x, (G, B, F)."""
    out = _TritonGated.apply(
        padded(x).contiguous(), low, padded(up).contiguous(), share.transpose(1, 2), inside, precision == "bf16"
    )
    return out[..., : x.shape[-1]]


class _TritonGated(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, low: torch.Tensor, up: torch.Tensor, share: torch.Tensor, inside: bool, bf16: bool
    ) -> torch.Tensor:
        low = low if low.stride(3) == 1 else low.contiguous()
        share = share.contiguous()
        groups, _, rows, _ = low.shape
        out = x.new_empty(groups, rows, x.shape[-1])
        with torch.profiler.record_function("triton::feature_gate"):
            gate_kernel[_grid(out)](x, low, up, share, out, *_sizes(x, low), **_constants(inside, bf16))
        ctx.inside, ctx.bf16 = inside, bf16
        ctx.save_for_backward(x, low, up, share)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, low, up, share = ctx.saved_tensors
        grad = grads[0].contiguous()
        stored = torch.bfloat16 if ctx.bf16 else torch.float32
        x_grad, wide_grad = torch.empty_like(grad), grad.new_empty(*low.shape[:3], x.shape[-1], dtype=stored)
        share_grad = grad.new_empty(_grid(grad)[1], *share.shape)
        constants = _constants(ctx.inside, ctx.bf16)
        with torch.profiler.record_function("triton::feature_gate_backward"):
            gate_backward_kernel[_grid(grad)](
                grad, x, low, up, share, x_grad, wide_grad, share_grad, *_sizes(x, low), **constants
            )
        wide = wide_grad.flatten(0, 1)
        low_grad = torch.bmm(wide, up.flatten(0, 1).transpose(1, 2).to(stored)).view_as(low)
        up_grad = torch.bmm(low.flatten(0, 1).transpose(1, 2).to(stored), wide).view_as(up)
        x_grad = x_grad.sum(0) if x.dim() == 2 else x_grad
        return x_grad, low_grad.to(grad.dtype), up_grad.to(grad.dtype), share_grad.sum(0), None, None


def _grid(out: torch.Tensor) -> tuple[int, int, int]:
    groups, rows, width = out.shape
    return triton.cdiv(rows, TILE.BM), triton.cdiv(width, TILE.BN), groups


def _sizes(x: torch.Tensor, low: torch.Tensor) -> tuple[int, ...]:
    _, gates, rows, rank = low.shape
    x_group = 0 if x.dim() == 2 else x.stride(0)
    return rows, x.shape[-1] // WIDTH_MULTIPLE, gates, rank, x_group, low.stride(0), low.stride(2), low.stride(1)


def _constants(inside: bool, bf16: bool) -> dict[str, Any]:
    return {"INSIDE": inside, "BF16": bf16, **asdict(TILE)}
