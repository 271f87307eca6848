"""The linear layers of an expert bank on a CPU: matrix products, and passes over each product while it is in the cache.

The C++ library computes all layers in one call, with the BLAS of torch (native/bank.hpp). In bf16, what a product gives in fp32
is rounded when the pass after it has read it.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch

from home_dist.experts.kernels.cpu_library import (
    accumulator_dtype,
    addresses,
    addresses_as_c,
    call,
    gemm,
    pointers,
    pointers_within,
    sizes,
)
from home_dist.experts.kernels.fused import Hidden

BLOCK_BYTES = 8 << 20
"""The size of a block of hidden activations."""


@dataclass
class Layers:
    """The operands of all layers, contiguous and of one dtype, except biases, which are in the accumulator's."""

    inputs: list[torch.Tensor]
    """(B, F) each, or all as one tensor (n, B, F)"""
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
        return [self.inputs[0].shape[-1], *(w.shape[1] for w in self.weights)]

    @property
    def samples(self) -> int:
        return self.inputs[0].shape[-2]

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


def forward(layers: Layers, keep: bool, moments: bool, mask: torch.Tensor | None) -> Forward:
    """keep: whether to return hidden activations; moments: whether to compute them; mask: (B,), 1 for their samples."""
    x, widths, experts = layers.inputs[0], layers.widths, sum(layers.experts)
    y = x.new_empty(experts, layers.samples, widths[-1])
    hidden = [_blocks_of_memory(x, experts, layers.samples, width) for width in widths[1:-1]] if keep else []
    pair = _pair(y) if moments else None
    call(
        "bank",
        layers.dtype,
        gemm(layers.dtype),
        _inputs_of_experts(layers),
        pointers(layers.weights),
        pointers(layers.biases),
        _each_expert(hidden) if keep else None,
        pointers_within([y]),
        mask,
        *(pair or (None, None)),
        sizes(widths),
        len(layers.weights),
        experts,
        layers.samples,
    )
    return Forward(y, hidden, pair)


def backward_(layers: Layers, y_grad: torch.Tensor, hidden: Hidden) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """y_grad: (E, B, D). Overwrites the hidden activations with their gradients.

    Returns the gradients of the weights of all layers but the first, and of the biases of all layers but the last.
    """
    if not hidden:
        return [], []
    weight_grads = [torch.empty_like(w, dtype=accumulator_dtype(w.dtype)) for w in layers.weights[1:]]
    bias_grads = [torch.empty_like(b) for b in layers.biases[: layers.hidden]]
    call(
        "bank_backward",
        layers.dtype,
        gemm(layers.dtype),
        pointers_within([y_grad]),
        pointers(layers.weights),
        _each_expert(hidden),
        pointers([None, *weight_grads]),
        pointers(bias_grads),
        sizes(layers.widths),
        len(layers.weights),
        sum(layers.experts),
        layers.samples,
    )
    return weight_grads, bias_grads


def first_layer(layers: Layers, grad: list[torch.Tensor], input_grads: list[torch.Tensor | None]) -> torch.Tensor:
    """grad: the gradient of the first layer's output, in blocks of experts.

    Writes input_grads, shaped as the inputs, in the dtype of layers or of its accumulator, unless None. Returns the gradient of
    the weights.
    """
    weight = layers.weights[0]
    weight_grad = torch.empty_like(weight, dtype=accumulator_dtype(weight.dtype))
    experts, width, in_width = weight.shape
    stored = any(g is not None and g.dtype != weight_grad.dtype for g in input_grads)
    call(
        "bank_inputs_stored" if stored else "bank_inputs",
        layers.dtype,
        gemm(layers.dtype),
        _each_expert([grad]),
        _inputs_of_experts(layers),
        weight,
        weight_grad,
        pointers_within(input_grads),
        sizes([sum(layers.experts[:i]) for i in range(len(layers.experts) + 1)]),
        len(layers.experts),
        in_width,
        width,
        experts,
        layers.samples,
    )
    return weight_grad


def moments_of(y: torch.Tensor, mask: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """The mean of y (E, B, D) over samples, and the sum of squares around it, (E, D) each."""
    mean, squares = _pair(y)
    call("moments", y.dtype, y, mask, mean, squares, *y.shape)
    return mean, squares


def _pair(y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Memory for moments of y."""
    mean, squares = (y.new_empty(len(y), y.shape[2], dtype=accumulator_dtype(y.dtype)) for _ in range(2))
    return mean, squares


def _blocks_of_memory(like: torch.Tensor, experts: int, samples: int, width: int) -> list[torch.Tensor]:
    """Memory for (E, B, width), in blocks of a size that the allocator keeps at hand and need not ask the system for."""
    step = max(BLOCK_BYTES // max(samples * width * like.element_size(), 1), 1)
    return [like.new_empty(min(step, experts - first), samples, width) for first in range(0, experts, step)]


def _each_expert(layers: Hidden) -> object:
    """A pointer per layer and expert."""
    return pointers_within([block for blocks in layers for block in blocks])


def _inputs_of_experts(layers: Layers) -> object:
    """A pointer per expert to its input."""
    inputs = [address for x in layers.inputs for address in addresses(x)]
    return addresses_as_c([x for x, count in zip(inputs, layers.experts, strict=True) for _ in range(count)])
