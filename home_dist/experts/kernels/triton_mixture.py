# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
"""Triton: activation, dropout and mixture of the experts' outputs in one pass, and its backward in two, or in one where no
statistics of the batch stand between. The kernels are for few gates and experts; triton_tiled_mixture.py has those for many.

Activations exist in registers only. y: (E, B, D) before the activation; gates: (K, B, E); out: (K, B, D). Kernels take D
divided by 8. KP, the padded number of gates, and DT, a tile of D, are powers of two. Tile sizes suit compute capability 8.0 and
later by the compiler's report: registers and spills. Import it only if Triton is installed.
"""

from dataclasses import asdict, dataclass

import torch
import triton
import triton.language as tl

from home_dist.experts.kernels import triton_tiled_mixture as tiled
from home_dist.experts.kernels.dropout import Dropout
from home_dist.experts.kernels.fused import Activation
from home_dist.experts.kernels.mixture_tiles import Sees, power_of_two
from home_dist.experts.kernels.triton_dropout import factors, keys
from home_dist.experts.kernels.triton_products import as_stored, operand


@triton.jit
def _argument(y, scale, shift, at, d_in, NORM: tl.constexpr):
    """The activation's argument for y (R, DT): y * scale + shift, or y + shift."""
    add = tl.load(shift + at, mask=d_in, other=0.0)[None, :]
    if NORM:
        return y * tl.load(scale + at, mask=d_in, other=0.0)[None, :] + add
    return y + add


@triton.jit(do_not_specialize=["first", "second", "threshold", "factor"])
def mix_kernel(
    y, scale, shift, gates, out, first, second, threshold, factor, B, D, E, K, gate_k, gate_b, gate_e,
    NORM: tl.constexpr, DROPOUT: tl.constexpr, KP: tl.constexpr, R: tl.constexpr, DT: tl.constexpr,
):  # fmt: skip
    """out[k, b] = sum over e of gates[k, b, e] * dropout(activation(y[e, b]))."""
    D *= 8
    rows = tl.program_id(0) * R + tl.arange(0, R)
    columns = tl.program_id(1) * DT + tl.arange(0, DT)
    of = tl.arange(0, KP)
    row_in, d_in, k_in = rows < B, columns < D, of < K
    inside = row_in[:, None] & d_in[None, :]
    gate_in = k_in[:, None] & row_in[None, :]
    gate = gates + of[:, None].to(tl.int64) * gate_k + rows[None, :] * gate_b
    place = rows[:, None] * D + columns[None, :]
    total = tl.zeros((KP, R, DT), dtype=tl.float32)
    for e in range(0, E):
        raw = tl.load(y + place, mask=inside, other=0.0).to(tl.float32)
        y += B * D
        v = _argument(raw, scale, shift, e * D + columns, d_in, NORM)
        active = v * tl.sigmoid(v) if NORM else tl.where(v < 0, 0.0, v)
        if DROPOUT:
            active *= factors(place + e * B * D, first, second, threshold, factor)
        g = tl.load(gate + e * gate_e, mask=gate_in, other=0.0)
        total += g[:, :, None] * active[None, :, :]
    where = of[:, None, None].to(tl.int64) * B * D + place[None, :, :]
    tl.store(out + where, total, mask=k_in[:, None, None] & inside[None, :, :])


