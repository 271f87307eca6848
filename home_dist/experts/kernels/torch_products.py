"""The linear layers of an expert bank in bf16 on processors without AMX.

There torch.bmm, which is oneDNN's, is faster than MKL. The library makes the passes over its products, a block of experts at a
time.
"""

from typing import NamedTuple, TypeVar

import torch

from home_dist.experts.kernels.cpu_library import accumulator_dtype, call
from home_dist.experts.kernels.cpu_products import BLOCK_BYTES, Forward, Layers, moments_of
from home_dist.experts.kernels.fused import Hidden
from home_dist.experts.kernels.grouped_products import side_by_side

T = TypeVar("T", torch.Tensor, torch.Tensor | None)

_SPLIT_SAMPLES = 256
"""From this batch size on, the products of half a batch are no slower."""


def forward(layers: Layers, keep: bool, moments: bool, mask: torch.Tensor | None) -> Forward:
    """As cpu_products.forward."""
    blocks, inputs = _blocks_of(layers), _one_per_input(layers.inputs)
    counts = [block.experts for block in blocks]
    weights, biases = ([t.split(counts) for t in tensors] for tensors in (layers.weights, layers.biases))
    # One tensor per block: the allocator has memory of this size at hand, and the backward frees a block at a time.
    hidden: Hidden = [[] for _ in range(layers.hidden if keep else 0)]
    pairs = []
    y = inputs[0].new_empty(sum(layers.experts), layers.samples, layers.widths[-1])
    for n, (block, out) in enumerate(zip(blocks, y.split(counts), strict=True)):
        x = inputs[block.source].expand(block.experts, -1, -1)
        for depth in range(layers.hidden):
            x = torch.bmm(x, weights[depth][n].transpose(1, 2))
            call("bias_relu", x.dtype, x, biases[depth][n], *x.shape)
            if keep:
                hidden[depth].append(x)
        torch.bmm(x, weights[-1][n].transpose(1, 2), out=out)
        if moments:
            pairs.append(moments_of(out, mask))
    if not moments:
        return Forward(y, hidden, None)
    mean, squares = (torch.cat(parts) for parts in zip(*pairs, strict=True))
    return Forward(y, hidden, (mean, squares))


def backward_(layers: Layers, y_grad: torch.Tensor, hidden: Hidden) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """As cpu_products.backward_."""
    if not hidden:
        return [], []
    counts = [len(block) for block in hidden[0]]
    grad = list(y_grad.split(counts))
    weight_grads: list[torch.Tensor] = []
    bias_grads: list[torch.Tensor] = []
    for depth in range(layers.hidden, 0, -1):
        weight, weight_grad, sums = layers.weights[depth], torch.empty_like(layers.weights[depth]), []
        blocks = zip(grad, hidden[depth - 1], weight.split(counts), weight_grad.split(counts), strict=True)
        for block_grad, below, block_weight, out in blocks:
            torch.bmm(block_grad.transpose(1, 2), below, out=out)
            parts = [
                _relu_backward_(below[:, rows], torch.bmm(block_grad[:, rows], block_weight))
                for rows in _halves(*below.shape[:2])
            ]
            sums.append(sum(parts[1:], parts[0]))
        weight_grads.insert(0, weight_grad.to(accumulator_dtype(weight_grad.dtype)))
        bias_grads.insert(0, torch.cat(sums))
        grad = hidden[depth - 1]
    return weight_grads, bias_grads


def first_layer(layers: Layers, grad: list[torch.Tensor], input_grads: list[torch.Tensor | None]) -> torch.Tensor:
    """As cpu_products.first_layer, but empties the list `grad` if it holds several blocks."""
    blocks, inputs, of_inputs = _blocks_of(layers), _one_per_input(layers.inputs), _one_per_input(input_grads)
    weight_grad, weights = torch.empty_like(layers.weights[0]), layers.weights[0].split(list(layers.experts))
    counts = [block.experts for block in blocks]
    parts = grad if len(grad) > 1 else list(grad[0].split(counts))
    parts.reverse()  # taken from its end, so that the memory of a block is free once it was used
    wide: list[torch.Tensor] = []
    for block, out in zip(blocks, weight_grad.split(counts), strict=True):
        block_grad, input_grad = parts.pop(), of_inputs[block.source]
        torch.bmm(block_grad.transpose(1, 2), inputs[block.source].expand(block.experts, -1, -1), out=out)
        if input_grad is None:
            continue
        # The gradient of an input is one product over all its experts: a product per block would be rounded each time.
        wide.append(side_by_side(block_grad))
        if block.last:
            input_grad.copy_(torch.mm(torch.cat(wide, 1), weights[block.source].flatten(0, 1)))
            wide = []
    return weight_grad.to(accumulator_dtype(weight_grad.dtype))


def _relu_backward_(x: torch.Tensor, grad: torch.Tensor) -> torch.Tensor:
    """Overwrites x, (E, B, H) after its ReLU, with its gradient before it. Returns the gradient's sum over samples, (E, H)."""
    sums = x.new_empty(x.shape[0], x.shape[2], dtype=accumulator_dtype(x.dtype))
    call("relu_backward", x.dtype, x, grad, sums, *x.shape)
    return sums


class _Block(NamedTuple):
    """Experts of one input that are computed together."""

    source: int
    """The input."""
    experts: int
    last: bool
    """Whether this is the last block of its input."""


def _blocks_of(layers: Layers) -> list[_Block]:
    """Cuts the experts into blocks whose hidden activations fit the cache, of at most an eighth of all experts."""
    expert_bytes = max(layers.widths[1:]) * layers.samples * layers.inputs[0].element_size()
    step = max(min(BLOCK_BYTES // max(expert_bytes, 1), sum(layers.experts) // 8), 1)
    # torch.bmm gives each product to one thread: with a step that the threads do not divide, some threads would be idle.
    threads = torch.get_num_threads()
    step = step // threads * threads or 1
    return [
        _Block(source, min(step, count - first), first + step >= count)
        for source, count in enumerate(layers.experts)
        for first in range(0, count, step)
    ]


def _halves(experts: int, samples: int) -> list[slice]:
    """The samples whose gradient is held at a time: half a batch if the block is one expert, which cannot be cut smaller."""
    middle = samples // 2 if experts == 1 and samples >= _SPLIT_SAMPLES else 0
    return [slice(0, middle), slice(middle, samples)] if middle else [slice(0, samples)]


def _one_per_input(tensors: list[T]) -> list[T]:
    """Splits inputs that are one tensor (n, B, F)."""
    first = tensors[0]
    return list(first.unbind(0)) if first is not None and first.dim() == 3 else tensors
