"""The operator on a GPU, by the Triton kernels: what is computed and kept is as in host.py.

Sums over samples run over tiles that are added up in order, without atomics: a step's result does not depend on timing.
"""

import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import triton
from torch.autograd.function import once_differentiable

from home_dist.experts.kernels import tiles, triton_mixture, triton_products
from home_dist.experts.kernels.activation import Activation, activation_of, through_statistics
from home_dist.experts.kernels.call import Call, keep, own
from home_dist.experts.kernels.choice import WIDTH_MULTIPLE
from home_dist.experts.kernels.dropout import Dropout
from home_dist.experts.kernels.operands import Operands, Precision
from home_dist.layers.global_norm import Moments


def mixed(
    operands: Operands,
    inputs: Sequence[torch.Tensor],
    gates: torch.Tensor,
    mask: torch.Tensor | None,
    precision: Precision,
    dropout: Dropout | None = None,
) -> torch.Tensor:
    """inputs: (B, F) each; gates: (K, B, E); mask: (B,). Returns (K, B, D)."""
    kinds = {t.dtype for t in (*inputs, gates, *operands.weights)}
    if kinds != {torch.float32}:
        raise TypeError(f"the triton kernel takes fp32 throughout, got {', '.join(sorted(map(str, kinds)))}")
    unfit = [w for w in (x.shape[1] for x in operands.weights) if w % WIDTH_MULTIPLE]
    if unfit:
        raise ValueError(f"the triton kernel takes widths that are multiples of {WIDTH_MULTIPLE}, got {unfit}; see select()")
    # One launch for all inputs: where there are several, they are gathered first. Features of any width are filled up.
    together = padded(inputs[0].unsqueeze(0) if len(inputs) == 1 else torch.stack(list(inputs)))
    operands = replace(operands, weights=[padded(operands.weights[0]), *operands.weights[1:]])
    call, tensors = Call.arguments(operands, [together], mask, precision, dropout)
    return _Mixed.apply(call, gates, *tensors)


def padded(x: torch.Tensor) -> torch.Tensor:
    """x (..., F) with zeros up to the next width that fits."""
    missing = -x.shape[-1] % WIDTH_MULTIPLE
    return torch.nn.functional.pad(x, (0, missing)) if missing else x


class _Mixed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, call: Call, gates: torch.Tensor, *tensors: torch.Tensor) -> torch.Tensor:
        (inputs,), weights, biases = call.split(tensors)
        inputs, weights = inputs.contiguous(), [w.contiguous() for w in weights]
        mask = None if call.mask is None else call.mask.to(torch.float32).contiguous()
        bf16 = call.precision == "bf16"
        indices = experts_of(call.operands.experts, gates.device)
        hidden: list[torch.Tensor] = []
        x, source = inputs, indices.owner
        for weight, bias in zip(weights[:-1], biases, strict=False):
            x = product(x, weight.transpose(1, 2), source, indices, triton_products.BIAS_RELU, bf16, bias=bias)[0]
            hidden.append(x)
            source = indices.each
        epilogue = triton_products.MOMENTS if call.operands.norm is not None else triton_products.NONE
        y, parts = product(x, weights[-1].transpose(1, 2), source, indices, epilogue, bf16, mask=mask)

        activation, call.samples = activation_of(
            call.operands, call.last_bias(biases), lambda: _moments(parts, y.shape[1], mask, bf16)
        )
        out = mix(y, activation, gates, call.dropout)
        if call.keep:
            ctx.call, ctx.indices = call, indices
            keep(ctx, [gates, mask, *activation, inputs, *weights], y, [[layer] for layer in hidden])
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        call, indices = ctx.call, ctx.indices
        (gates, mask, *rest), y, hidden = own(ctx)
        activation = Activation(*rest[:4])
        inputs, *weights = rest[4:]
        grad, bf16 = grads[0].contiguous(), call.precision == "bf16"

        gate_grad, shift_grad, scale_grad = mix_sums(grad, y, activation, gates, call.dropout)
        statistics = through_statistics(activation, shift_grad, scale_grad, call.samples)
        mix_inner_(grad, y, activation, gates, *statistics, mask, call.dropout)
        down = y
        del y
        weight_grads: list[torch.Tensor] = []
        bias_grads: list[torch.Tensor] = []
        none = triton_products.NONE
        for depth in range(len(weights) - 1, 0, -1):
            [below] = hidden.pop()
            weight_grads.insert(0, product(down.transpose(1, 2), below, indices.each, indices, none, bf16, full=True)[0])
            _, parts = product(down, weights[depth], indices.each, indices, triton_products.RELU_BACKWARD, bf16, below=below)
            bias_grads.insert(0, parts.sum(1))
            down = below
            del below
        right = (indices.each, indices.owner)
        weight_grads.insert(
            0, product(down.transpose(1, 2), inputs, right[0], indices, none, bf16, b_of=right[1], full=True)[0]
        )
        input_grad = None
        if ctx.needs_input_grad[2]:
            input_grad = product(down, weights[0], indices.each, indices, none, bf16, starts=indices.ends, full=True)[0]
        if activation.scale is None:
            bias_grads.append(shift_grad)
        norm_grads = () if scale_grad is None else (scale_grad, shift_grad)
        return (None, gate_grad, input_grad, *weight_grads, *bias_grads, *norm_grads)