@triton.jit(do_not_specialize=["first", "second", "threshold", "factor"])
def mix_sums_kernel(
    grad, y, scale, shift, mean, rstd, gates, gate_grad, parts, first, second, threshold, factor, B, D, E, K,
    gate_k, gate_b, gate_e,
    NORM: tl.constexpr, DROPOUT: tl.constexpr, KP: tl.constexpr, R: tl.constexpr, DT: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """The sums of the backward, with dv the gradient of the activation's argument.

    gate_grad: (tiles of D, K, B, E). parts: (tiles of ROWS samples, 2, E, D), the sums of dv and, with NORM, of
    dv * (y - mean) * rstd.
    """
    D *= 8
    columns = tl.program_id(1) * DT + tl.arange(0, DT)
    of = tl.arange(0, KP)
    d_in, k_in = columns < D, of < K
    for e in range(0, E):
        at = e * D + columns
        shift_sum = tl.zeros((DT,), dtype=tl.float32)
        scale_sum = tl.zeros((DT,), dtype=tl.float32)
        for step in range(0, ROWS // R):
            rows = tl.program_id(0) * ROWS + step * R + tl.arange(0, R)
            row_in = rows < B
            inside = row_in[:, None] & d_in[None, :]
            gate_in = k_in[:, None] & row_in[None, :]
            place = rows[:, None] * D + columns[None, :]
            raw = tl.load(y + place, mask=inside, other=0.0).to(tl.float32)
            v = _argument(raw, scale, shift, at, d_in, NORM)
            out_grad = tl.load(
                grad + of[:, None, None].to(tl.int64) * B * D + place[None, :, :],
                mask=k_in[:, None, None] & inside[None, :, :],
                other=0.0,
            )
            gate = gates + of[:, None].to(tl.int64) * gate_k + rows[None, :] * gate_b + e * gate_e
            g = tl.load(gate, mask=gate_in, other=0.0)
            dv = tl.sum(g[:, :, None] * out_grad, 0)
            kept = 1.0
            if DROPOUT:
                kept = factors(place + e * B * D, first, second, threshold, factor)
                dv *= kept
            if NORM:
                s = tl.sigmoid(v)
                active = v * s
                dv = dv * (s * (1 + v * (1 - s)))
                centre = tl.load(mean + at, mask=d_in, other=0.0)[None, :]
                scale_sum += tl.sum(dv * (raw - centre) * tl.load(rstd + at, mask=d_in, other=0.0)[None, :], 0)
            else:
                active = tl.where(v < 0, 0.0, v)
                dv = tl.where(v <= 0, 0.0, dv)
            shift_sum += tl.sum(dv, 0)
            tile = (tl.program_id(1) * K + of[:, None]).to(tl.int64) * B + rows[None, :]
            active = tl.where(inside, active * kept, 0.0)
            tl.store(gate_grad + tile * E + e, tl.sum(out_grad * active[None, :, :], 2), mask=gate_in)
        y += B * D
        part = parts + tl.program_id(0).to(tl.int64) * 2 * E * D + at
        tl.store(part, shift_sum, mask=d_in)
        if NORM:
            tl.store(part + E * D, scale_sum, mask=d_in)


@triton.jit(do_not_specialize=["first", "second", "threshold", "factor"])
def mix_inner_kernel(
    grad, y, scale, shift, mean, rstd, away, along, weight, gates, out, first, second, threshold, factor, B, D, E, K,
    gate_k, gate_b, gate_e,
    NORM: tl.constexpr, OF_BATCH: tl.constexpr, WEIGHTED: tl.constexpr, DROPOUT: tl.constexpr,
    KP: tl.constexpr, R: tl.constexpr, DT: tl.constexpr,
):  # fmt: skip
    """out (E, B, D) = the gradient of y: scale * dv - weight * (away + along * (y - mean) * rstd), the latter if OF_BATCH.

    out may be y. dv: the gradient of the activation's argument.
    """
    D *= 8
    rows = tl.program_id(0) * R + tl.arange(0, R)
    columns = tl.program_id(1) * DT + tl.arange(0, DT)
    of = tl.arange(0, KP)
    row_in, d_in, k_in = rows < B, columns < D, of < K
    inside = row_in[:, None] & d_in[None, :]
    gate_in = k_in[:, None] & row_in[None, :]
    gate = gates + of[:, None].to(tl.int64) * gate_k + rows[None, :] * gate_b
    place = rows[:, None] * D + columns[None, :]
    where = of[:, None, None].to(tl.int64) * B * D + place[None, :, :]
    out_grad = tl.load(grad + where, mask=k_in[:, None, None] & inside[None, :, :], other=0.0)
    counts = row_in.to(tl.float32)
    if WEIGHTED:
        counts = tl.load(weight + rows, mask=row_in, other=0.0)
    for e in range(0, E):
        at = e * D + columns
        raw = tl.load(y + place, mask=inside, other=0.0).to(tl.float32)
        y += B * D
        v = _argument(raw, scale, shift, at, d_in, NORM)
        g = tl.load(gate + e * gate_e, mask=gate_in, other=0.0)
        dv = tl.sum(g[:, :, None] * out_grad, 0)
        if DROPOUT:
            dv *= factors(place + e * B * D, first, second, threshold, factor)
        if NORM:
            s = tl.sigmoid(v)
            dv = dv * (s * (1 + v * (1 - s))) * tl.load(scale + at, mask=d_in, other=0.0)[None, :]
            if OF_BATCH:
                centre = tl.load(mean + at, mask=d_in, other=0.0)[None, :]
                standard = (raw - centre) * tl.load(rstd + at, mask=d_in, other=0.0)[None, :]
                lost = tl.load(away + at, mask=d_in, other=0.0)[None, :]
                lost += tl.load(along + at, mask=d_in, other=0.0)[None, :] * standard
                dv -= counts[:, None] * lost
        else:
            dv = tl.where(v <= 0, 0.0, dv)
        tl.store(out + place, as_stored(dv, out), mask=inside)
        out += B * D


SMALL = 16
"""Gates times experts, up to which the kernels of this file compute the mixture."""

SUM_ROWS = 64
"""The number of samples that one program of `mix_sums_kernel` sums up."""

_ELEMENTS = 4096
"""The elements of a tile (KP, R, DT) of the mixture: it fits the registers of four warps beside its gradient."""


@dataclass(frozen=True)
class MixtureTile:
    """The meta-parameters of a mixture's kernel: KP gates, R samples and DT columns at a time."""

    KP: int
    R: int
    DT: int
    num_warps: int = 4


def tile_of(gates: int, width: int, elements: int = _ELEMENTS) -> MixtureTile:
    gates_padded = power_of_two(gates)
    columns = min(power_of_two(width), 128, max(elements // gates_padded, 16))
    return MixtureTile(gates_padded, max(1, min(elements // (gates_padded * columns), 8)), columns)


def sums_tile_of(gates: int, width: int) -> MixtureTile:
    """`mix_sums_kernel` holds more values per element."""
    return tile_of(gates, width, _ELEMENTS // 2)


def is_small(gates: int, experts: int) -> bool:
    """Whether the kernels of this file compute the mixture. Their backward reads the gradient E times, which is little here;
    tiles of 16 gates or experts would be mostly empty."""
    return gates * experts <= SMALL


def mix(
    y: torch.Tensor, activation: Activation, gates: torch.Tensor, dropout: Dropout | None, sees: Sees | None = None
) -> torch.Tensor:
    """Activates y (E, B, D), drops outputs and mixes them with gates (K, B, E). Returns (K, B, D).

    sees: which gates see an expert, by default all; the others are 0, and what is computed of them may be left out.
    """
    experts, rows, width = y.shape
    if not is_small(len(gates), experts):
        return tiled.mix(y, activation, gates, dropout, sees or Sees.all(len(gates), experts))
    tile = tile_of(len(gates), width)
    out = y.new_empty(len(gates), rows, width, dtype=torch.float32)
    with torch.profiler.record_function("triton::mix"):
        mix_kernel[(triton.cdiv(rows, tile.R), triton.cdiv(width, tile.DT))](
            y, operand(activation.scale, y), activation.shift, gates, out, *keys(dropout), rows, width // 8, experts,
            len(gates), *gates.stride(), NORM=activation.scale is not None, DROPOUT=dropout is not None, **asdict(tile),
        )  # fmt: skip
    return out


def mix_sums(
    grad: torch.Tensor,
    y: torch.Tensor,
    activation: Activation,
    gates: torch.Tensor,
    dropout: Dropout | None,
    sees: Sees | None = None,
    in_place: bool = False,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Returns the gradients of gates, (K, B, E), and of the activation's shift and scale, (E, D). grad: (K, B, D).

    in_place: also overwrites y with its gradient, as `mix_inner_` does without statistics.
    """
    experts, rows, width = y.shape
    if not is_small(len(gates), experts):
        return tiled.mix_sums(grad, y, activation, gates, dropout, sees or Sees.all(len(gates), experts), in_place)
    tile = sums_tile_of(len(gates), width)
    blocks, columns, norm = triton.cdiv(rows, SUM_ROWS), triton.cdiv(width, tile.DT), activation.scale is not None
    gate_grad = grad.new_empty(columns, *gates.shape)
    parts = grad.new_empty(blocks, 2, experts, width)
    with torch.profiler.record_function("triton::mix_sums"):
        mix_sums_kernel[(blocks, columns)](
            grad, y, *(operand(t, y) for t in activation), gates, gate_grad, parts, *keys(dropout), rows, width // 8, experts,
            len(gates), *gates.stride(), NORM=norm, DROPOUT=dropout is not None, ROWS=SUM_ROWS, **asdict(tile),
        )  # fmt: skip
    if in_place:
        mix_inner_(grad, y, activation, gates, None, None, None, dropout)
    return tiled.summed(gate_grad, parts, norm)


def mix_inner_(
    grad: torch.Tensor,
    y: torch.Tensor,
    activation: Activation,
    gates: torch.Tensor,
    away: torch.Tensor | None,
    along: torch.Tensor | None,
    mask: torch.Tensor | None,
    dropout: Dropout | None,
    sees: Sees | None = None,
) -> None:
    """Overwrites y with its gradient. away, along: see `statistics_grad`; mask: (B,), the samples in the statistics."""
    experts, rows, width = y.shape
    if not is_small(len(gates), experts):
        statistics = away, along, mask
        return tiled.mix_inner_(grad, y, activation, gates, statistics, dropout, sees or Sees.all(len(gates), experts))
    tile = tile_of(len(gates), width)
    with torch.profiler.record_function("triton::mix_inner"):
        mix_inner_kernel[(triton.cdiv(rows, tile.R), triton.cdiv(width, tile.DT))](
            grad, y, *(operand(t, y) for t in (*activation, away, along, mask)), gates, y, *keys(dropout), rows, width // 8,
            experts, len(gates), *gates.stride(), NORM=activation.scale is not None, OF_BATCH=away is not None,
            WEIGHTED=mask is not None, DROPOUT=dropout is not None, **asdict(tile),
        )  # fmt: skip
