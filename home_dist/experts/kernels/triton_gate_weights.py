# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
"""Triton: the weights of masked gates and self gates. Import it only if Triton is installed.

As on a CPU (cpu_gate_weights.py), one matrix product computes the scores of both kinds of gates, and only of the experts that a
gate may see: (K, B, S). One launch turns them into weights (K, B, E), one their gradient into that of the scores. A program
takes some samples of one gate.
"""

from dataclasses import asdict, dataclass
from typing import Any

import torch
import triton
import triton.language as tl

from home_dist.experts.kernels.cpu_gate_weights import ScoreLayout
from home_dist.experts.kernels.mixture_tiles import power_of_two
from home_dist.experts.kernels.once import once_differentiable


@triton.jit
def _powers(scores, score_k, score_b, experts_of, k, rows, first, count, S, row_in, ST: tl.constexpr):
    """Scores `first` to `first + count` of gate k: exp(score - the largest), 0 where there is none; the largest; the sum."""
    slots = tl.arange(0, ST)
    expert = tl.load(experts_of + k * S + first + slots, mask=slots < count, other=-1)
    real = (expert >= 0)[None, :] & row_in[:, None]
    place = k.to(tl.int64) * score_k + rows[:, None].to(tl.int64) * score_b + first + slots[None, :]
    score = tl.load(scores + place, mask=real, other=float("-inf"))
    largest = tl.where(row_in, tl.max(score, 1), 0.0)
    powers = tl.where(real, tl.exp(score - largest[:, None]), 0.0)
    return powers, largest, tl.where(row_in, tl.sum(powers, 1), 1.0)


@triton.jit
def _weight(scores, score_k, score_b, slot_of, k, rows, experts, row_in, e_in, largest, total):
    """exp(score - largest) / total of the scores whose slots slot_of (E,) tells, (R, ET); 0 for slot -1."""
    slot = tl.load(slot_of + experts, mask=e_in, other=-1)
    real = (slot >= 0)[None, :] & row_in[:, None]
    place = k.to(tl.int64) * score_k + rows[:, None].to(tl.int64) * score_b + slot[None, :]
    score = tl.load(scores + place, mask=real, other=float("-inf"))
    return tl.where(real, tl.exp(score - largest[:, None]) / total[:, None], 0.0)


@triton.jit
def gate_weights_kernel(
    scores, experts_of, slots, lone, out, B, K, E, S, MAIN, score_k, score_b,
    OWN: tl.constexpr, ST: tl.constexpr, R: tl.constexpr, ET: tl.constexpr,
):  # fmt: skip
    """out[k, b, e] = softmax over the MAIN first scores, plus, with OWN, softmax over the others, or sigmoid where lone[k].

    experts_of: (K, S), -1 for no score; slots: (2, K, E), the score of an expert among the first and among the others, or -1.
    """
    k = tl.program_id(1)
    rows = tl.program_id(0) * R + tl.arange(0, R)
    row_in = rows < B
    _, largest, total = _powers(scores, score_k, score_b, experts_of, k, rows, 0, MAIN, S, row_in, ST)
    if OWN:
        _, own_largest, own_total = _powers(scores, score_k, score_b, experts_of, k, rows, MAIN, S - MAIN, S, row_in, ST)
        # sigmoid(x) = exp(x - m) / (exp(x - m) + exp(-m)); with m >= 0 nothing overflows.
        single = tl.load(lone + k) > 0
        shifted = tl.where(own_largest > 0, own_largest, tl.where(own_largest <= 0, 0.0, own_largest))  # NaN stays
        own_total = tl.where(single, tl.exp(own_largest - shifted) + tl.exp(-shifted), own_total)
        own_largest = tl.where(single, shifted, own_largest)
    for first in range(0, E, ET):
        experts = first + tl.arange(0, ET)
        e_in = experts < E
        weight = _weight(scores, score_k, score_b, slots + k * E, k, rows, experts, row_in, e_in, largest, total)
        if OWN:
            others = slots + (K + k) * E
            weight += _weight(scores, score_k, score_b, others, k, rows, experts, row_in, e_in, own_largest, own_total)
        place = (k.to(tl.int64) * B + rows[:, None]) * E + experts[None, :]
        tl.store(out + place, weight, mask=row_in[:, None] & e_in[None, :])


