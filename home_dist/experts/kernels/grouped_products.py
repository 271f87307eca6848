"""Products of inputs with one weight per group, and their gradients, by the kernels' own pool of threads (native/product.hpp).
Products of bf16 are fp32.

The input x is one for all groups, (B, F), or one per group, (G, B, F). The weight is (G, N, F), the product (G, B, N).
"""

from typing import NamedTuple

import torch

from home_dist.experts.kernels.cpu_library import accumulator_dtype, call, gemm, pointers_within


def by_group(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """The product, (G, B, N). Groups that share one input are one matrix product."""
    if x.dim() == 3:
        return _product(x, weight.transpose(1, 2))
    return _product(x, weight.flatten(0, 1).t()).unflatten(1, weight.shape[:2]).transpose(0, 1)


def weight_grad(grad: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """The gradient of the weight, (G, N, F), from the gradient of the product, (G, B, N)."""
    if x.dim() == 3:
        return _product(grad.transpose(1, 2), x)
    return _product(side_by_side(grad).t(), x).unflatten(0, (len(grad), -1))


def input_grad(grad: torch.Tensor, weight: torch.Tensor, shared: bool) -> torch.Tensor:
    """The gradient of x. shared: whether x is one for all groups."""
    return _product(side_by_side(grad), weight.flatten(0, 1)) if shared else _product(grad, weight)


def add_input_grad(x_grad: torch.Tensor, grad: torch.Tensor, weight: torch.Tensor) -> None:
    """Adds the gradient of x to x_grad."""
    if x_grad.dim() == 2:
        _product(side_by_side(grad), weight.flatten(0, 1), x_grad)
    else:
        _product(grad, weight, x_grad)


def side_by_side(grad: torch.Tensor) -> torch.Tensor:
    """(G, B, N) -> (B, G N)"""
    return grad.transpose(0, 1).flatten(1)


class _Operand(NamedTuple):
    """A matrix, or one per group, as a BLAS takes it: rows at a stride, or columns if transposed."""

    values: torch.Tensor
    stride: int
    transposed: bool

    @staticmethod
    def of(x: torch.Tensor) -> "_Operand":
        rows, columns = x.shape[-2:]
        if x.stride(-1) == 1 and x.stride(-2) >= columns:
            return _Operand(x, x.stride(-2), False)
        if x.stride(-2) == 1 and x.stride(-1) >= rows:
            return _Operand(x, x.stride(-1), True)
        return _Operand(x.contiguous(), columns, False)

    def pointers(self) -> object:
        return pointers_within([self.values])


def _product(a: torch.Tensor, b: torch.Tensor, add_to: torch.Tensor | None = None) -> torch.Tensor:
    """a: (n, k) or (G, n, k); b: (k, m) or (G, k, m); add_to: a contiguous tensor that the product is added to."""
    dtype = accumulator_dtype(a.dtype)
    if min(*a.shape, *b.shape) == 0:
        return a.new_zeros(*a.shape[:-1], b.shape[-1], dtype=dtype) if add_to is None else add_to
    out = a.new_empty(*a.shape[:-1], b.shape[-1], dtype=dtype) if add_to is None else add_to
    left, right, result = _Operand.of(a), _Operand.of(b), _Operand(out, out.shape[-1], False)
    sides = [left.pointers(), left.stride, left.transposed, right.pointers(), right.stride, right.transposed]
    groups = 1 if a.dim() == 2 else len(a)
    sizes = (groups, a.shape[-2], a.shape[-1], b.shape[-1])
    call("products", a.dtype, gemm(a.dtype), *sides, result.pointers(), result.stride, add_to is not None, *sizes)
    return out
