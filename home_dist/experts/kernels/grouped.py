"""Products of one input, or of one input per group, with a weight per group; and their gradients."""

import torch


def by_group(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """x (B, F) or (G, B, F) times weight (G, N, F): (G, B, N). Groups with one input are one product."""
    if x.dim() == 3:
        return torch.bmm(x, weight.transpose(1, 2))
    return torch.mm(x, weight.flatten(0, 1).t()).unflatten(1, weight.shape[:2]).transpose(0, 1)


def weight_grad(grad: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """That of `by_group`'s weight; grad: (G, B, N)."""
    if x.dim() == 3:
        return torch.bmm(grad.transpose(1, 2), x)
    return torch.mm(side_by_side(grad).t(), x).unflatten(0, (len(grad), -1))


def add_back(into: torch.Tensor, grad: torch.Tensor, weight: torch.Tensor) -> None:
    """into += the gradient of `by_group`'s x."""
    if into.dim() == 2:
        add_product(into, side_by_side(grad), weight.flatten(0, 1))
    elif into.dtype == weight.dtype:
        into.baddbmm_(grad, weight)
    else:
        into.add_(torch.bmm(grad, weight))


def input_grad(grad: torch.Tensor, weight: torch.Tensor, shared: bool) -> torch.Tensor:
    """The gradient of `by_group`'s x, which all groups share or not."""
    return torch.mm(side_by_side(grad), weight.flatten(0, 1)) if shared else torch.bmm(grad, weight)


def side_by_side(grad: torch.Tensor) -> torch.Tensor:
    """(G, B, N) -> (B, G N)"""
    return grad.transpose(0, 1).flatten(1)


def add_product(into: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> None:
    """into += a @ b; `into` has the type that is summed in."""
    if into.dtype == b.dtype:
        into.addmm_(a, b)
    else:
        into.add_(torch.mm(a, b))
