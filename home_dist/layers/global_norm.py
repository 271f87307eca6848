"""Batch normalisation over the global batch: the real samples of all ranks, without padding.

torch.nn.SyncBatchNorm does not run on CPUs and has no mask, so that padding would enter its statistics.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from home_dist.layers.peers import Peers
from home_dist.layers.recompute import again


class _GatherRanks(torch.autograd.Function):
    """(S,) on each rank -> (ranks, S) on all of them. Backward: the sum over ranks of the gradient of this rank's row."""

    @staticmethod
    def forward(ctx: Any, local: torch.Tensor, group: dist.ProcessGroup | None) -> torch.Tensor:
        ctx.group = group
        out = local.new_empty(dist.get_world_size(group) * local.numel())
        dist.all_gather_into_tensor(out, local.contiguous(), group)
        return out.view(-1, local.numel())

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
        grad = grads[0].contiguous()
        dist.all_reduce(grad, group=ctx.group)
        return grad[dist.get_rank(ctx.group)], None


Moments = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""(mean, sum of squares around the mean or biased variance, number of samples). The last one is (), or (..., 1) where units
have samples of their own."""


def global_moments(x: torch.Tensor, mask: torch.Tensor | None) -> Moments:
    """Mean and biased variance over the samples of all ranks.

    x: (..., B, D); mask: (B,), 1 for real samples, or None for all. Returns mean and variance, (..., D), and the number of
    samples, (). All are zero without samples.
    """
    return joined(*local_moments(x, mask))


def local_moments(x: torch.Tensor, mask: torch.Tensor | None) -> Moments:
    """This rank's mean (..., D), sum of squares around it (..., D) and number of samples (), of x (..., B, D). mask: (B,), or
    (..., B), with which the number of samples is (..., 1)."""
    if mask is None:
        count = x.new_full((), float(x.shape[-2]))
        mean = x.sum(-2) / count.clamp(min=1)
        squares = (x - mean.unsqueeze(-2)).square().sum(-2)
    else:
        count = (mask.sum() if mask.dim() == 1 else mask.sum(-1, keepdim=True)).to(x.dtype)
        weight = mask.to(x.dtype).unsqueeze(-1)
        mean = (x * weight).sum(-2) / count.clamp(min=1)
        squares = ((x - mean.unsqueeze(-2)) * weight).square().sum(-2)
    return mean, squares, count


def joined(mean: torch.Tensor, squares: torch.Tensor, count: torch.Tensor, peers: Peers | None = None) -> Moments:
    """Each rank's local moments -> mean, biased variance and number of samples of all ranks (Chan et al. 1979). count: () or
    (..., 1); peers: the ranks, by default all.

    Each rank sums squares around its own mean, so that a mean far from zero costs no precision.
    """
    if not several_ranks(peers):
        return mean, squares / count.clamp(min=1), count
    packed = torch.cat([mean.flatten(), squares.flatten(), count.flatten()])
    ranks = _GatherRanks.apply(packed, None if peers is None else peers.group)
    parts = ranks.split([mean.numel(), squares.numel(), count.numel()], 1)
    means, squares_, counts = (p.view(-1, *of.shape) for p, of in zip(parts, (mean, squares, count), strict=True))
    if not count.dim():
        counts = counts.view(-1, *[1] * mean.dim())
    total = counts.sum(0)
    joint = (means * counts).sum(0) / total.clamp(min=1)
    variance = (squares_ + counts * (means - joint).square()).sum(0) / total.clamp(min=1)
    return joint, variance, total.view_as(count)


_apart = False


def several_ranks(peers: Peers | None = None) -> bool:
    """Whether there are other ranks to exchange with: among `peers`, by default all."""
    return not _apart and dist.is_initialized() and (dist.get_world_size() if peers is None else peers.count) > 1


@contextmanager
def without_other_ranks() -> Iterator[None]:
    """Inside the block moments are those of this rank alone, so that it may run on one rank."""
    global _apart
    before, _apart = _apart, True
    try:
        yield
    finally:
        _apart = before


class GlobalBatchNorm(nn.Module):
    """Normalises each of `shape` units over the samples: x (*shape[:-1], B, shape[-1]).

    Training uses the global batch's moments, evaluation their running averages. A global batch of one sample has variance 0:
    its output is the bias. It tells nothing of the samples' variance, so that the running one stays.
    """

    running_mean: torch.Tensor
    running_var: torch.Tensor
    peers: Peers | None = None
    """The ranks whose samples the units see, if not all."""

    def __init__(self, shape: tuple[int, ...], affine: bool = True, momentum: float = 0.1, eps: float = 1e-5):
        super().__init__()
        self.momentum, self.eps = momentum, eps
        self.register_buffer("running_mean", torch.zeros(shape))
        self.register_buffer("running_var", torch.ones(shape))
        self.weight = nn.Parameter(torch.ones(shape)) if affine else None
        self.bias = nn.Parameter(torch.zeros(shape)) if affine else None

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        if x.dtype == torch.bfloat16:
            x = x.float()
        if self.training:
            mean, var, count = global_moments(x, mask)
            self.follow(mean.detach(), var.detach(), count.detach())
        else:
            mean, var = self.running_mean, self.running_var
        scale = torch.rsqrt(var + self.eps)
        if self.weight is not None:
            scale = scale * self.weight
        shift = -mean * scale
        if self.bias is not None:
            shift = shift + self.bias
        return torch.addcmul(shift.unsqueeze(-2), x, scale.unsqueeze(-2))

    @torch.no_grad()
    def follow(self, mean: torch.Tensor, var: torch.Tensor, count: torch.Tensor) -> None:
        """Moves the running averages towards a batch's moments."""
        if again():
            return
        unbiased = var * count / (count - 1).clamp(min=1)
        for running, new, least in ((self.running_mean, mean, 1), (self.running_var, unbiased, 2)):
            running.lerp_(new, torch.where(count >= least, self.momentum, 0.0).to(mean.dtype))
