"""Losses over the samples of one request, which stand beside each other in a batch (`[data] request`).

Each function gives every sample of a request its request's loss, so that a request counts as often as it has samples, as in the
losses of single samples. A sample of weight w counts as w samples; of weight 0, whose label is unknown, as none. Requests
without a pair of different labels have loss 0.

pairwise: mean over pairs y_i > y_j of log(1 + exp(z_j - z_i)) (RankNet, Burges et al., ICML 2005). Time and memory grow with
the sum of squared sizes of requests; for requests of thousands of samples, take listwise.
listwise: cross entropy of softmax(z) over the request against y / sum(y) (ListNet, Cao et al., ICML 2007).
jrc: of each sample, the cross entropy of its own class's logit over the request (Sheng et al., KDD 2023, equation 7): a
positive's z_1 against the z_1 of all, a negative's z_0 against the z_0 of all.

Letters: n tasks, R requests.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray


@dataclass(frozen=True)
class RequestsOfBatch:
    """The requests of a batch. owner: (B,) each sample's request, from 0 on; first, size: (R,); paired: the number of all
    ordered pairs of samples of one request, where the host knows it."""

    owner: torch.Tensor
    first: torch.Tensor
    size: torch.Tensor
    paired: int | None = None

    @staticmethod
    def of(keys: torch.Tensor, on_host: NDArray[np.int64] | None = None) -> "RequestsOfBatch":
        """keys: (B,), equal for neighbours of one request. on_host: the same, where `keys` is on a GPU, so that the host need
        not wait for it."""
        new = torch.ones_like(keys, dtype=torch.bool)
        new[1:] = keys[1:] != keys[:-1]
        if on_host is None:
            first, paired = new.nonzero().flatten(), None
        else:
            begins = np.flatnonzero(np.diff(on_host, prepend=on_host[:1] - 1))
            first = new.nonzero_static(size=len(begins)).flatten()
            paired = int(np.square(np.diff(begins, append=len(on_host))).sum())
        size = torch.diff(first, append=first.new_full((1,), len(keys)))
        return RequestsOfBatch(new.cumsum(0) - 1, first, size, paired)

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """(B, n) -> (R, n)"""
        return values.new_zeros(len(self.first), values.shape[1]).index_add_(0, self.owner, values)

    def of_each(self, values: torch.Tensor) -> torch.Tensor:
        """(R, n) -> (B, n)"""
        return values.index_select(0, self.owner)

    def log_sum_exp(self, z: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """(R, n): log of sum w exp(z) over each request; z, weights: (B, n). Where all weights are 0, some finite number."""
        counted = torch.where(weights > 0, z.detach(), -torch.inf)
        owner = self.owner.unsqueeze(1).expand_as(z)
        top = z.new_full((len(self.first), z.shape[1]), -torch.inf).scatter_reduce(0, owner, counted, "amax")
        top = torch.where(top.isfinite(), top, 0.0)
        # At most 0 where it counts. Not by a clamp: the largest of a request lies on its bound, where torch 2.13 passes the
        # gradient on and torch 2.14 does not.
        below = torch.where(weights > 0, z - self.of_each(top), 0.0)
        sums = self.sum(weights * below.exp())
        return top + torch.where(sums > 0, sums, 1.0).log()

    def pairs(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(P,), (P,): all ordered pairs of samples of one request."""
        partners = self.size.index_select(0, self.owner)
        one = torch.repeat_interleave(partners, output_size=self.paired)
        begins = partners.cumsum(0) - partners
        other = torch.arange(len(one), device=one.device) - begins.index_select(0, one)
        return one, other + self.first.index_select(0, self.owner.index_select(0, one))


def pairwise(z: torch.Tensor, y: torch.Tensor, weights: torch.Tensor, requests: RequestsOfBatch) -> torch.Tensor:
    """z, y, weights: (B, n). Returns (B, n)."""
    one, other = requests.pairs()
    weight = weights[one] * weights[other] * (y[one] > y[other])
    losses = weight * torch.nn.functional.softplus(z[other] - z[one])
    owner = requests.owner.index_select(0, one)
    sums, weight_sums = (x.new_zeros(len(requests.first), x.shape[1]).index_add_(0, owner, x) for x in (losses, weight))
    return requests.of_each(sums / torch.where(weight_sums > 0, weight_sums, 1.0))


def listwise(z: torch.Tensor, y: torch.Tensor, weights: torch.Tensor, requests: RequestsOfBatch) -> torch.Tensor:
    """z, weights: (B, n); y: (B, n), at least 0. Returns (B, n)."""
    target = weights * y
    surprise = requests.of_each(requests.log_sum_exp(z, weights)) - z
    total = requests.sum(target)
    return requests.of_each(requests.sum(target * surprise) / torch.where(total > 0, total, 1.0))


def jrc(z: torch.Tensor, y: torch.Tensor, weights: torch.Tensor, requests: RequestsOfBatch) -> torch.Tensor:
    """z: (B, n, 2), the logits of "no" and "yes"; y, weights: (B, n). Returns (B, n)."""
    no, yes = (requests.of_each(requests.log_sum_exp(z[..., c], weights)) - z[..., c] for c in (0, 1))
    return torch.where(y > 0.5, yes, no)
