"""Operations within the samples of jagged values: sums, softmax, the newest and the best events.

Letters: N events of all samples, grouped by sample; B samples; owners (N,) is each event's sample. Nothing here builds a padded
(B, T, D) tensor.

The fastest algorithm depends on the data. An exported program is traced only once, so that `torch.compiler.is_exporting()`
takes the algorithm that is right for all data.

sizes: lengths (B,) on the host, where the tensors are on a GPU. With them the host knows the size of each result, and does not
wait for the GPU to tell it.
"""

import functools
import warnings
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

Sizes = NDArray[np.integer] | None


def sum_within(values: torch.Tensor, owners: torch.Tensor, samples: int) -> torch.Tensor:
    """Sums values (N, D) within each sample. Returns (B, D); zero for samples without events."""
    return values.new_zeros(samples, values.shape[1]).index_add_(0, owners, values)


def softmax_within(scores: torch.Tensor, owners: torch.Tensor, samples: int) -> torch.Tensor:
    """Softmax of scores (N, H), H heads, within each sample. Returns (N, H)."""
    index = owners.unsqueeze(1).expand_as(scores)
    top = scores.new_full((samples, scores.shape[1]), -torch.inf).scatter_reduce_(0, index, scores.detach(), "amax")
    raised = torch.exp(scores - top.index_select(0, owners))
    return raised / sum_within(raised, owners, samples).index_select(0, owners)


_LONG = 256
"""Mean length from which a product for the places of a sparse matrix (B, N), one place per event, is cheaper than a copy of the
sample's vector for each event."""


def dots_within(
    values: torch.Tensor,
    vectors: torch.Tensor,
    lengths: torch.Tensor,
    owners: torch.Tensor,
    places: torch.Tensor | None = None,
) -> torch.Tensor:
    """Inner product (N,) of each event and its sample's vector. values: (N, D); vectors: (B, D).

    places: if events are shared by samples, (N,) each event's row of `values` (any number, D).
    """
    short = torch.compiler.is_exporting() or (places is None and len(values) < _LONG * len(lengths))
    if short or values.device.type != "cpu":
        values = values if places is None else values.index_select(0, places)
        return (values * vectors.index_select(0, owners)).sum(1)
    return _Dots.apply(values, vectors, lengths, owners, places)


class _Dots(torch.autograd.Function):
    """Both ways in one sparse product each, whatever the lengths. Sparse products on a CPU have no bf16."""

    @staticmethod
    def forward(
        ctx: Any,
        values: torch.Tensor,
        vectors: torch.Tensor,
        lengths: torch.Tensor,
        owners: torch.Tensor,
        shared: torch.Tensor | None,
    ) -> torch.Tensor:
        places = torch.arange(len(values)) if shared is None else shared
        ctx.shared = shared is not None
        bounds = bounds_of(lengths)
        ctx.save_for_backward(values, vectors, bounds, owners, places)
        pattern = _matrix(bounds, places, exact(values.new_zeros(len(places))), len(values))
        products = torch.sparse.sampled_addmm(pattern, exact(vectors), exact(values).t(), beta=0.0).values()
        return products.to(values.dtype)

    @staticmethod
    def backward(ctx: Any, *pulls: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None, None, None, None]:
        values, vectors, bounds, owners, places = ctx.saved_tensors
        [pull] = pulls
        of_values = of_vectors = None
        if ctx.needs_input_grad[0]:
            of_values = pull.unsqueeze(1) * vectors.index_select(0, owners)
            if ctx.shared:
                of_values = torch.zeros_like(values).index_add_(0, places, of_values)
        if ctx.needs_input_grad[1]:
            of_vectors = (_matrix(bounds, places, exact(pull), len(values)) @ exact(values)).to(vectors.dtype)
        return of_values, of_vectors, None, None, None


def weighted_sums_within(
    weights: torch.Tensor, values: torch.Tensor, lengths: torch.Tensor, owners: torch.Tensor, places: torch.Tensor
) -> torch.Tensor:
    """Sums (B, D) of values[places[n]] by weights[n] within each sample. weights, owners, places: (n,); lengths: (B,).

    values: (any number, D), which get no gradient.
    """
    if torch.compiler.is_exporting() or values.device.type != "cpu":
        return sum_within(weights.unsqueeze(1) * values.index_select(0, places), owners, len(lengths))
    return _Sums.apply(weights, values, lengths, places)


