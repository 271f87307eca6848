# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
"""Triton: the mixture of many gates over many experts, by the tiles of mixture_tiles.py. Import it only if Triton is installed.

A program takes one tile of gates (or experts) and some samples, one after the other. Per sample it reads a slab of rows of D
values for CHUNK of the tile's needs at a time, and multiplies it with their gates, in full fp32. Shapes are those of
triton_mixture.py. Products count as fp32 on CUDA cores: three tf32 products would be faster on tensor cores, and round.
"""

from dataclasses import dataclass, replace

import torch
import triton
import triton.language as tl

from home_dist.experts.kernels import mixture_tiles
from home_dist.experts.kernels.dropout import Dropout
from home_dist.experts.kernels.fused import Activation
from home_dist.experts.kernels.mixture_tiles import Sees, Tiles, expert_tiles, gate_tiles, power_of_two
from home_dist.experts.kernels.triton_dropout import factors, keys
from home_dist.experts.kernels.triton_products import as_stored, operand
from home_dist.experts.kernels.triton_tuning import Tuning, launch, near

CHUNK = tl.constexpr(mixture_tiles.CHUNK)
PRECISION = tl.constexpr("ieee")


@triton.jit
def _of_experts(values, experts, e_in, columns, d_in, D):
    """Rows `experts` of values (E, D)."""
    return tl.load(values + experts[:, None] * D + columns[None, :], mask=e_in[:, None] & d_in[None, :], other=0.0)


@triton.jit
def _kept(experts, b, columns, B, D, first, second, threshold, factor):
    """Dropout's factors of the outputs of `experts` for sample b."""
    return factors((experts[:, None] * B + b) * D + columns[None, :], first, second, threshold, factor)


@triton.jit
def _gates(gates, gate_k, gate_b, gate_e, ks, b, experts, needed):
    """The gates of each pair of ks and experts that broadcast, where needed; elsewhere 0."""
    return tl.load(gates + ks.to(tl.int64) * gate_k + b.to(tl.int64) * gate_b + experts * gate_e, mask=needed, other=0.0)


@triton.jit(do_not_specialize=["first", "second", "threshold", "factor", "near"])
def mix_tiles_kernel(
    y, scale, shift, gates, out, rows, starts, needed, bits, first, second, threshold, factor, B, D, tiles, near, gate_k,
    gate_b, gate_e,
    NORM: tl.constexpr, DROPOUT: tl.constexpr, HEIGHT: tl.constexpr, DT: tl.constexpr, SAMPLES: tl.constexpr,
):  # fmt: skip
    """out[k, b] = sum over e of gates[k, b, e] * dropout(activation(y[e, b])), for a tile of gates."""
    D *= 8
    tile = tl.program_id(0) % tiles
    block = tl.program_id(0) // tiles
    columns = tl.program_id(1) * DT + tl.arange(0, DT)
    d_in = columns < D
    ks = tl.load(rows + tile * HEIGHT + tl.arange(0, HEIGHT))
    k_in = ks >= 0
    begin = tl.load(starts + tile)
    end = tl.load(starts + tile + 1)
    inner = tl.arange(0, CHUNK)
    for i in range(0, min(SAMPLES, B - block * SAMPLES)):
        b = block * SAMPLES + i
        total = tl.zeros((HEIGHT, DT), dtype=tl.float32)
        for c in range(begin, end):
            es = tl.load(needed + c * CHUNK + inner)
            e_in = es >= 0
            words = tl.load(bits + c * HEIGHT + tl.arange(0, HEIGHT))
            needs = ((words[:, None] >> inner[None, :]) & 1) > 0
            g = _gates(gates, gate_k, gate_b, gate_e, ks[:, None], b, es[None, :], needs)
            place = (es[:, None].to(tl.int64) * B + b) * D + columns[None, :]
            raw = tl.load(y + place, mask=e_in[:, None] & d_in[None, :], other=0.0).to(tl.float32)
            add = _of_experts(shift, es, e_in, columns, d_in, D)
            if NORM:
                v = raw * _of_experts(scale, es, e_in, columns, d_in, D) + add
                active = v * tl.sigmoid(v)
            else:
                v = raw + add
                active = tl.where(v < 0, 0.0, v)  # NaN stays
            if DROPOUT:
                active *= _kept(es, b, columns, B, D, first, second, threshold, factor)
            total = tl.dot(g, active, total, input_precision=PRECISION)
        where = (ks[:, None].to(tl.int64) * B + b) * D + columns[None, :]
        tl.store(out + where, total, mask=k_in[:, None] & d_in[None, :])


