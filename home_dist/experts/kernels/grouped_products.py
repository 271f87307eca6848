"""Products of inputs with one weight per group, and their gradients, in torch.

The input x is one for all groups, (B, F), or one per group, (G, B, F). The weight is (G, N, F), the product (G, B, N).
"""

import torch


def by_group(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """The product, (G, B, N). Groups that share one input are one matrix product."""
    if x.dim() == 3:
        return torch.bmm(x, weight.transpose(1, 2))
    return torch.mm(x, weight.flatten(0, 1).t()).unflatten(1, weight.shape[:2]).transpose(0, 1)


def weight_grad(grad: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """The gradient of the weight, (G, N, F), from the gradient of the product, (G, B, N)."""
    if x.dim() == 3:
        return torch.bmm(grad.transpose(1, 2), x)
    return torch.mm(side_by_side(grad).t(), x).unflatten(0, (len(grad), -1))


def input_grad(grad: torch.Tensor, weight: torch.Tensor, shared: bool) -> torch.Tensor:
    """The gradient of x. shared: whether x is one for all groups."""
    return torch.mm(side_by_side(grad), weight.flatten(0, 1)) if shared else torch.bmm(grad, weight)


def add_input_grad(x_grad: torch.Tensor, grad: torch.Tensor, weight: torch.Tensor) -> None:
    """Adds the gradient of x to x_grad."""
    shared = x_grad.dim() == 2
    if x_grad.dtype != weight.dtype:
        x_grad.add_(input_grad(grad, weight, shared))
    elif shared:
        x_grad.addmm_(side_by_side(grad), weight.flatten(0, 1))
    else:
        x_grad.baddbmm_(grad, weight)


def side_by_side(grad: torch.Tensor) -> torch.Tensor:
    """(G, B, N) -> (B, G N)"""
    return grad.transpose(0, 1).flatten(1)
