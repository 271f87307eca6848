# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
"""Triton: products over ragged groups of pairs (sample, expert), and their mixture. Import it only if Triton is installed.

Pairs stand by expert, so that a tile of rows has one expert's weights. How many tiles an expert needs is known on the device
alone: the grid is the most that can be, and the tiles behind the last one end at once. Widths are multiples of 8.
"""

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl

from home_dist.experts.kernels.triton_products import (
    BIAS_RELU,
    RELU_BACKWARD,
    added_product,
    as_stored,
    operand,
    rounded,
)

TILE = {"BM": 64, "BN": 64, "BK": 32, "num_warps": 4, "num_stages": 3}
ROWS = TILE["BM"]
"""Pairs of a tile."""


def weight_tile(bf16: bool) -> dict[str, int]:
    """Of gradients of weights. Left alone, the compiler for sm_100 spills a few registers of bf16."""
    return {**TILE, "maxnreg": 168} if bf16 else TILE


@triton.jit
def pairs_product_kernel(
    a, w, out, bias, rows_of, tile_expert, tile_row, offsets, N, K, w_line,
    GATHERED: tl.constexpr, W_TRANSPOSED: tl.constexpr, EPILOGUE: tl.constexpr, BF16: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """out (P, N) = a (P, K), or rows `rows_of` (P,) of a if GATHERED, times the expert's matrix (K, N), or (N, K) in memory if
    W_TRANSPOSED. bias: (E, N) of BIAS_RELU; RELU_BACKWARD writes 0 where out was 0. N, K and w_line, the stride of rows of the
    matrix, are passed divided by 8."""
    N *= 8
    K *= 8
    w_line *= 8
    e = tl.load(tile_expert + tl.program_id(0))
    if e >= 0:
        first = tl.load(tile_row + tl.program_id(0))
        rows = first + tl.arange(0, BM)
        columns = tl.program_id(1) * BN + tl.arange(0, BN)
        inner = tl.arange(0, BK)
        row_in = rows < tl.load(offsets + e + 1)
        column_in = columns < N
        source = tl.load(rows_of + rows, mask=row_in, other=0) if GATHERED else rows
        left = a + source.to(tl.int64)[:, None] * K + inner[None, :]
        right = w + e.to(tl.int64) * N * K
        if W_TRANSPOSED:
            right += inner[:, None] + columns[None, :] * w_line
        else:
            right += inner[:, None] * w_line + columns[None, :]
        total = tl.zeros((BM, BN), dtype=tl.float32)
        for k in range(0, K, BK):
            k_in = inner < K - k
            x = tl.load(left, mask=row_in[:, None] & k_in[None, :], other=0.0)
            y = tl.load(right, mask=k_in[:, None] & column_in[None, :], other=0.0)
            left += BK
            right += BK if W_TRANSPOSED else BK * w_line
            total = added_product(x, y, total, BF16)
        both_in = row_in[:, None] & column_in[None, :]
        where = rows.to(tl.int64)[:, None] * N + columns[None, :]
        if EPILOGUE == BIAS_RELU:
            if BF16:
                total = rounded(total).to(tl.float32)  # as eager rounds
            total += tl.load(bias + e * N + columns, mask=column_in, other=0.0)[None, :]
            total = tl.where(total < 0, 0.0, total)  # NaN stays
        if EPILOGUE == RELU_BACKWARD:
            active = tl.load(out + where, mask=both_in, other=0.0)
            total = tl.where(active <= 0, 0.0, total)
        tl.store(out + where, as_stored(total, out), mask=both_in)


@triton.jit
def pairs_weight_kernel(
    down, below, out, sums, rows_of, offsets, N, K,
    GATHERED: tl.constexpr, SUMS: tl.constexpr, BF16: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """out (E, N, K): per expert the sum over its pairs of down (P, N) times below (P, K), or its rows `rows_of` if GATHERED.
    sums (E, N): the sum of down, if SUMS. N and K are passed divided by 8."""
    N *= 8
    K *= 8
    e = tl.program_id(2)
    first = tl.load(offsets + e)
    end = tl.load(offsets + e + 1)
    left_columns = tl.program_id(0) * BM + tl.arange(0, BM)
    right_columns = tl.program_id(1) * BN + tl.arange(0, BN)
    inner = tl.arange(0, BK)
    left_in = left_columns < N
    right_in = right_columns < K
    total = tl.zeros((BM, BN), dtype=tl.float32)
    sum_of = tl.zeros((BM,), dtype=tl.float32)
    for start in range(first, end, BK):
        rows = start + inner
        row_in = rows < end
        source = tl.load(rows_of + rows, mask=row_in, other=0) if GATHERED else rows
        x = tl.load(
            down + rows.to(tl.int64)[None, :] * N + left_columns[:, None], mask=row_in[None, :] & left_in[:, None], other=0.0
        )
        y = tl.load(
            below + source.to(tl.int64)[:, None] * K + right_columns[None, :],
            mask=row_in[:, None] & right_in[None, :],
            other=0.0,
        )
        total = added_product(x, y, total, BF16)
        if SUMS:
            sum_of += tl.sum(x.to(tl.float32), 1)
    where = (e.to(tl.int64) * N + left_columns)[:, None] * K + right_columns[None, :]
    tl.store(out + where, total, mask=left_in[:, None] & right_in[None, :])
    if SUMS:  # noqa: SIM102
        if tl.program_id(1) == 0:
            tl.store(sums + e * N + left_columns, sum_of, mask=left_in)


@triton.jit
def sum_runs_kernel(values, factors, order, starts, out, SLOTS, D, BD: tl.constexpr):
    """out[p] (D,) = the sum over the slots of pair p, order[starts[p]] to order[starts[p + 1]], of the slot's factor times row
    slot // SLOTS of values (., D)."""
    p = tl.program_id(0)
    columns = tl.program_id(1) * BD + tl.arange(0, BD)
    inside = columns < D
    total = tl.zeros((BD,), dtype=tl.float32)
    for place in range(tl.load(starts + p), tl.load(starts + p + 1)):
        slot = tl.load(order + place)
        row = (slot // SLOTS).to(tl.int64)
        total += tl.load(factors + slot) * tl.load(values + row * D + columns, mask=inside, other=0.0)
    tl.store(out + p.to(tl.int64) * D + columns, total, mask=inside)


@triton.jit
def mix_kernel(y, gates, pair_of, out, SLOTS, D, BD: tl.constexpr):
    """out[r] (D,) = the sum over the SLOTS slots of row r of its gate times row pair_of[slot] of y (P, D)."""
    r = tl.program_id(0)
    columns = tl.program_id(1) * BD + tl.arange(0, BD)
    inside = columns < D
    total = tl.zeros((BD,), dtype=tl.float32)
    for m in range(0, SLOTS):
        pair = tl.load(pair_of + r * SLOTS + m).to(tl.int64)
        total += tl.load(gates + r * SLOTS + m) * tl.load(y + pair * D + columns, mask=inside, other=0.0)
    tl.store(out + r.to(tl.int64) * D + columns, total, mask=inside)


@triton.jit
def gate_grad_kernel(grad, y, pair_of, out, SLOTS, D, BD: tl.constexpr):
    """out[slot] = the inner product of grad's row slot // SLOTS with row pair_of[slot] of y (P, D). BD: at least D."""
    slot = tl.program_id(0)
    columns = tl.arange(0, BD)
    inside = columns < D
    row = (slot // SLOTS).to(tl.int64)
    pair = tl.load(pair_of + slot).to(tl.int64)
    left = tl.load(grad + row * D + columns, mask=inside, other=0.0)
    tl.store(out + slot, tl.sum(left * tl.load(y + pair * D + columns, mask=inside, other=0.0), 0))


@triton.jit
def sum_samples_kernel(parts, pair_of, is_first, out, SLOTS, ROWS_APART, TASKS, F, BD: tl.constexpr):
    """out[b] (F,) = the sum of parts' rows (P, F) of the distinct pairs of sample b: of those slots that are the first of their
    pair. Slot m of task k is (k * ROWS_APART + b) * SLOTS + m."""
    b = tl.program_id(0)
    columns = tl.program_id(1) * BD + tl.arange(0, BD)
    inside = columns < F
    total = tl.zeros((BD,), dtype=tl.float32)
    for k in range(0, TASKS):
        for m in range(0, SLOTS):
            slot = (k * ROWS_APART + b) * SLOTS + m
            if tl.load(is_first + slot) > 0:
                pair = tl.load(pair_of + slot).to(tl.int64)
                total += tl.load(parts + pair * F + columns, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + b.to(tl.int64) * F + columns, total, mask=inside)


class DevicePairs(NamedTuple):
    """Distinct pairs of a sample and an expert that it chose, by expert, then by sample. P is the most that there may be; those
    behind the last one have no slots. All tensors are made without asking the device how many there are."""

    pair_of: torch.Tensor
    """(K, B, M) int32: each slot's pair."""
    is_first: torch.Tensor
    """(K, B, M) int32: 1 for one slot of each pair."""
    order: torch.Tensor
    """(K B M,) int32: slots by pair."""
    starts: torch.Tensor
    """(P + 1,) int32: where each pair's slots begin in `order`."""
    samples: torch.Tensor
    """(P,) int32"""
    experts: torch.Tensor
    """(P,) int32; E for pairs that are none."""
    offsets: torch.Tensor
    """(E + 2,) int32: where each expert's pairs begin; the last group is of pairs that are none."""
    tile_expert: torch.Tensor
    """(tiles,) int32: the expert of each tile of rows, -1 for none."""
    tile_row: torch.Tensor
    """(tiles,) int32: its first pair."""

    @staticmethod
    def of(chosen: torch.Tensor, experts: int, per_sample: int | None = None) -> "DevicePairs":
        """chosen: (K, B, M) int64; per_sample: distinct experts of a sample, at most."""
        tasks, samples, slots = chosen.shape
        device, total = chosen.device, chosen.numel()
        most = samples * min(tasks * slots, experts, per_sample or experts)
        sample = torch.arange(samples, device=device).view(1, -1, 1).expand_as(chosen)
        keys, order = (chosen * samples + sample).flatten().sort(stable=True)
        first = torch.ones_like(keys, dtype=torch.bool)
        first[1:] = keys[1:] != keys[:-1]
        pair = first.cumsum(0) - 1

        def by_slot(values: torch.Tensor) -> torch.Tensor:
            return torch.empty_like(values, dtype=torch.int32).scatter_(0, order, values.int()).view(chosen.shape)

        def by_pair(values: torch.Tensor, other: int) -> torch.Tensor:
            """(P + 1,), `other` where there is no pair; what is no pair's first goes behind them."""
            found = torch.full((most + 2,), other, dtype=torch.int32, device=device)
            return found.scatter_(0, torch.where(first, pair, most + 1), values.int())[:-1]

        of_pair = by_pair(keys // samples, experts)[:-1]
        bounds = torch.arange(experts + 2, dtype=torch.int32, device=device)
        offsets = torch.searchsorted(of_pair, bounds).int()
        offsets[-1:].fill_(most)
        tiles = (offsets[1:-1] - offsets[:-2] + ROWS - 1) // ROWS
        ends = tiles.cumsum(0).int()
        number = torch.arange(most // ROWS + min(experts, most), dtype=torch.int32, device=device)
        expert = torch.searchsorted(ends, number, right=True).int()
        real = expert < experts
        known = expert.clamp(max=experts - 1)
        begin = offsets[known] + (number - (ends - tiles)[known]) * ROWS
        return DevicePairs(
            by_slot(pair),
            by_slot(first),
            order.int(),
            by_pair(torch.arange(total, device=device), total),
            by_pair(keys % samples, 0)[:-1],
            of_pair,
            offsets,
            torch.where(real, expert, -1),
            torch.where(real, begin, 0),
        )

    @property
    def most(self) -> int:
        """P"""
        return len(self.samples)


def product(
    a: torch.Tensor,
    weight: torch.Tensor,
    pairs: DevicePairs,
    epilogue: Any,
    bf16: bool,
    transposed: bool = True,
    gathered: bool = False,
    bias: torch.Tensor | None = None,
    out: torch.Tensor | None = None,
    full: bool = False,
) -> torch.Tensor:
    """(P, N): a (P, K), or (B, K) if `gathered`, times each expert's weight (E, N, K), or (E, K, N) if not `transposed`.

    out: the activations of RELU_BACKWARD, which the result overwrites. full: fp32 even if products are bf16."""
    columns, inner = weight.shape[1 if transposed else 2], a.shape[1]
    if out is None:
        # Zeros: rows behind the last pair are read by pointwise passes.
        out = a.new_zeros(pairs.most, columns, dtype=torch.bfloat16 if bf16 and not full else torch.float32)
    grid = (len(pairs.tile_expert), triton.cdiv(columns, TILE["BN"]))
    with torch.profiler.record_function("triton::pairs_product"):
        pairs_product_kernel[grid](
            a, weight, out, operand(bias, out), pairs.samples, pairs.tile_expert, pairs.tile_row, pairs.offsets,
            columns // 8, inner // 8, weight.shape[2] // 8, GATHERED=gathered, W_TRANSPOSED=transposed, EPILOGUE=epilogue,
            BF16=bf16, **TILE,
        )  # fmt: skip
    return out


def weight_grad(
    down: torch.Tensor, below: torch.Tensor, experts: int, pairs: DevicePairs, bf16: bool, gathered: bool, sums: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """(E, N, K) fp32 from down (P, N) and below (P, K), or (B, K) if `gathered`; and the sums of down (E, N), if asked for."""
    columns, inner = down.shape[1], below.shape[1]
    out = down.new_empty(experts, columns, inner, dtype=torch.float32)
    summed = down.new_empty(experts, columns, dtype=torch.float32) if sums else out
    grid = (triton.cdiv(columns, TILE["BM"]), triton.cdiv(inner, TILE["BN"]), experts)
    with torch.profiler.record_function("triton::pairs_weight_grad"):
        pairs_weight_kernel[grid](
            down, below, out, summed, pairs.samples, pairs.offsets, columns // 8, inner // 8, GATHERED=gathered, SUMS=sums,
            BF16=bf16, **weight_tile(bf16),
        )  # fmt: skip
    return out, summed


def block_of(width: int, most: int = 512) -> int:
    return min(triton.next_power_of_2(width), most)
