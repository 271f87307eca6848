"""The linear layers of an expert bank on a CPU: matrix products, and passes over each product while it is in the cache.

In fp32 and fp64, the C++ library computes all layers in one call, with the BLAS of torch (native/bank.hpp). A BLAS has no bf16
product: in bf16, torch.bmm computes a block of experts at a time, and the library makes the passes.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch

from home_dist.experts.kernels.cpu_library import accumulator_dtype, call, gemm, pointers, sizes
from home_dist.experts.kernels.fused import Hidden
from home_dist.experts.kernels.grouped_products import side_by_side

BLOCK_BYTES = 8 << 20
"""The size of a block's hidden activations: the pass after a product finds them in the cache."""

_SPLIT_SAMPLES = 256
"""From this batch size on, the products of half a batch are no slower."""


@dataclass
class Layers:
    """The operands of all layers, contiguous and of one dtype, except biases, which are in the accumulator's."""

    inputs: list[torch.Tensor]
    """(B, F) each"""
    experts: tuple[int, ...]
    """How many experts read input i."""
    weights: list[torch.Tensor]
    """Per layer (E, out, in)."""
    biases: list[torch.Tensor]
    """Per layer (E, out). The last layer's bias, if there is one, belongs to the activation and is not added here."""

    @property
    def hidden(self) -> int:
        """The number of layers before the last."""
        return len(self.weights) - 1

    @property
    def widths(self) -> list[int]:
        """The widths of the inputs and of each layer's output."""
        return [self.inputs[0].shape[1], *(w.shape[1] for w in self.weights)]

    @property
    def samples(self) -> int:
        return len(self.inputs[0])

    @property
    def dtype(self) -> torch.dtype:
        return self.inputs[0].dtype


class Forward(NamedTuple):
    y: torch.Tensor
    """(E, B, D), the last layer's output without bias."""
    hidden: Hidden
    """By layer, in blocks of experts; empty unless kept."""
    moments: tuple[torch.Tensor, torch.Tensor] | None
    """(E, D) each: the mean of y over samples, and the sum of squares around it."""