class Indices:
    """Which expert reads what, as the kernels look it up."""

    def __init__(self, experts: tuple[int, ...], device: torch.device):
        def table(values: Sequence[int]) -> torch.Tensor:
            return torch.tensor(list(values), dtype=torch.int32, device=device)

        total = sum(experts)
        self.owner = table([i for i, count in enumerate(experts) for _ in range(count)])
        self.each = table(range(total))
        self.single = table(range(total + 1))
        """starts of products whose outputs are of one expert each"""
        self.ends = table([sum(experts[:i]) for i in range(len(experts) + 1)])
        """starts of products whose outputs are of all experts of an input"""


@functools.cache
def experts_of(experts: tuple[int, ...], device: torch.device) -> Indices:
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
) -> tuple[torch.Tensor, torch.Tensor]:
    """a (., M, K), b (., K, N) -> (outputs, M, N) and the epilogue's sums. With `below`, written over it. full: fp32."""
    starts = indices.single if starts is None else starts
    rows, inner, columns, outputs = a.shape[1], a.shape[2], b.shape[2], len(starts) - 1
    a_turned, b_turned = a.stride(1) == 1 < a.stride(2), b.stride(1) == 1 < b.stride(2)
    tile = tiles.product(bf16, rows, columns)
    count = triton.cdiv(rows, tile.BM)
    kind = torch.bfloat16 if bf16 and not full else torch.float32
    out = a.new_empty(outputs, rows, columns, dtype=kind) if below is None else below
    parts = out
    if epilogue == triton_products.MOMENTS:
        parts = a.new_empty(outputs, count, 2, columns, dtype=torch.float32)
    elif epilogue == triton_products.RELU_BACKWARD:
        parts = a.new_empty(outputs, count, columns, dtype=torch.float32)
    sizes = (rows // 8, columns // 8, inner) if a_turned else (rows, columns // 8, inner // 8)
    lines = (a.stride(0), a.stride(2 if a_turned else 1), b.stride(0), b.stride(2 if b_turned else 1))
    with torch.profiler.record_function("triton::grouped_product"):
        triton_products.grouped_product[(count * triton.cdiv(columns, tile.BN), outputs)](
            a, b, out, _or(bias, out), out, _or(mask, out), parts, starts, a_of, _or(b_of, indices.each),
            *sizes, *(n // 8 for n in lines), A_TURNED=a_turned, B_TURNED=b_turned,
            EPILOGUE=epilogue, WEIGHTED=mask is not None, BF16=bf16, **tile.arguments(),
        )  # fmt: skip
    return out, parts


def _moments(parts: torch.Tensor, rows: int, mask: torch.Tensor | None, bf16: bool) -> Moments:
    """The tiles' moments, (E, tiles, 2, D), joined as in Chan et al. 1979."""
    size = tiles.product(bf16, rows, parts.shape[3]).BM
    weight = parts.new_ones(rows) if mask is None else mask
    padded = torch.nn.functional.pad(weight, (0, parts.shape[1] * size - rows))
    counts = padded.view(-1, size).sum(1).unsqueeze(1)
    total = counts.sum()
    means, squares = parts.unbind(2)
    mean = (means * counts).sum(1) / total.clamp(min=1)
    return mean, (squares + counts * (means - mean.unsqueeze(1)).square()).sum(1), total


def mix(y: torch.Tensor, activation: Activation, gates: torch.Tensor, dropout: Dropout | None) -> torch.Tensor:
    """Returns (K, B, D)."""
    experts, rows, width = y.shape
    tile = tiles.mixture(len(gates), width)
    out = y.new_empty(len(gates), rows, width, dtype=torch.float32)
    with torch.profiler.record_function("triton::mix"):
        triton_mixture.mix[(triton.cdiv(rows, tile.R), triton.cdiv(width, tile.DT))](
            y, _or(activation.scale, y), activation.shift, gates, out, *_keys(dropout), rows, width // 8, experts, len(gates),
            *gates.stride(), NORM=activation.scale is not None, DROPOUT=dropout is not None, **tile.arguments(),
        )  # fmt: skip
    return out


def mix_sums(
    grad: torch.Tensor, y: torch.Tensor, activation: Activation, gates: torch.Tensor, dropout: Dropout | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """The gradients of gates (K, B, E), of shift and of scale (E, D)."""
    experts, rows, width = y.shape
    tile = tiles.sums(len(gates), width)
    blocks, columns, norm = triton.cdiv(rows, tiles.SUM_ROWS), triton.cdiv(width, tile.DT), activation.scale is not None
    gate_grad = grad.new_empty(columns, *gates.shape)
    parts = grad.new_empty(blocks, 2, experts, width)
    with torch.profiler.record_function("triton::mix_sums"):
        triton_mixture.mix_sums[(blocks, columns)](
            grad, y, *(_or(t, y) for t in activation), gates, gate_grad, parts, *_keys(dropout), rows, width // 8, experts,
            len(gates), *gates.stride(), NORM=norm, DROPOUT=dropout is not None, ROWS=tiles.SUM_ROWS, **tile.arguments(),
        )  # fmt: skip
    sums = parts.sum(0) if norm else parts[:, :1].sum(0)
    return gate_grad[0] if columns == 1 else gate_grad.sum(0), sums[0], sums[1] if norm else None


def mix_inner_(
    grad: torch.Tensor,
    y: torch.Tensor,
    activation: Activation,
    gates: torch.Tensor,
    away: torch.Tensor | None,
    along: torch.Tensor | None,
    mask: torch.Tensor | None,
    dropout: Dropout | None,
) -> None:
    """Writes y's gradient over it."""
    experts, rows, width = y.shape
    tile = tiles.mixture(len(gates), width)
    with torch.profiler.record_function("triton::mix_inner"):
        triton_mixture.mix_inner[(triton.cdiv(rows, tile.R), triton.cdiv(width, tile.DT))](
            grad, y, *(_or(t, y) for t in (*activation, away, along, mask)), gates, y, *_keys(dropout), rows, width // 8,
            experts, len(gates), *gates.stride(), NORM=activation.scale is not None, OF_BATCH=away is not None,
            WEIGHTED=mask is not None, DROPOUT=dropout is not None, **tile.arguments(),
        )  # fmt: skip


def _keys(dropout: Dropout | None) -> tuple[int, int, int, float]:
    """As signed words, so that no value changes the type that a kernel is compiled for."""
    if dropout is None:
        return 0, 0, 0, 1.0
    first, second, threshold = (word - (word >> 31 << 32) for word in dropout[:3])
    return first, second, threshold, dropout.factor


def _or(tensor: torch.Tensor | None, other: torch.Tensor) -> torch.Tensor:
    """A kernel takes a pointer even where it does not look."""
    return other if tensor is None else tensor
