"""Dropout of one tensor on a CPU, by the same hash as that of the experts' outputs."""

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from home_dist.experts.kernels.dropout import Dropout
from home_dist.experts.kernels.host import passes
from home_dist.experts.kernels.passes import Passes


def dropped(x: torch.Tensor, dropout: Dropout, using: Passes | None = None) -> torch.Tensor:
    """x: (B, F). `using`: other passes than this machine's best."""
    return _Dropped.apply(x, dropout, using or passes())


class _Dropped(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, dropout: Dropout, using: Passes) -> torch.Tensor:
        ctx.dropout, ctx.using = dropout, using
        return using.drop(x.contiguous(), dropout)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return ctx.using.drop(grads[0].contiguous(), ctx.dropout), None, None
