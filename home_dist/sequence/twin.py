"""Two-stage Interest Network (Chang et al. 2023): search and attention use the same scores.

score_t = (k_t W_h)(q W_q)^T / sqrt(d) + c_t w_c for each head. k_t are an event's inherent fields, which the target has too;
c_t are cross fields between user and item (watch ratio, time gap), each reduced to a bias. Stage one keeps the k events with
the highest scores; stage two attends to them by softmax over their scores. With several heads, stage one ranks by the heads'
mean score, so that all attend to the same events; with `search_per_head` each head attends to the k events that it scores
highest, as the paper, at a search per head.

Inherent fields are projected once per distinct item of the batch, not once per event (the paper's cache), so that the number of
items bounds the most expensive product.
"""

import math

import torch
from torch import nn

from home_dist.config.sequence import SearchSection
from home_dist.sequence.attention import TargetAttention
from home_dist.sequence.history import Encoded, Encoder, EncoderInputs, History
from home_dist.sequence.jagged import best_within, dots_within, softmax_within, sum_within


class TwinSection(SearchSection):
    """Search and attention with the same scores (Chang et al. 2023)."""

    kind: str = "twin"
    search_per_head: bool = False
    """Whether each head searches events of its own; else all attend to those of the highest mean score."""


class Twin(Encoder):
    section = TwinSection
    reads_requests = True

    def __init__(self, section: TwinSection, inputs: EncoderInputs):
        super().__init__()
        self.most, self.per_head, heads, head_dim = section.most, section.search_per_head, section.heads, section.head_dim
        target_dim, context_dim = inputs.target_dim, inputs.context_dim
        self.attention = TargetAttention(target_dim, context_dim, heads, head_dim)
        self.attention.keys = nn.Linear(target_dim, heads * head_dim, bias=False)  # of inherent fields alone
        self.bias = nn.Linear(context_dim, heads, bias=False) if context_dim else None
        self.out_dim = self.attention.out_dim

    def forward(self, history: History) -> Encoded:
        pairs, samples = history.pairs, len(history.targets)
        queries = self.attention.queries(history.targets)
        if self.per_head:
            return Encoded(torch.cat([self._of_head(history, queries, head) for head in range(self.attention.heads)], 1))
        # The search needs no gradient: events left out have none, and chosen events are scored again.
        with torch.no_grad():
            searched = self.search_scores(history, queries)
        chosen = history.take_pairs(*best_within(searched, pairs.lengths, pairs.targets, self.most))
        owners = chosen.owners
        scores = self.scores(chosen, owners, queries)
        values = self.attention.values(torch.cat([chosen.events, chosen.contexts], 1))
        return Encoded(self.attention.attend(scores, values, owners, samples))

    def _of_head(self, history: History, queries: torch.Tensor, head: int) -> torch.Tensor:
        """(B, head_dim): what one head sees among the events that it scores highest."""
        pairs = history.pairs
        with torch.no_grad():
            searched = self._scores_of_head(history, queries, head)
        chosen = history.take_pairs(*best_within(searched, pairs.lengths, pairs.targets, self.most))
        scores = self._scores_of_head(chosen, queries, head).unsqueeze(1)
        weights = softmax_within(scores, chosen.owners, len(history.targets))
        whole = torch.cat([chosen.events, chosen.contexts], 1)
        values = nn.functional.linear(whole, self.attention.of_head(self.attention.values.weight, head))
        return sum_within(weights * values, chosen.owners, len(history.targets))

    def _scores_of_head(self, history: History, queries: torch.Tensor, head: int) -> torch.Tensor:
        """Scores of the pairs, (P,)."""
        first, item = _distinct(history)
        projection, pairs = self.attention.of_head(self.attention.keys.weight, head), history.pairs
        keys = nn.functional.linear(history.events.index_select(0, first), projection).index_select(0, item)
        query = self.attention.of_head(queries.t(), head).t()
        scores = dots_within(keys, query, pairs.lengths, pairs.targets, pairs.events) / math.sqrt(self.attention.head_dim)
        return scores if self.bias is None else scores + pairs.of_events(history.contexts @ self.bias.weight[head])

    def scores(self, history: History, owners: torch.Tensor, queries: torch.Tensor) -> torch.Tensor:
        """Scores (N, heads) of the events."""
        keys, item = self._keys(history)
        scores = self.attention.scores(keys.index_select(0, item), queries, owners)
        return scores if self.bias is None else scores + self.bias(history.contexts)

    def search_scores(self, history: History, queries: torch.Tensor) -> torch.Tensor:
        """Mean score over heads of the pairs, (P,). The heads' inner products add up to one inner product of whole vectors."""
        keys, item = self._keys(history)
        pairs, heads = history.pairs, self.attention.heads
        if not torch.compiler.is_exporting() and len(keys) * len(queries) <= 4 * len(pairs.targets):
            # All pairs of samples and items are less work than all events.
            products = (queries @ keys.t())[pairs.targets, pairs.of_events(item)]
        else:
            products = dots_within(keys.index_select(0, item), queries, pairs.lengths, pairs.targets, pairs.events)
        scores = products / (heads * math.sqrt(self.attention.head_dim))
        return scores if self.bias is None else scores + pairs.of_events(history.contexts @ self.bias.weight.mean(0))

    def _keys(self, history: History) -> tuple[torch.Tensor, torch.Tensor]:
        """Projected inherent fields of the distinct items (M, heads * head_dim), and each event's item (N,)."""
        first, item = _distinct(history)
        return self.attention.keys(history.events.index_select(0, first)), item


def _distinct(history: History) -> tuple[torch.Tensor, torch.Tensor]:
    """Distinct items of a batch, by all ids of an event: (an event of each item (M,), each event's item (N,) in 0 .. M - 1)."""
    positions = torch.arange(len(history.events), device=history.events.device)
    if torch.compiler.is_exporting() or not history.event_ids or not len(positions):
        return positions, positions
    item, count = torch.zeros_like(positions), 1
    for ids in history.event_ids.values():
        # Renumbered after each field, so that the code of two numbers fits 64 bits.
        value, distinct = _numbered(ids.long())
        item, count = _numbered(item * distinct + value) if count > 1 else (value, distinct)
    first = torch.empty(count, dtype=positions.dtype, device=positions.device)
    first[item] = positions  # any event of the item will do, as its events have equal embeddings
    return first, item


def _numbered(codes: torch.Tensor) -> tuple[torch.Tensor, int]:
    """Numbers the M distinct codes 0 .. M - 1. Returns each code's number (N,), and M."""
    if int(codes.max()) <= 16 * len(codes):
        occurs = torch.zeros(int(codes.max()) + 1, dtype=torch.bool, device=codes.device)
        occurs[codes] = True
        numbers = occurs.cumsum(0)  # without a sort, if a table of all codes is small
        return numbers[codes] - 1, int(numbers[-1])
    distinct, numbers = torch.unique(codes, return_inverse=True)
    return numbers, len(distinct)
