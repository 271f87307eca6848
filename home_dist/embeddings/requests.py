"""Inputs that the samples of a request share: looked up for its first sample, and spread over all of them."""

from collections.abc import Sequence
from functools import cached_property

import torch

from home_dist.schema import IdInput


class RequestsOfSamples:
    """The requests of a batch of B samples."""

    def __init__(self, firsts: torch.Tensor, samples: int):
        """firsts: (R,) the first sample of each request, ascending; (0,) if every sample has its own ids. samples: B."""
        self.firsts, self.samples = firsts, samples

    def share(self, item: IdInput) -> bool:
        """Whether samples have their ids from another one. In a batch of requests of one sample, none has."""
        return item.once and 0 < len(self.firsts) < self.samples

    @cached_property
    def of_sample(self) -> torch.Tensor:
        """(B,): the request of each sample."""
        sizes = torch.diff(self.firsts, append=self.firsts.new_full((1,), self.samples))
        numbers = torch.arange(len(self.firsts), device=self.firsts.device)
        return torch.repeat_interleave(numbers, sizes, output_size=self.samples)

    @cached_property
    def rows(self) -> torch.Tensor:
        """(B,): the first sample of each sample's request."""
        return self.firsts.index_select(0, self.of_sample)

    def spread(self, vectors: torch.Tensor, item: IdInput) -> torch.Tensor:
        """vectors: (B, dim). Returns those of the first samples in place of the others', if samples share the input."""
        return vectors.index_select(0, self.rows) if self.share(item) else vectors

    def spread_bags(self, vectors: torch.Tensor, items: Sequence[IdInput]) -> torch.Tensor:
        """As `spread`, for the vectors of several inputs side by side, (B, sum of dims)."""
        if not any(map(self.share, items)):
            return vectors
        parts = vectors.split([i.table.dim for i in items], 1)
        return torch.cat([self.spread(part, i) for part, i in zip(parts, items, strict=True)], 1)