@triton.jit(do_not_specialize=["first", "second", "threshold", "factor", "near"])
def mix_tiles_backward_kernel(
    grad, y, scale, shift, mean, rstd, away, along, weight, gates, gate_grad, parts, out, rows, starts, needed, bits,
    first, second, threshold, factor, B, D, E, K, tiles, near, gate_k, gate_b, gate_e,
    NORM: tl.constexpr, SUMS: tl.constexpr, OUT: tl.constexpr, OF_BATCH: tl.constexpr, WEIGHTED: tl.constexpr,
    DROPOUT: tl.constexpr, HEIGHT: tl.constexpr, DT: tl.constexpr, SAMPLES: tl.constexpr,
):  # fmt: skip
    """The backward of a tile of experts; dv is the gradient of the activation's argument.

    With SUMS: gate_grad (tiles of D, K, B, E) where a gate sees an expert, and parts (blocks of SAMPLES, 2, E, D), the sums of
    dv and, with NORM, of dv * (y - mean) * rstd. With OUT: out (E, B, D), which may be y, gets the gradient of y:
    scale * dv - weight * (away + along * (y - mean) * rstd), the latter if OF_BATCH.
    """
    D *= 8
    tile = tl.program_id(0) % tiles
    block = tl.program_id(0) // tiles
    columns = tl.program_id(1) * DT + tl.arange(0, DT)
    d_in = columns < D
    es = tl.load(rows + tile * HEIGHT + tl.arange(0, HEIGHT))
    e_in = es >= 0
    inside = e_in[:, None] & d_in[None, :]
    begin = tl.load(starts + tile)
    end = tl.load(starts + tile + 1)
    inner = tl.arange(0, CHUNK)
    add = _of_experts(shift, es, e_in, columns, d_in, D)
    if NORM:
        factor_of = _of_experts(scale, es, e_in, columns, d_in, D)
        if SUMS or OF_BATCH:
            centre = _of_experts(mean, es, e_in, columns, d_in, D)
        if OF_BATCH:
            lost = _of_experts(away, es, e_in, columns, d_in, D)
            slope = _of_experts(along, es, e_in, columns, d_in, D) * _of_experts(rstd, es, e_in, columns, d_in, D)
    if SUMS:
        shift_sum = tl.zeros((HEIGHT, DT), dtype=tl.float32)
        scale_sum = tl.zeros((HEIGHT, DT), dtype=tl.float32)
    for i in range(0, min(SAMPLES, B - block * SAMPLES)):
        b = block * SAMPLES + i
        place = (es[:, None].to(tl.int64) * B + b) * D + columns[None, :]
        raw = tl.load(y + place, mask=inside, other=0.0).to(tl.float32)
        if NORM:
            v = raw * factor_of + add
            s = tl.sigmoid(v)
            active = v * s
        else:
            v = raw + add
            active = tl.where(v < 0, 0.0, v)
        if DROPOUT:
            kept = _kept(es, b, columns, B, D, first, second, threshold, factor)
            active *= kept
        active = tl.where(inside, active, 0.0)
        dv = tl.zeros((HEIGHT, DT), dtype=tl.float32)
        for c in range(begin, end):
            ks = tl.load(needed + c * CHUNK + inner)
            words = tl.load(bits + c * HEIGHT + tl.arange(0, HEIGHT))
            needs = ((words[:, None] >> inner[None, :]) & 1) > 0
            g = _gates(gates, gate_k, gate_b, gate_e, ks[None, :], b, es[:, None], needs)
            k_in = ks >= 0
            from_out = (ks[:, None].to(tl.int64) * B + b) * D + columns[None, :]
            out_grad = tl.load(grad + from_out, mask=k_in[:, None] & d_in[None, :], other=0.0)
            dv = tl.dot(g, out_grad, dv, input_precision=PRECISION)
            if SUMS:
                of_gates = tl.dot(active, tl.trans(out_grad), input_precision=PRECISION)
                to = ((tl.program_id(1) * K + ks[None, :]).to(tl.int64) * B + b) * E + es[:, None]
                tl.store(gate_grad + to, of_gates, mask=needs)
        if DROPOUT:
            dv *= kept
        dv = dv * (s * (1 + v * (1 - s))) if NORM else tl.where(v <= 0, 0.0, dv)
        if SUMS:
            shift_sum += dv
            if NORM:
                scale_sum += dv * (raw - centre)
        if OUT:
            if NORM:
                dv *= factor_of
                if OF_BATCH:
                    count = 1.0
                    if WEIGHTED:
                        count = tl.load(weight + b)
                    dv -= count * (lost + slope * (raw - centre))
            tl.store(out + place, as_stored(dv, out), mask=inside)
    if SUMS:
        part = parts + (block.to(tl.int64) * 2 * E + es[:, None]) * D + columns[None, :]
        tl.store(part, shift_sum, mask=inside)
        if NORM:
            tl.store(part + E * D, scale_sum * _of_experts(rstd, es, e_in, columns, d_in, D), mask=inside)


