# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
"""Triton: grouped matrix products with what belongs to them in the epilogue. Imported only where Triton is in use.

One kernel serves forward and backward, as its operands may lie turned: out[o] = sum over the experts e of output o of
A[a_of[e]] @ B[b_of[e]]. Mostly an output is of one expert; the gradient of an input is of all experts that read it.
"""

import os

import triton
import triton.language as tl

NONE = tl.constexpr(0)
BIAS_RELU = tl.constexpr(1)
"""ReLU(. + bias)"""
MOMENTS = tl.constexpr(2)
"""Besides, per tile of samples: each column's mean and sum of squares around it, over samples that count."""
RELU_BACKWARD = tl.constexpr(3)
"""0 where the activation below is 0; besides, per tile of samples, each column's sum: a bias's gradient."""


INTERPRETED = tl.constexpr(os.environ.get("TRITON_INTERPRET") == "1")


@triton.jit
def rounded(x):
    """To bf16. The interpreter, whose products do not know the type and whose casts cut off, gets the same values in fp32."""
    if INTERPRETED:
        bits = x.to(tl.float32).to(tl.int32, bitcast=True)
        bits += 0x7FFF + ((bits >> 16) & 1)
        return (bits & -65536).to(tl.float32, bitcast=True)
    return x.to(tl.bfloat16)


@triton.jit
def as_stored(x, to):
    """x in the type that the pointer `to` is of."""
    if to.dtype.element_ty == tl.bfloat16:
        x = rounded(x)
    return x


@triton.jit
def grouped_product(
    a, b, out, bias, below, weight, parts, starts, a_of, b_of,
    M, N, K, a_batch, a_line, b_batch, b_line,
    A_TURNED: tl.constexpr, B_TURNED: tl.constexpr, EPILOGUE: tl.constexpr, WEIGHTED: tl.constexpr, BF16: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """a (., M, K), b (., K, N) -> out (outputs, M, N). bias: (outputs, N). below: like out.

    A turned operand lies as (., K, M) or (., N, K); a_line, b_line are the lengths of what is contiguous. All widths, that is
    all of these but the number of samples, are passed as multiples of 8, so that the compiler knows and loads 16 bytes at once:
    N, lines and batches always, and M if a is turned, else K. A matrix has less than 2^31 entries.

    weight: (M,), samples that count, if WEIGHTED. parts: (outputs, tiles of M, 2, N) for MOMENTS, (outputs, tiles, N) for
    RELU_BACKWARD. starts: (outputs + 1,), the first expert of each output.
    """
    N *= 8
    a_batch = a_batch.to(tl.int64) * 8
    b_batch = b_batch.to(tl.int64) * 8
    a_line *= 8
    b_line *= 8
    if A_TURNED:
        M *= 8
    else:
        K *= 8
    tiles = tl.cdiv(M, BM)
    row_tile = tl.program_id(0) % tiles
    column_tile = tl.program_id(0) // tiles
    o = tl.program_id(1)
    rows = row_tile * BM + tl.arange(0, BM)
    columns = column_tile * BN + tl.arange(0, BN)
    inner = tl.arange(0, BK)
    row_in = rows < M
    column_in = columns < N

    total = tl.zeros((BM, BN), dtype=tl.float32)
    first = tl.load(starts + o)
    last = tl.load(starts + o + 1)
    for e in range(first, last):
        left = a + tl.load(a_of + e) * a_batch
        right = b + tl.load(b_of + e) * b_batch
        if A_TURNED:
            left += rows[:, None] + inner[None, :] * a_line
        else:
            left += rows[:, None] * a_line + inner[None, :]
        if B_TURNED:
            right += inner[:, None] + columns[None, :] * b_line
        else:
            right += inner[:, None] * b_line + columns[None, :]
        for k in range(0, K, BK):
            k_in = inner < K - k
            x = tl.load(left, mask=row_in[:, None] & k_in[None, :], other=0.0)
            y = tl.load(right, mask=k_in[:, None] & column_in[None, :], other=0.0)
            left += BK * a_line if A_TURNED else BK
            right += BK if B_TURNED else BK * b_line
            # Three tf32 products make up an fp32 one, within a few of its roundings.
            total = tl.dot(rounded(x), rounded(y), total) if BF16 else tl.dot(x, y, total, input_precision="tf32x3")

    both_in = row_in[:, None] & column_in[None, :]
    where = rows[:, None] * N + columns[None, :]
    out += o.to(tl.int64) * M * N
    below += o.to(tl.int64) * M * N
    if EPILOGUE == BIAS_RELU:
        if BF16:
            total = rounded(total).to(tl.float32)  # as the definition rounds
        total += tl.load(bias + o * N + columns, mask=column_in, other=0.0)[None, :]
        total = tl.where(total < 0, 0.0, total)  # NaN stays
    if EPILOGUE == RELU_BACKWARD:
        active = tl.load(below + where, mask=both_in, other=0.0)
        total = tl.where(active <= 0, 0.0, total)
        tl.store(parts + (o * tiles + row_tile) * N + columns, tl.sum(total, 0), mask=column_in)
    tl.store(out + where, as_stored(total, out), mask=both_in)
    if EPILOGUE == MOMENTS:
        total = as_stored(total, out).to(tl.float32)
        counts = row_in.to(tl.float32)
        if WEIGHTED:
            counts = tl.load(weight + rows, mask=row_in, other=0.0)
        # A sample that does not count has weight 0; its NaN shows all the same, as in the definition.
        mean = tl.sum(total * counts[:, None], 0) / tl.maximum(tl.sum(counts, 0), 1.0)
        off = (total - mean[None, :]) * counts[:, None]
        part = parts + (o * tiles + row_tile) * 2 * N + columns
        tl.store(part, mean, mask=column_in)
        tl.store(part + N, tl.sum(off * off, 0), mask=column_in)
