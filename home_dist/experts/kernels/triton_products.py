# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
"""Triton: grouped matrix products with an epilogue. Import it only if Triton is installed.

One kernel serves forward and backward, since either operand may be transposed: out[o] is the sum over the experts e of output o
of A[a_of[e]] @ B[b_of[e]]. Most outputs belong to one expert; the gradient of an input belongs to all experts that read it.
Tiles suit compute capability 8.0 and later by the compiler's report of registers, spills and shared memory; a device measures
which is the fastest.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl

from home_dist.experts.kernels import triton_tuning
from home_dist.experts.kernels.choice import WIDTH_MULTIPLE
from home_dist.experts.kernels.triton_tuning import Tuning, launch, near
from home_dist.layers.global_norm import Moments

NONE = tl.constexpr(0)
BIAS_RELU = tl.constexpr(1)
"""Writes ReLU(product + bias)."""
MOMENTS = tl.constexpr(2)
"""Also writes, per tile of samples, each column's mean and its sum of squares around the mean, over the samples of the mask."""
RELU_BACKWARD = tl.constexpr(3)
"""Writes 0 where the activation below is 0. Also writes, per tile of samples, each column's sum: the gradient of a bias."""


INTERPRETED = tl.constexpr(triton_tuning.INTERPRETED)


@triton.jit
def rounded(x):
    """x in bf16. Triton's interpreter has no bf16 products, and its casts truncate: it gets the rounded values in fp32."""
    if INTERPRETED:
        bits = x.to(tl.float32).to(tl.int32, bitcast=True)
        bits += 0x7FFF + ((bits >> 16) & 1)
        return (bits & -65536).to(tl.float32, bitcast=True)
    return x.to(tl.bfloat16)


@triton.jit
def as_stored(x, to):
    """x, rounded to the element type of the pointer `to`."""
    if to.dtype.element_ty == tl.bfloat16:
        x = rounded(x)
    return x


@triton.jit
def added_product(x, y, total, BF16: tl.constexpr):
    """total + x y. Three tf32 products approximate an fp32 product to a few of its roundings."""
    return tl.dot(rounded(x), rounded(y), total) if BF16 else tl.dot(x, y, total, input_precision="tf32x3")