@triton.jit
def _score_grads(
    grad, scores, experts_of, out, k, rows, first, count, single, B, E, S, row_in, score_k, score_b, ST: tl.constexpr
):  # fmt: skip
    powers, largest, total = _powers(scores, score_k, score_b, experts_of, k, rows, first, count, S, row_in, ST)
    slots = tl.arange(0, ST)
    expert = tl.load(experts_of + k * S + first + slots, mask=slots < count, other=-1)
    real = (expert >= 0)[None, :] & row_in[:, None]
    g = tl.load(grad + (k.to(tl.int64) * B + rows[:, None]) * E + expert[None, :], mask=real, other=0.0)
    weight = powers / total[:, None]
    of_softmax = weight * (g - tl.sum(weight * g, 1)[:, None])
    s = tl.sigmoid(largest)[:, None]  # of the lone score
    found = tl.where(real, tl.where(single, g * s * (1 - s), of_softmax), 0.0)
    place = (k.to(tl.int64) * B + rows[:, None]) * S + first + slots[None, :]
    tl.store(out + place, found, mask=row_in[:, None] & (slots < count)[None, :])


@triton.jit
def gate_weights_backward_kernel(
    grad, scores, experts_of, lone, out, B, E, S, MAIN, score_k, score_b,
    OWN: tl.constexpr, ST: tl.constexpr, R: tl.constexpr,
):  # fmt: skip
    """out (K, B, S): the gradient of the scores. grad: (K, B, E)."""
    k = tl.program_id(1)
    rows = tl.program_id(0) * R + tl.arange(0, R)
    row_in = rows < B
    _score_grads(grad, scores, experts_of, out, k, rows, 0, MAIN, False, B, E, S, row_in, score_k, score_b, ST)
    if OWN:
        single = tl.load(lone + k) > 0
        _score_grads(grad, scores, experts_of, out, k, rows, MAIN, S - MAIN, single, B, E, S, row_in, score_k, score_b, ST)


@dataclass(frozen=True)
class GateWeightTile:
    """ST: scores of a gate, padded; R: samples."""

    ST: int
    R: int
    num_warps: int = 4


_VALUES, _WIDEST = 1024, 64
"""Values of a tile, at most, and experts that are written at a time."""


def tile_of(scores: int) -> GateWeightTile:
    padded = power_of_two(scores)
    return GateWeightTile(padded, max(1, min(_VALUES // max(padded, _WIDEST), 32)))


def columns_of(experts: int) -> int:
    """ET, experts that are written at a time."""
    return min(power_of_two(experts), _WIDEST)


class DeviceLayout:
    """A ScoreLayout on a device, for these kernels."""

    def __init__(self, layout: ScoreLayout, device: torch.device):
        gates, scores = layout.experts_of.shape
        self.device = device
        slots = torch.full((2, gates, layout.experts), -1, dtype=torch.int32)
        for gate, experts in enumerate(layout.experts_of.tolist()):
            for slot, expert in enumerate(experts):
                if expert >= 0:
                    slots[int(slot >= layout.main), gate, expert] = slot
        self.main, self.experts, self.scores = layout.main, layout.experts, scores
        self.weight_rows = layout.weight_rows.to(device)
        self.experts_of = layout.experts_of.int().to(device)
        self.slots = slots.to(device)
        self.lone = layout.lone.int().to(device)

    @property
    def sizes(self) -> tuple[int, ...]:
        return self.experts, self.scores, self.main

    @property
    def constants(self) -> dict[str, Any]:
        tile = tile_of(max(self.main, self.scores - self.main))
        return {"OWN": self.scores > self.main, **asdict(tile)}


def gate_weights(scores: torch.Tensor, layout: DeviceLayout) -> torch.Tensor:
    """scores: (K, B, S). Returns the sum of the weights of both kinds of gates, (K, B, E)."""
    return _TritonGateWeights.apply(scores, layout)


class _TritonGateWeights(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, scores: torch.Tensor, layout: DeviceLayout) -> torch.Tensor:
        scores = scores if scores.stride(2) == 1 else scores.contiguous()
        ctx.save_for_backward(scores)
        ctx.layout = layout
        gates, samples, _ = scores.shape
        out = scores.new_empty(gates, samples, layout.experts)
        constants = layout.constants
        with torch.profiler.record_function("triton::gate_weights"):
            gate_weights_kernel[(triton.cdiv(samples, constants["R"]), gates)](
                scores, layout.experts_of, layout.slots, layout.lone, out, samples, gates, *layout.sizes,
                scores.stride(0), scores.stride(1), ET=columns_of(layout.experts), **constants,
            )  # fmt: skip
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (scores,), layout = ctx.saved_tensors, ctx.layout
        grad, constants = grads[0].contiguous(), layout.constants
        gates, samples, _ = scores.shape
        out = scores.new_empty(scores.shape)
        with torch.profiler.record_function("triton::gate_weights_backward"):
            gate_weights_backward_kernel[(triton.cdiv(samples, constants["R"]), gates)](
                grad, scores, layout.experts_of, layout.lone, out, samples, *layout.sizes, scores.stride(0), scores.stride(1),
                **constants,
            )  # fmt: skip
        return out, None
