# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
"""Triton: the activation of the experts' outputs and their mixture in one pass, and its backward in two.

Activations live in registers only. y: (E, B, D) before the activation; gates: (K, B, E); mixed: (K, B, D). D is
passed as a multiple of 8. KP, DT: K and a tile of D, as powers of two. Imported only where Triton is in use.
"""

import triton
import triton.language as tl

from home_dist.experts.kernels.triton_products import as_stored


@triton.jit
def _argument(y, scale, shift, at, d_in, NORM: tl.constexpr):
    """y (R, DT), and the activation's argument: y * scale + shift, or y + shift."""
    add = tl.load(shift + at, mask=d_in, other=0.0)[None, :]
    if NORM:
        return y * tl.load(scale + at, mask=d_in, other=0.0)[None, :] + add
    return y + add


@triton.jit
def _mixed_bits(x):
    """A round of dropout.py's hash, on 32-bit words."""
    x = (x ^ (x >> 16)) * 0x21F0AAAD
    x = (x ^ (x >> 15)) * 0xD35A2D97
    return x ^ (x >> 15)


@triton.jit
def _factors(place, first, second, threshold, factor):
    """Dropout's factors of the outputs at `place`; what overflows is right modulo 2^32."""
    bits = _mixed_bits(_mixed_bits(place.to(tl.uint32, bitcast=True) ^ _word(first)) + _word(second))
    return tl.where(bits < _word(threshold), 0.0, factor)


@triton.jit
def _word(x):
    return x.to(tl.uint32, bitcast=True)


@triton.jit(do_not_specialize=["first", "second", "threshold", "factor"])
def mix(
    y, scale, shift, gates, out, first, second, threshold, factor, B, D, E, K, gate_k, gate_b, gate_e,
    NORM: tl.constexpr, DROPOUT: tl.constexpr, KP: tl.constexpr, R: tl.constexpr, DT: tl.constexpr,
):  # fmt: skip
    """out[k, b]: sum over e of gates[k, b, e] * activation of y[e, b], after dropout."""
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
            active *= _factors(place + e * B * D, first, second, threshold, factor)
        g = tl.load(gate + e * gate_e, mask=gate_in, other=0.0)
        total += g[:, :, None] * active[None, :, :]
    where = of[:, None, None].to(tl.int64) * B * D + place[None, :, :]
    tl.store(out + where, total, mask=k_in[:, None, None] & inside[None, :, :])


@triton.jit(do_not_specialize=["first", "second", "threshold", "factor"])
def mix_sums(
    grad, y, scale, shift, mean, rstd, gates, gate_grad, parts, first, second, threshold, factor, B, D, E, K,
    gate_k, gate_b, gate_e,
    NORM: tl.constexpr, DROPOUT: tl.constexpr, KP: tl.constexpr, R: tl.constexpr, DT: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """What is summed. gate_grad: (tiles of D, K, B, E). parts: (tiles of ROWS samples, 2, E, D): the sums of dv, and with NORM
    of dv * (y - mean) * rstd, where dv is the gradient of the activation's argument."""
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
            down = tl.load(
                grad + of[:, None, None].to(tl.int64) * B * D + place[None, :, :],
                mask=k_in[:, None, None] & inside[None, :, :],
                other=0.0,
            )
            gate = gates + of[:, None].to(tl.int64) * gate_k + rows[None, :] * gate_b + e * gate_e
            g = tl.load(gate, mask=gate_in, other=0.0)
            dv = tl.sum(g[:, :, None] * down, 0)
            kept = 1.0
            if DROPOUT:
                kept = _factors(place + e * B * D, first, second, threshold, factor)
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
            tl.store(gate_grad + tile * E + e, tl.sum(down * active[None, :, :], 2), mask=gate_in)
        y += B * D
        part = parts + tl.program_id(0).to(tl.int64) * 2 * E * D + at
        tl.store(part, shift_sum, mask=d_in)
        if NORM:
            tl.store(part + E * D, scale_sum, mask=d_in)


@triton.jit(do_not_specialize=["first", "second", "threshold", "factor"])
def mix_inner(
    grad, y, scale, shift, mean, rstd, away, along, weight, gates, out, first, second, threshold, factor, B, D, E, K,
    gate_k, gate_b, gate_e,
    NORM: tl.constexpr, OF_BATCH: tl.constexpr, WEIGHTED: tl.constexpr, DROPOUT: tl.constexpr,
    KP: tl.constexpr, R: tl.constexpr, DT: tl.constexpr,
):  # fmt: skip
    """out (E, B, D): y's gradient, scale * dv - weight * (away + along * (y - mean) * rstd), the second part if OF_BATCH.

    It may be y itself.
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
    down = tl.load(grad + where, mask=k_in[:, None, None] & inside[None, :, :], other=0.0)
    counts = row_in.to(tl.float32)
    if WEIGHTED:
        counts = tl.load(weight + rows, mask=row_in, other=0.0)
    for e in range(0, E):
        at = e * D + columns
        raw = tl.load(y + place, mask=inside, other=0.0).to(tl.float32)
        y += B * D
        v = _argument(raw, scale, shift, at, d_in, NORM)
        g = tl.load(gate + e * gate_e, mask=gate_in, other=0.0)
        dv = tl.sum(g[:, :, None] * down, 0)
        if DROPOUT:
            dv *= _factors(place + e * B * D, first, second, threshold, factor)
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
