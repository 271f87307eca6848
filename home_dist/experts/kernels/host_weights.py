"""The gates' weights on a CPU: scores of visible experts only, in one matrix product for masked gates and self gates, and one
pass that turns them into weights."""

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from home_dist.experts.kernels.grouped import by_group, input_grad, weight_grad
from home_dist.experts.kernels.host import passes
from home_dist.experts.kernels.passes import Passes
from home_dist.experts.kernels.places import Places


def weights(
    x: torch.Tensor, masked: torch.Tensor, own: torch.Tensor | None, places: Places, using: Passes | None = None
) -> torch.Tensor:
    """x: (B, F) or (K, B, F); masked, own: (K, E, F), the weights of both kinds of gates. Returns their sum, (K, B, E).

    `using`: other passes than this machine's best.
    """
    weight = masked.flatten(0, 1) if own is None else torch.cat([masked.flatten(0, 1), own.flatten(0, 1)])
    weight = weight.index_select(0, places.rows)
    weight = weight.view(*places.experts_of.shape, -1)
    return _Weights.apply(x, weight, places, using or passes())


class _Weights(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, places: Places, using: Passes) -> torch.Tensor:
        scores = by_group(x, weight)
        ctx.save_for_backward(x, weight, scores)
        ctx.places, ctx.using = places, using
        return using.gate_weights(scores, places)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight, scores = ctx.saved_tensors
        scores_grad = ctx.using.gate_weights_backward(grads[0].contiguous(), scores, ctx.places)
        x_grad = input_grad(scores_grad, weight, x.dim() == 2) if ctx.needs_input_grad[0] else None
        return x_grad, weight_grad(scores_grad, x), None, None