class Products(Protocol):
    def forward(self, layers: Layers, keep: bool, moments: bool, mask: torch.Tensor | None) -> Forward:
        """keep: whether to return hidden activations; moments: whether to compute them; mask: (B,), 1 for their samples."""

    def backward_(
        self, layers: Layers, y_grad: list[torch.Tensor], hidden: Hidden
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """y_grad: in blocks of experts. Overwrites the hidden activations with their gradients.

        Returns the gradients of the weights of all layers but the first, and of the biases of all layers but the last.
        """

    def first_layer_(self, layers: Layers, grad: list[torch.Tensor], input_grads: list[torch.Tensor | None]) -> torch.Tensor:
        """grad: the gradient of the first layer's output, in blocks of experts; the list is emptied.

        Writes input_grads, (B, F) each in the accumulator's dtype, unless None. Returns the gradient of the weights.
        """


def products_of(dtype: torch.dtype) -> Products:
    return Bf16Products() if dtype == torch.bfloat16 else LibraryProducts()


class LibraryProducts:
    """fp32 and fp64: each method is one call of the library."""

    def forward(self, layers: Layers, keep: bool, moments: bool, mask: torch.Tensor | None) -> Forward:
        x, widths, experts = layers.inputs[0], layers.widths, sum(layers.experts)
        y = x.new_empty(experts, layers.samples, widths[-1])
        hidden = [_blocks_of_memory(x, experts, layers.samples, width) for width in widths[1:-1]] if keep else []
        pair = (x.new_empty(experts, widths[-1]), x.new_empty(experts, widths[-1])) if moments else None
        call(
            "bank",
            layers.dtype,
            gemm(layers.dtype),
            _inputs_of_experts(layers),
            pointers(layers.weights),
            pointers(layers.biases),
            pointers(_each_expert(hidden)) if keep else None,
            pointers(y.unbind()),
            mask,
            *(pair or (None, None)),
            sizes(widths),
            len(layers.weights),
            experts,
            layers.samples,
        )
        return Forward(y, hidden, pair)

    def backward_(
        self, layers: Layers, y_grad: list[torch.Tensor], hidden: Hidden
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        if not hidden:
            return [], []
        weight_grads = [torch.empty_like(w) for w in layers.weights[1:]]
        bias_grads = [torch.empty_like(b) for b in layers.biases[: layers.hidden]]
        call(
            "bank_backward",
            layers.dtype,
            gemm(layers.dtype),
            pointers(_each_expert([y_grad])),
            pointers(layers.weights),
            pointers(_each_expert(hidden)),
            pointers([None, *weight_grads]),
            pointers(bias_grads),
            sizes(layers.widths),
            len(layers.weights),
            sum(layers.experts),
            layers.samples,
        )
        return weight_grads, bias_grads

    def first_layer_(self, layers: Layers, grad: list[torch.Tensor], input_grads: list[torch.Tensor | None]) -> torch.Tensor:
        weight = layers.weights[0]
        weight_grad = torch.empty_like(weight)
        experts, width, in_width = weight.shape
        call(
            "bank_inputs",
            layers.dtype,
            gemm(layers.dtype),
            pointers(_each_expert([grad])),
            _inputs_of_experts(layers),
            weight,
            weight_grad,
            pointers(input_grads),
            sizes([sum(layers.experts[:i]) for i in range(len(layers.experts) + 1)]),
            len(layers.inputs),
            in_width,
            width,
            experts,
            layers.samples,
        )
        return weight_grad


class Bf16Products:
    """bf16: torch.bmm for the products, the library for the passes over them, a block of experts at a time."""

    def forward(self, layers: Layers, keep: bool, moments: bool, mask: torch.Tensor | None) -> Forward:
        blocks = blocks_of(layers)
        counts = [block.experts for block in blocks]
        weights, biases = ([t.split(counts) for t in tensors] for tensors in (layers.weights, layers.biases))
        # One tensor per block: the allocator has memory of this size at hand, and the backward frees a block at a time.
        hidden: Hidden = [[] for _ in range(layers.hidden if keep else 0)]
        pairs = []
        y = layers.inputs[0].new_empty(sum(layers.experts), layers.samples, layers.widths[-1])
        for n, (block, out) in enumerate(zip(blocks, y.split(counts), strict=True)):
            x = layers.inputs[block.source].expand(block.experts, -1, -1)
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

    def backward_(
        self, layers: Layers, y_grad: list[torch.Tensor], hidden: Hidden
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        counts, grad = [len(block) for block in y_grad], y_grad
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
            weight_grads.insert(0, weight_grad)
            bias_grads.insert(0, torch.cat(sums))
            grad = hidden[depth - 1]
        return weight_grads, bias_grads

    def first_layer_(self, layers: Layers, grad: list[torch.Tensor], input_grads: list[torch.Tensor | None]) -> torch.Tensor:
        weight_grad = torch.empty_like(layers.weights[0])
        of_inputs = layers.weights[0].split(list(layers.experts))
        blocks, outs = blocks_of(layers), weight_grad.split([len(block) for block in grad])
        grad.reverse()  # taken from its end, so that the memory of a block is free once it was used
        wide: list[torch.Tensor] = []
        for block, out in zip(blocks, outs, strict=True):
            block_grad, input_grad = grad.pop(), input_grads[block.source]
            torch.bmm(block_grad.transpose(1, 2), layers.inputs[block.source].expand(block.experts, -1, -1), out=out)
            if input_grad is None:
                continue
            # The gradient of an input is one product over all its experts: a product per block would be rounded each time.
            wide.append(side_by_side(block_grad))
            if block.last:
                input_grad.copy_(torch.mm(torch.cat(wide, 1), of_inputs[block.source].flatten(0, 1)))
                wide = []
        return weight_grad


def moments_of(y: torch.Tensor, mask: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """The mean of y (E, B, D) over samples, and the sum of squares around it, (E, D) each."""
    experts, _, width = y.shape
    mean, squares = (y.new_empty(experts, width, dtype=accumulator_dtype(y.dtype)) for _ in range(2))
    call("moments", y.dtype, y, mask, mean, squares, *y.shape)
    return mean, squares


def _relu_backward_(x: torch.Tensor, grad: torch.Tensor) -> torch.Tensor:
    """Overwrites x, (E, B, H) after its ReLU, with its gradient before it. Returns the gradient's sum over samples, (E, H)."""
    sums = x.new_empty(x.shape[0], x.shape[2], dtype=accumulator_dtype(x.dtype))
    call("relu_backward", x.dtype, x, grad, sums, *x.shape)
    return sums


class Block(NamedTuple):
    """Experts of one input that are computed together."""

    source: int
    """The input."""
    experts: int
    last: bool
    """Whether this is the last block of its input."""


def blocks_of(layers: Layers) -> list[Block]:
    """Cuts the experts into blocks whose hidden activations fit the cache, of at most an eighth of all experts."""
    expert_bytes = max(layers.widths[1:]) * layers.samples * layers.inputs[0].element_size()
    step = max(min(BLOCK_BYTES // max(expert_bytes, 1), sum(layers.experts) // 8), 1)
    # torch.bmm gives each product to one thread: with a step that the threads do not divide, some threads would be idle.
    threads = torch.get_num_threads()
    step = step // threads * threads or 1
    return [
        Block(source, min(step, count - first), first + step >= count)
        for source, count in enumerate(layers.experts)
        for first in range(0, count, step)
    ]


def _halves(experts: int, samples: int) -> list[slice]:
    """The samples whose gradient is held at a time: half a batch if the block is one expert, which cannot be cut smaller."""
    middle = samples // 2 if experts == 1 and samples >= _SPLIT_SAMPLES else 0
    return [slice(0, middle), slice(middle, samples)] if middle else [slice(0, samples)]


def _blocks_of_memory(like: torch.Tensor, experts: int, samples: int, width: int) -> list[torch.Tensor]:
    """Memory for (E, B, width), in blocks of a size that the allocator keeps at hand and need not ask the system for."""
    step = max(BLOCK_BYTES // max(samples * width * like.element_size(), 1), 1)
    return [like.new_empty(min(step, experts - first), samples, width) for first in range(0, experts, step)]


def _each_expert(layers: Hidden) -> list[torch.Tensor]:
    """One tensor per layer and expert."""
    return [one for blocks in layers for block in blocks for one in block.unbind()]


def _inputs_of_experts(layers: Layers) -> object:
    """A pointer per expert to its input."""
    return pointers([x for x, count in zip(layers.inputs, layers.experts, strict=True) for _ in range(count)])
