"""Pairs of samples and chosen experts, exchanged with the ranks that hold the experts.

Each pair (sample, expert) travels once, as the sample's input, however many tasks chose the expert, and its output travels
back. No pair is dropped, and none is padded: ranks first exchange how many pairs each expert gets, for which the host waits
once a step. A rank sorts what it receives by expert, then by the rank that sent it, so that an expert sees the samples of all
ranks in the order in which one rank would have them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch.nn.functional import embedding_bag

from home_dist.experts.kernels.sparse_eager import used
from home_dist.experts.share import Share
from home_dist.layers.global_norm import several_ranks
from home_dist.layers.peers import Peers

Experts = Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None], torch.Tensor]
"""(rows (P, F), this rank's expert of each row (P,), rows that count in the statistics (P,) or None) -> (P, D)"""


class _Exchange(torch.autograd.Function):
    """Rows for each rank -> rows from each rank. Backward: the same way back."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, sent: list[int], received: list[int], peers: Peers) -> torch.Tensor:
        ctx.way = received, sent, peers
        return _exchanged(x, sent, received, peers)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        return _exchanged(grads[0], *ctx.way), None, None, None


def _exchanged(x: torch.Tensor, sent: list[int], received: list[int], peers: Peers) -> torch.Tensor:
    out = x.new_empty(sum(received), *x.shape[1:])
    dist.all_to_all_single(out, x.contiguous(), received, sent, group=peers.group)
    return out


class _Averaged(torch.autograd.Function):
    """A parameter. Backward: the mean over all ranks of the gradients of their losses, as of parameters that all ranks hold.

    A rank's gradient is already the sum over the ranks that share the pool.
    """

    @staticmethod
    def forward(ctx: Any, parameter: torch.Tensor, share: Share) -> torch.Tensor:
        ctx.share = share
        return parameter.view_as(parameter)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
        share: Share = ctx.share
        grad = grads[0] / share.world
        if several_ranks(share.copies):
            dist.all_reduce(grad, group=share.copies.group)
        return grad, None


def averaged(parameter: torch.Tensor, share: Share) -> torch.Tensor:
    return _Averaged.apply(parameter, share)


@dataclass(frozen=True)
class _Way:
    """How many pairs go where."""

    sent: list[int]
    """By rank."""
    received: list[int]
    experts: torch.Tensor
    """(P,), this rank's expert of each received pair."""

    @staticmethod
    def of(counts: torch.Tensor, share: Share) -> "_Way":
        """counts: (E,), how many pairs of this rank each expert gets. Collective; the host waits."""
        own, ranks = share.count, share.holders.count
        got = counts.new_empty(ranks * own)
        dist.all_to_all_single(got, counts, [own] * ranks, share.counts(), group=share.holders.group)
        by_rank = torch.stack([part.sum() for part in counts.split(share.counts())] + [*got.view(ranks, own).sum(1)]).tolist()
        experts = torch.arange(own, device=counts.device).repeat(ranks)
        received = by_rank[ranks:]
        return _Way(by_rank[:ranks], received, experts.repeat_interleave(got, output_size=sum(received)))


def mixed(
    share: Share,
    compute: Experts,
    x: torch.Tensor,
    chosen: torch.Tensor,
    gates: torch.Tensor,
    mask: torch.Tensor | None,
) -> torch.Tensor:
    """x: (B, F); chosen: (K, B, M), experts of the whole pool; gates: (K, B, M), their weights; mask: (B,). Returns (K, B, D).

    Collective. compute: of this rank's experts.
    """
    use = used(chosen, share.experts)  # (E, B)
    _, samples = use.nonzero(as_tuple=True)  # by expert, then by sample
    places = (use.flatten().cumsum(0) - 1).view(use.shape)
    pairs = places[chosen, torch.arange(len(x), device=x.device).unsqueeze(1)]  # (K, B, M)
    way = _Way.of(use.sum(1), share)
    rows = _Exchange.apply(x.index_select(0, samples), way.sent, way.received, share.holders)
    counts = None if mask is None else _exchanged(mask.index_select(0, samples), way.sent, way.received, share.holders)
    outputs = compute(rows, way.experts, counts)
    back = _Exchange.apply(outputs, way.received, way.sent, share.holders)
    tasks, batch, slots = gates.shape
    choices = pairs.view(-1, slots), gates.reshape(-1, slots)
    return embedding_bag(choices[0], back, mode="sum", per_sample_weights=choices[1]).view(tasks, batch, -1)


def outputs_of_all(share: Share, compute: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """All experts' outputs (E, B, D) for this rank's samples x (B, F). Collective.

    compute: this rank's experts' outputs (E of this rank, samples, D). Ranks may have different numbers of samples.
    """
    ranks = share.holders.count
    sizes = [0] * ranks
    dist.all_gather_object(sizes, len(x), group=share.holders.group)
    everyone = _Exchange.apply(x.repeat(ranks, 1), [len(x)] * ranks, sizes, share.holders)
    out = compute(everyone)
    width = out.shape[2]
    sent, received = (
        [n * e * width for n, e in zip(*way, strict=True)]
        for way in ((sizes, [share.count] * ranks), ([len(x)] * ranks, share.counts()))
    )
    flat = _Exchange.apply(out.transpose(0, 1).flatten(), sent, received, share.holders)
    parts = flat.split(received)
    return torch.cat([p.view(len(x), e, width) for p, e in zip(parts, share.counts(), strict=True)], 1).transpose(0, 1)
