# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
"""Triton: HoME's feature gate. The low-rank gates' second product, sigmoid, weighted sum and multiplication are one kernel, so
that the (G, L, B, F) gates are never written in the forward. Imported only where Triton is in use.
"""

import triton
import triton.language as tl

from home_dist.experts.kernels.triton_products import as_stored, rounded


@triton.jit
def _wide(low, up, g, n, rows, columns, row_in, f_in, B, F, L, RANK, low_g, low_b, low_l, RT: tl.constexpr, BF16: tl.constexpr):
    """A tile (BM, BN) of gate n of group g before its sigmoid: low (B, R) @ up (R, F)."""
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
        total = tl.dot(rounded(x), rounded(y), total) if BF16 else tl.dot(x, y, total, input_precision="tf32x3")
    if BF16:
        total = rounded(total).to(tl.float32)
    return total


@triton.jit
def feature_gate(
    x, low, up, share, out, B, F, L, RANK, x_g, low_g, low_b, low_l,
    INSIDE: tl.constexpr, BF16: tl.constexpr, RT: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """out (G, B, F) = x * 2 sum_l share[g, b, l] sigmoid(wide_l), or x * 2 sigmoid(sum_l share[g, b, l] wide_l).

    F is passed as a multiple of 8. x: (B, F) at x + g * x_g; low: by strides, (G, B, L, R); up: (G, L, R, F); share: (G, B, L).
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
def feature_gate_backward(
    grad, x, low, up, share, x_grad, wide_grad, share_grad, B, F, L, RANK, x_g, low_g, low_b, low_l,
    INSIDE: tl.constexpr, BF16: tl.constexpr, RT: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """x_grad (G, B, F), as far as x is multiplied; wide_grad (G, L, B, F); share_grad (tiles of F, G, B, L)."""
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
    down = tl.load(grad + g * B * F + place, mask=inside, other=0.0)
    tl.store(x_grad + g * B * F + place, 2 * down * total, mask=inside)
    down = 2 * down * tl.load(x + g * x_g + place, mask=inside, other=0.0)
    if not INSIDE:
        down = down * total * (1 - total)
    for n in range(0, L):
        wide = _wide(low, up, g, n, rows, columns, row_in, f_in, B, F, L, RANK, low_g, low_b, low_l, RT, BF16)
        weight = tl.load(share + (g * B + rows) * L + n, mask=row_in, other=0.0)[:, None]
        if INSIDE:
            s = tl.sigmoid(wide)
            of_share = down * s
            of_wide = down * weight * s * (1 - s)
        else:
            of_share = down * wide
            of_wide = down * weight
        tl.store(wide_grad + (g * L + n) * B * F + place, as_stored(of_wide, wide_grad), mask=inside)
        tile = (tl.program_id(1) * tl.num_programs(2) + g) * B + rows
        tl.store(share_grad + tile * L + n, tl.sum(of_share, 1), mask=row_in)