_REGISTERS = 248
"""Of a thread. Left alone, the compiler sometimes spills a few to fit a second program onto a multiprocessor."""


@dataclass(frozen=True)
class ForwardTile:
    """Columns of D at a time, and how a program is run."""

    DT: int
    num_warps: int
    num_stages: int


@dataclass(frozen=True)
class BackwardTile:
    num_warps: int
    num_stages: int
    maxnreg: int = _REGISTERS


FORWARD_TILES = {
    # HEIGHT -> tiles without spills on any GPU that benchmarks/gpu_kernels.py compiles for
    8: (ForwardTile(128, 8, 2), ForwardTile(64, 4, 1), ForwardTile(64, 8, 2)),
    16: (ForwardTile(128, 4, 1), ForwardTile(128, 8, 2), ForwardTile(64, 4, 1), ForwardTile(64, 8, 2)),
    32: (ForwardTile(128, 8, 2), ForwardTile(64, 8, 2)),
    64: (ForwardTile(64, 4, 1), ForwardTile(64, 8, 2)),
}
_BACKWARD = (BackwardTile(8, 2), BackwardTile(8, 1))
_BACKWARD_VALUES = 2048
"""Values of a tile of the backward, HEIGHT times DT, at most: more would spill registers."""
UNSUMMED, SUMMED = 8, 32
"""Samples of a program, at most: without and with sums over samples, which are written once per program."""
_PROGRAMS = 1024
"""A launch of fewer programs takes fewer samples for each: some 130 multiprocessors run a few at a time."""
_KEYS = ("near", "D", "tiles", "gate_e", "NORM", "DROPOUT", "HEIGHT", "SAMPLES")
FORWARD = Tuning(_KEYS)
BACKWARD = Tuning((*_KEYS, "DT", "SUMS", "OUT", "OF_BATCH"), lambda arguments: "out" if arguments["OUT"] else None)


def forward_candidates(height: int, width: int) -> tuple[ForwardTile, ...]:
    """No wider than D needs."""
    return tuple(dict.fromkeys(replace(tile, DT=min(tile.DT, columns_of(width))) for tile in FORWARD_TILES[height]))


def backward_candidates(height: int) -> tuple[BackwardTile, ...]:
    return _BACKWARD if height < 32 else _BACKWARD[1:]  # of 32 rows, two stages spill