class _Sums(torch.autograd.Function):
    """Without a copy of the values for each weight."""

    @staticmethod
    def forward(
        ctx: Any, weights: torch.Tensor, values: torch.Tensor, lengths: torch.Tensor, places: torch.Tensor
    ) -> torch.Tensor:
        bounds = bounds_of(lengths)
        ctx.save_for_backward(weights, values, bounds, places)
        return products(_matrix(bounds, places, exact(weights), len(values)), values).to(values.dtype)

    @staticmethod
    def backward(ctx: Any, *pulls: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        weights, values, bounds, places = ctx.saved_tensors
        [pull] = pulls
        pattern = _matrix(bounds, places, exact(weights), len(values))
        of_weights = torch.sparse.sampled_addmm(pattern, exact(pull), exact(values).t(), beta=0.0).values()
        return of_weights.to(weights.dtype), None, None, None


def products(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """one @ other, in fp32 also under autocast: bf16 would give unlike events equal scores, and sparse products lack it on a
    CPU."""
    with torch.autocast(other.device.type, enabled=False):
        return exact(one) @ exact(other)


def exact(values: torch.Tensor) -> torch.Tensor:
    """In fp32 if in 16 bits."""
    return values.float() if values.dtype in (torch.bfloat16, torch.float16) else values


def _matrix(bounds: torch.Tensor, places: torch.Tensor, values: torch.Tensor, columns: int) -> torch.Tensor:
    """The sparse matrix (B, columns) with event n's value (N,) at its sample and places[n]."""
    _first_matrix()
    return torch.sparse_csr_tensor(bounds, places.to(bounds.dtype), values, (len(bounds) - 1, columns))


@functools.cache
def _first_matrix() -> None:
    """torch says once that its sparse matrices are a beta. Not caught at each step: that would make Python forget which
    warnings it has shown, so that every warning of the step came again with each step."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.sparse_csr_tensor(torch.tensor([0, 1]), torch.tensor([0]), torch.ones(1), (1, 1))


def some_within(lengths: torch.Tensor, most: int, sizes: Sizes = None) -> tuple[torch.Tensor, torch.Tensor]:
    """All events of a history with at most `most` events; of a longer one, `most` events at random, with repetition.

    Returns positions (n,) and the number of events of each sample (B,). Draws from torch's generator. sizes: see above.
    """
    kept = lengths.clamp(max=most)
    every = torch.arange(len(lengths), device=lengths.device)
    owners = torch.repeat_interleave(every, kept, output_size=_kept(sizes, most))
    place = torch.arange(len(owners), device=owners.device) - starts(kept).index_select(0, owners)
    length = lengths.index_select(0, owners)
    if len(length) and _longest(lengths, sizes) > most:
        drawn = (torch.rand(len(owners), device=owners.device, dtype=torch.float64) * length).long()
        place = torch.where(length > most, torch.minimum(drawn, length - 1), place)
    return starts(lengths).index_select(0, owners) + place, kept


def bounds_of(lengths: torch.Tensor) -> torch.Tensor:
    """(B,) -> (B + 1,) int64: where each sample's values begin, and where the last one's end."""
    return torch.cat([lengths.new_zeros(1, dtype=torch.int64), lengths.cumsum(0)])


def starts(lengths: torch.Tensor) -> torch.Tensor:
    """(B,): position of each sample's first event."""
    return torch.cumsum(lengths, 0) - lengths


def newest_within(
    lengths: torch.Tensor, owners: torch.Tensor, most: int, sizes: Sizes = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Positions (n,) of the last `most` events of each sample, in order, and the number of events of each sample (B,)."""
    kept = lengths.clamp(max=most)
    place = torch.arange(len(owners), device=owners.device) - starts(lengths).index_select(0, owners)
    return true_places(place >= (lengths - kept).index_select(0, owners), _kept(sizes, most)), kept


def true_places(mask: torch.Tensor, count: int | None = None) -> torch.Tensor:
    """(n,): where mask (N,) is true. count: n, where the host knows it; after fewer true places, 0 follows."""
    return mask.nonzero().flatten() if count is None else mask.nonzero_static(size=count, fill_value=0).flatten()


def _kept(sizes: Sizes, most: int) -> int | None:
    return None if sizes is None else int(np.minimum(sizes, most).sum())


def _longest(lengths: torch.Tensor, sizes: Sizes) -> int:
    if not len(lengths):
        return 0
    return int(lengths.max()) if sizes is None else int(sizes.max())


def best_within(
    scores: torch.Tensor, lengths: torch.Tensor, owners: torch.Tensor, most: int, sizes: Sizes = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Positions (n,) of each sample's `most` events with the highest scores (N,), in order, and their number by sample (B,).

    Of events with equal scores any may be taken.
    """
    kept = lengths.clamp(max=most)
    place = torch.arange(len(owners), device=owners.device) - starts(lengths).index_select(0, owners)
    if not torch.compiler.is_exporting():
        samples, longest = len(lengths), _longest(lengths, sizes)
        if longest <= most:
            return torch.arange(len(scores), device=scores.device), lengths
        if samples * longest <= 4 * len(scores):
            # A padded table of scores, one number per event, is mostly full: top-k, linear in T, replaces a sort.
            table = scores.new_full((samples, longest), -torch.inf)
            table[owners, place] = scores
            taken = torch.zeros(samples, longest, dtype=torch.bool, device=scores.device)
            taken.scatter_(1, table.topk(most, 1, sorted=False).indices, True)
            return true_places(taken[owners, place], _kept(sizes, most)), kept
    order = scores.argsort(descending=True, stable=True)
    order = order[owners[order].argsort(stable=True)]  # by sample, and within it from the best
    best = order[place < most] if sizes is None else order.index_select(0, true_places(place < most, _kept(sizes, most)))
    return best.sort().values, kept