@triton.jit(do_not_specialize=["near", "width"])
def product_kernel(
    a, b, out, bias, below, weight, parts, starts, a_of, b_of,
    M, N, K, a_batch, a_line, b_batch, b_line, near, width,
    A_TRANSPOSED: tl.constexpr, B_TRANSPOSED: tl.constexpr, EPILOGUE: tl.constexpr, WEIGHTED: tl.constexpr, BF16: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """a (., M, K), b (., K, N) -> out (outputs, M, N). bias: (outputs, N). below: like out.

    A transposed operand is (., K, M) or (., N, K) in memory. a_line and b_line are the strides of rows in memory, a_batch and
    b_batch of matrices. Widths and strides are passed divided by 8: the compiler then knows that they are multiples of 8, and
    loads 16 bytes at once. Widths are N, and M if a is transposed, else K; the remaining size is the number of samples, passed
    as it is. A matrix has less than 2^31 entries.

    weight: (M,), the mask of samples, if WEIGHTED. parts: (outputs, tiles of M, 2, N) for MOMENTS, (outputs, tiles, N) for
    RELU_BACKWARD. starts: (outputs + 1,), the first expert of each output. near, width: what measurements of tiles depend on
    beside N, the number of samples, rounded, and the other width; the kernel does not read them.
    """
    N *= 8
    a_batch = a_batch.to(tl.int64) * 8
    b_batch = b_batch.to(tl.int64) * 8
    a_line *= 8
    b_line *= 8
    if A_TRANSPOSED:
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
        if A_TRANSPOSED:
            left += rows[:, None] + inner[None, :] * a_line
        else:
            left += rows[:, None] * a_line + inner[None, :]
        if B_TRANSPOSED:
            right += inner[:, None] + columns[None, :] * b_line
        else:
            right += inner[:, None] * b_line + columns[None, :]
        for k in range(0, K, BK):
            k_in = inner < K - k
            x = tl.load(left, mask=row_in[:, None] & k_in[None, :], other=0.0)
            y = tl.load(right, mask=k_in[:, None] & column_in[None, :], other=0.0)
            left += BK * a_line if A_TRANSPOSED else BK
            right += BK if B_TRANSPOSED else BK * b_line
            total = added_product(x, y, total, BF16)

    both_in = row_in[:, None] & column_in[None, :]
    where = rows[:, None] * N + columns[None, :]
    out += o.to(tl.int64) * M * N
    below += o.to(tl.int64) * M * N
    if EPILOGUE == BIAS_RELU:
        if BF16:
            total = rounded(total).to(tl.float32)  # as eager rounds
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
        # A sample outside the mask has weight 0; its NaN shows all the same, as in eager.
        mean = tl.sum(total * counts[:, None], 0) / tl.maximum(tl.sum(counts, 0), 1.0)
        off = (total - mean[None, :]) * counts[:, None]
        part = parts + (o * tiles + row_tile) * 2 * N + columns
        tl.store(part, mean, mask=column_in)
        tl.store(part + N, tl.sum(off * off, 0), mask=column_in)


@dataclass(frozen=True)
class ProductTile:
    """The meta-parameters of a product's kernel: a program computes (BM, BN) of the output, BK of the inner width at a time."""

    BM: int
    BN: int
    BK: int
    num_warps: int
    num_stages: int


TILES = {
    # (bf16, large) -> candidates
    (False, False): (ProductTile(32, 32, 32, 4, 3), ProductTile(32, 32, 16, 2, 3)),
    (False, True): (ProductTile(64, 64, 16, 4, 3), ProductTile(64, 32, 16, 4, 3), ProductTile(128, 64, 16, 8, 3)),
    (True, False): (ProductTile(32, 32, 64, 4, 3), ProductTile(32, 32, 32, 2, 3)),
    (True, True): (ProductTile(128, 128, 32, 8, 3), ProductTile(128, 64, 32, 4, 3), ProductTile(64, 64, 64, 4, 3)),
}
_TUNING = Tuning(
    ("near", "N", "width", "A_TRANSPOSED", "B_TRANSPOSED", "EPILOGUE", "BF16"),
    lambda arguments: "out" if arguments["EPILOGUE"] == RELU_BACKWARD.value else None,
)


class TileSums(NamedTuple):
    """What an epilogue sums by tile of samples."""

    values: torch.Tensor
    """(outputs, tiles, 2, N) of MOMENTS, (outputs, tiles, N) of RELU_BACKWARD."""
    samples: int
    """Of a tile; the last one may have fewer."""


def candidates_of(bf16: bool, rows: int, columns: int) -> tuple[ProductTile, ...]:
    return TILES[bf16, rows >= 128 and columns >= 64]


class Indices:
    """Tables in device memory: the matrices that a product of an expert reads, and the experts of an output."""

    def __init__(self, experts: tuple[int, ...], device: torch.device):
        def table(values: Sequence[int]) -> torch.Tensor:
            return torch.tensor(list(values), dtype=torch.int32, device=device)

        total = sum(experts)
        self.input_of = table([i for i, count in enumerate(experts) for _ in range(count)])
        """(E,), the input of each expert."""
        self.each = table(range(total))
        """(E,), each expert itself."""
        self.of_experts = table(range(total + 1))
        """The starts of a product with an output per expert."""
        self.of_inputs = table([sum(experts[:i]) for i in range(len(experts) + 1)])
        """The starts of a product with an output per input, summed over its experts."""


@functools.cache
def indices_of(experts: tuple[int, ...], device: torch.device) -> Indices:
    return Indices(experts, device)


def product(
    a: torch.Tensor,
    b: torch.Tensor,
    a_of: torch.Tensor,
    indices: Indices,
    epilogue: Any,
    bf16: bool,
    b_of: torch.Tensor | None = None,
    starts: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    below: torch.Tensor | None = None,
    mask: torch.Tensor | None = None,
    full: bool = False,
) -> tuple[torch.Tensor, TileSums]:
    """The product of a (., M, K) and b (., K, N).

    a_of, b_of: (E,), the matrices of a and of b that the experts read; by default, matrix e of b for expert e. starts:
    (outputs + 1,), the first expert of each output; by default, one expert per output. bias: (outputs, N), for BIAS_RELU.
    below: (outputs, M, N), the activations of RELU_BACKWARD, which the result overwrites. mask: (M,), the samples in MOMENTS.
    full: whether the result is fp32 even if products are bf16.

    Returns the product, (outputs, M, N), and the epilogue's sums by tile of samples, if it has any.
    """
    starts = indices.of_experts if starts is None else starts
    rows, inner, columns, outputs = a.shape[1], a.shape[2], b.shape[2], len(starts) - 1
    a_transposed, b_transposed = a.stride(1) == 1 < a.stride(2), b.stride(1) == 1 < b.stride(2)
    candidates = candidates_of(bf16, rows, columns)
    count = triton.cdiv(rows, min(tile.BM for tile in candidates))
    stored = torch.bfloat16 if bf16 and not full else torch.float32
    out = a.new_empty(outputs, rows, columns, dtype=stored) if below is None else below
    # Room for the sums of the smallest tiles.
    of_tile = {MOMENTS.value: (2, columns), RELU_BACKWARD.value: (columns,)}.get(epilogue.value, ())
    parts = a.new_empty(outputs * count * math.prod(of_tile), dtype=torch.float32) if of_tile else out
    sizes = (rows // 8, columns // 8, inner) if a_transposed else (rows, columns // 8, inner // 8)
    lines = (a.stride(0), a.stride(2 if a_transposed else 1), b.stride(0), b.stride(2 if b_transposed else 1))
    with torch.profiler.record_function("triton::grouped_product"):
        tile = launch(
            product_kernel, _TUNING, candidates,
            lambda tile: (triton.cdiv(rows, tile["BM"]) * triton.cdiv(columns, tile["BN"]), outputs),
            a, b, out, operand(bias, out), out, operand(mask, out), parts, starts, a_of, operand(b_of, indices.each),
            *sizes, *(n // 8 for n in lines), near(inner if a_transposed else rows), sizes[0 if a_transposed else 2],
            A_TRANSPOSED=a_transposed, B_TRANSPOSED=b_transposed, EPILOGUE=epilogue.value, WEIGHTED=mask is not None, BF16=bf16,
        )  # fmt: skip
    if not of_tile:
        return out, TileSums(parts, 0)
    count = triton.cdiv(rows, tile["BM"])
    return out, TileSums(parts[: outputs * count * math.prod(of_tile)].view(outputs, count, *of_tile), tile["BM"])


def joined_moments(sums: TileSums, rows: int, mask: torch.Tensor | None) -> Moments:
    """Joins the moments of tiles of samples, sums of (E, tiles, 2, D), as in Chan et al. 1979. rows: the number of samples."""
    parts, size = sums
    weight = parts.new_ones(rows) if mask is None else mask
    weight = torch.nn.functional.pad(weight, (0, parts.shape[1] * size - rows))
    counts = weight.view(-1, size).sum(1).unsqueeze(1)
    total = counts.sum()
    means, squares = parts.unbind(2)
    mean = (means * counts).sum(1) / total.clamp(min=1)
    return mean, (squares + counts * (means - mean.unsqueeze(1)).square()).sum(1), total


def padded(x: torch.Tensor) -> torch.Tensor:
    """x (..., F), with zeros up to the next multiple of WIDTH_MULTIPLE."""
    missing = -x.shape[-1] % WIDTH_MULTIPLE
    return torch.nn.functional.pad(x, (0, missing)) if missing else x


def operand(tensor: torch.Tensor | None, other: torch.Tensor) -> torch.Tensor:
    """Returns tensor, or `other` if tensor is None: a kernel needs a pointer even for an operand that it does not read."""
    return other if tensor is None else tensor