def height_of(width: int) -> int:
    """Rows of a tile of experts in a backward, at most."""
    return min(_BACKWARD_VALUES // columns_of(width), 32)


def columns_of(width: int) -> int:
    """DT of a backward: gradients of gates are summed over tiles of D, so that it is not measured but as wide as can be. It is
    an inner width of products, which are 16 at least."""
    return max(min(power_of_two(width), 128), 16)


def samples_of(rows: int, tiles: int, most: int = UNSUMMED) -> int:
    """Samples of a program: a power of two, or else there would be a kernel per batch size."""
    return max(most // 4, min(most, power_of_two(max(rows * tiles // _PROGRAMS, 1) + 1) // 2))


def mix(y: torch.Tensor, activation: Activation, gates: torch.Tensor, dropout: Dropout | None, sees: Sees) -> torch.Tensor:
    """As `triton_mixture.mix`; gates are 0 where they do not see an expert."""
    _, rows, width = y.shape
    tiles = gate_tiles(sees, max(FORWARD_TILES), y.device)
    out = y.new_empty(len(gates), rows, width, dtype=torch.float32)
    samples = samples_of(rows, tiles.number)
    with torch.profiler.record_function("triton::mix"):
        launch(
            mix_tiles_kernel, FORWARD, forward_candidates(tiles.height, width),
            lambda tile: (triton.cdiv(rows, samples) * tiles.number, triton.cdiv(width, tile["DT"])),
            y, operand(activation.scale, y), activation.shift, gates, out, *tiles[2:], *keys(dropout), rows, width // 8,
            tiles.number, near(rows), *gates.stride(), NORM=activation.scale is not None, DROPOUT=dropout is not None,
            HEIGHT=tiles.height, SAMPLES=samples,
        )  # fmt: skip
    return out


def mix_sums(
    grad: torch.Tensor,
    y: torch.Tensor,
    activation: Activation,
    gates: torch.Tensor,
    dropout: Dropout | None,
    sees: Sees,
    in_place: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """As `triton_mixture.mix_sums`; a gate that does not see an expert gets no gradient for it."""
    experts, rows, width = y.shape
    tiles, columns = expert_tiles(sees, height_of(width), y.device), columns_of(width)
    samples = samples_of(rows, tiles.number, SUMMED)
    new = grad.new_empty if sees.pairs == len(gates) * experts else grad.new_zeros
    gate_grad = new(triton.cdiv(width, columns), *gates.shape)
    parts = grad.new_empty(triton.cdiv(rows, samples), 2, experts, width)
    _backward(
        "triton::mix_sums", tiles, samples, grad, y, activation, gates, (None, None, None), dropout, gate_grad, parts, in_place
    )
    return summed(gate_grad, parts, activation.scale is not None)


def summed(gate_grad: torch.Tensor, parts: torch.Tensor, norm: bool) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Over tiles: gate_grad (tiles of D, K, B, E), parts (tiles of samples, 2, E, D). What `mix_sums` returns."""
    sums = parts.sum(0) if norm else parts[:, :1].sum(0)
    return gate_grad[0] if len(gate_grad) == 1 else gate_grad.sum(0), sums[0], sums[1] if norm else None


def mix_inner_(
    grad: torch.Tensor,
    y: torch.Tensor,
    activation: Activation,
    gates: torch.Tensor,
    statistics: tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None],
    dropout: Dropout | None,
    sees: Sees,
) -> None:
    """As `triton_mixture.mix_inner_`; statistics: away, along and mask."""
    tiles = expert_tiles(sees, height_of(y.shape[2]), y.device)
    samples = samples_of(y.shape[1], tiles.number)
    _backward("triton::mix_inner", tiles, samples, grad, y, activation, gates, statistics, dropout, None, None, True)


def _backward(
    name: str,
    tiles: Tiles,
    samples: int,
    grad: torch.Tensor,
    y: torch.Tensor,
    activation: Activation,
    gates: torch.Tensor,
    statistics: tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None],
    dropout: Dropout | None,
    gate_grad: torch.Tensor | None,
    parts: torch.Tensor | None,
    writes: bool,
) -> None:
    experts, rows, width = y.shape
    columns = columns_of(width)
    grid = (triton.cdiv(rows, samples) * tiles.number, triton.cdiv(width, columns))
    with torch.profiler.record_function(name):
        launch(
            mix_tiles_backward_kernel, BACKWARD, backward_candidates(tiles.height), lambda _: grid,
            grad, y, *(operand(t, y) for t in (*activation, *statistics)), gates, operand(gate_grad, y), operand(parts, y), y,
            *tiles[2:], *keys(dropout), rows, width // 8, experts, len(gates), tiles.number, near(rows), *gates.stride(),
            NORM=activation.scale is not None, SUMS=parts is not None, OUT=writes, OF_BATCH=statistics[0] is not None,
            WEIGHTED=statistics[2] is not None, DROPOUT=dropout is not None, HEIGHT=tiles.height, DT=columns, SAMPLES=samples,
        )  # fmt: skip
