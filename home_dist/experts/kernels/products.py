"""The layers of a bank on a CPU, in blocks of experts: matrix products as torch has them, and passes over their results while
they are in the cache."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch

from home_dist.experts.kernels.grouped import side_by_side
from home_dist.experts.kernels.passes import Passes

BLOCK_BYTES = 8 << 20
"""Of the hidden activations between a matrix product and the pass over its result, which then finds them in the cache."""

_SPLIT_ROWS = 256
"""From here on, products of half as many samples are no slower."""


@dataclass
class Layers:
    inputs: Sequence[torch.Tensor]
    """(B, F) each"""
    experts: Sequence[int]
    """How many experts read input i."""
    weights: Sequence[torch.Tensor]
    """Per layer (E, out, in)."""
    biases: Sequence[torch.Tensor]
    """Per layer (E, out); that of the last layer, if there is one, is not added."""

    @property
    def hidden(self) -> int:
        """Layers but the last."""
        return len(self.weights) - 1

    @property
    def widths(self) -> list[int]:
        """Of the inputs, and of each layer's output."""
        return [self.inputs[0].shape[1], *(w.shape[1] for w in self.weights)]


class Forward(NamedTuple):
    y: torch.Tensor
    """(E, B, D), without the last bias"""
    hidden: list[list[torch.Tensor]]
    """By layer, in blocks of experts; empty where no backward follows."""
    moments: tuple[torch.Tensor, torch.Tensor] | None
    """(E, D) each, of y: mean and sum of squares around it"""


class Products(Protocol):
    def forward(self, layers: Layers, keep: bool, of_batch: bool, mask: torch.Tensor | None) -> Forward:
        """mask: (B,), the samples that moments are of. `of_batch`: whether moments are wanted."""

    def backward_(
        self, layers: Layers, down: list[torch.Tensor], hidden: list[list[torch.Tensor]]
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """down: the gradient of y, in blocks of experts. Returns the gradients of all weights but the first layer's, and of the
        biases of all layers but the last. The gradients of the hidden activations are written over them."""

    def inputs_(self, layers: Layers, down: list[torch.Tensor], grads: Sequence[torch.Tensor | None]) -> torch.Tensor:
        """down: the gradient of the first layer's output, in blocks of experts, which is used up. grads: where the gradients of
        the inputs go, (B, F) each, or None. Returns the gradient of the first layer's weights."""


class Block(NamedTuple):
    """Experts of one input that are computed together."""

    source: int
    """The input."""
    experts: int


def blocks(layers: Layers) -> list[Block]:
    """In the order of experts: such that their hidden activations fit a cache, and at most an eighth of all experts."""
    rows, kind = len(layers.inputs[0]), layers.inputs[0].element_size()
    size = max(w.shape[1] for w in layers.weights) * rows * kind
    step = max(min(BLOCK_BYTES // max(size, 1), sum(layers.experts) // 8), 1)
    # Batched products are dealt to threads whole: the last ones of a count that does not divide leave threads idle.
    threads = torch.get_num_threads()
    step = step // threads * threads or 1
    found = []
    for source, count in enumerate(layers.experts):
        found += [Block(source, min(step, count - first)) for first in range(0, count, step)]
    return found


class TorchProducts:
    def __init__(self, passes: Passes):
        self.passes = passes

    def forward(self, layers: Layers, keep: bool, of_batch: bool, mask: torch.Tensor | None) -> Forward:
        some = blocks(layers)
        counts = [block.experts for block in some]
        weights, biases = ([t.split(counts) for t in tensors] for tensors in (layers.weights, layers.biases))
        # A tensor per block: an allocator has memory of that size at hand, and the backward frees one at a time.
        hidden: list[list[torch.Tensor]] = [[] for _ in range(layers.hidden if keep else 0)]
        rows, moments = len(layers.inputs[0]), []
        y = layers.inputs[0].new_empty(sum(layers.experts), rows, layers.weights[-1].shape[1])
        for at, (block, into) in enumerate(zip(some, y.split(counts), strict=True)):
            x = layers.inputs[block.source].expand(block.experts, -1, -1)
            for depth in range(layers.hidden):
                x = torch.bmm(x, weights[depth][at].transpose(1, 2))
                self.passes.bias_relu_(x, biases[depth][at])
                if keep:
                    hidden[depth].append(x)
            torch.bmm(x, weights[-1][at].transpose(1, 2), out=into)
            if of_batch:
                moments.append(self.passes.moments(into, mask))
        if not of_batch:
            return Forward(y, hidden, None)
        mean, squares = (torch.cat(parts) for parts in zip(*moments, strict=True))
        return Forward(y, hidden, (mean, squares))

    def backward_(
        self, layers: Layers, down: list[torch.Tensor], hidden: list[list[torch.Tensor]]
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        counts = [len(part) for part in down]
        weight_grads: list[torch.Tensor] = []
        bias_grads: list[torch.Tensor] = []
        for depth in range(layers.hidden, 0, -1):
            below, sums, weight_grad = hidden[depth - 1], [], torch.empty_like(layers.weights[depth])
            for part, under, weight, into in zip(
                down, below, layers.weights[depth].split(counts), weight_grad.split(counts), strict=True
            ):
                torch.bmm(part.transpose(1, 2), under, out=into)
                halves = [
                    self.passes.relu_backward_(under[:, rows], torch.bmm(part[:, rows], weight))
                    for rows in _halves(*under.shape[:2])
                ]
                sums.append(sum(halves[1:], halves[0]))
            weight_grads.insert(0, weight_grad)
            bias_grads.insert(0, torch.cat(sums))
            down = below
        return weight_grads, bias_grads

    def inputs_(self, layers: Layers, down: list[torch.Tensor], grads: Sequence[torch.Tensor | None]) -> torch.Tensor:
        weight_grad, begun = torch.empty_like(layers.weights[0]), set()
        counts = [len(part) for part in down]
        down.reverse()
        waiting: list[torch.Tensor] = []
        for block, weight, into in zip(blocks(layers), layers.weights[0].split(counts), weight_grad.split(counts), strict=True):
            part, x, grad = down.pop(), layers.inputs[block.source], grads[block.source]
            torch.bmm(part.transpose(1, 2), x.expand(block.experts, -1, -1), out=into)
            if grad is None:
                continue
            if grad.dtype == part.dtype:
                _add_products(grad, part, weight, block.source in begun)
            else:
                # Sums have another type than products: each product would be rounded and added on its own, so there is one.
                waiting.append(side_by_side(part))
                if sum(w.shape[1] for w in waiting) == layers.experts[block.source] * weight.shape[1]:
                    of_source = layers.weights[0].split(list(layers.experts))[block.source]
                    grad.copy_(torch.mm(torch.cat(waiting, 1), of_source.flatten(0, 1)))
                    waiting = []
            begun.add(block.source)
        return weight_grad


def _halves(experts: int, rows: int) -> list[slice]:
    """Samples, of which a block's gradient is held at a time: all; half of them if the block is one expert, as it cannot be
    made smaller otherwise."""
    middle = rows // 2 if experts == 1 and rows >= _SPLIT_ROWS else 0
    return [slice(0, middle), slice(middle, rows)] if middle else [slice(0, rows)]


def _add_products(into: torch.Tensor, down: torch.Tensor, weights: torch.Tensor, begun: bool) -> None:
    """into (B, F) = sum over m of down (m, B, H) @ weights (m, H, F), all of one type, or += if begun."""
    for part, weight in zip(down, weights, strict=True):
        if begun:
            into.addmm_(part, weight)
        else:
            torch.mm(part, weight, out=into)
        begun = True
