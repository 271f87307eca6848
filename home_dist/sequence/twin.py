"""Two-stage Interest Network (Chang et al. 2023): search and attention use the same scores.

score_t = (k_t W_h)(q W_q)^T / sqrt(d) + c_t w_c for each head. k_t are an event's inherent fields, which the target has too;
c_t are cross fields between user and item (watch ratio, time gap), each reduced to a bias. Stage one keeps the k events with
the highest scores; stage two attends to them by softmax over their scores. With several heads, stage one ranks by the heads'
mean score, so that all attend to the same events; with `search_per_head` each head attends to the k events that it scores
highest, as the paper, at a search per head.

On a CPU inherent fields are projected once per distinct item of the batch, not once per event (the paper's cache), so that the
number of items bounds the most expensive product. A GPU projects all events: it would wait for the number of distinct ones.
"""

import functools
import math
from collections.abc import Callable

import torch
from torch import nn

from home_dist.config.sequence import SearchSection
from home_dist.sequence.attention import TargetAttention
from home_dist.sequence.history import Encoded, Encoder, EncoderInputs, History
from home_dist.sequence.jagged import softmax_within, sum_within
from home_dist.sequence.search import Searched


class TwinSection(SearchSection):
    """Search and attention with the same scores (Chang et al. 2023)."""

    kind: str = "twin"
    search_per_head: bool = False
    """Whether each head searches events of its own; else all attend to those of the highest mean score."""


class Twin(Encoder):
    section = TwinSection
    compares = ()
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
        queries, samples = self.attention.queries(history.targets), len(history.targets)
        if self.per_head:
            return Encoded(torch.cat([self._of_head(history, queries, head) for head in range(self.attention.heads)], 1))
        # Chosen events are scored again, with gradients.
        chosen = history.for_targets(*self.searched(history, queries).best(history, self.most))
        owners = chosen.owners
        scores = self.scores(chosen, owners, queries)
        values = self.attention.values(torch.cat([chosen.events, chosen.contexts], 1))
        return Encoded(self.attention.attend(scores, values, owners, samples))

    def _of_head(self, history: History, queries: torch.Tensor, head: int) -> torch.Tensor:
        """(B, head_dim): what one head sees among the events that it scores highest."""
        of_head = functools.partial(self.attention.of_head, head=head)
        project = functools.partial(nn.functional.linear, weight=of_head(self.attention.keys.weight))
        query = of_head(queries.t()).t() / math.sqrt(self.attention.head_dim)
        bias = None if self.bias is None else self.bias.weight[head]
        with torch.no_grad():
            keys, item = _projected(history, project)
            searched = Searched(keys, query, item, None if bias is None else history.contexts @ bias)
        chosen = history.for_targets(*searched.best(history, self.most))
        owners, samples = chosen.owners, len(history.targets)
        keys, item = _projected(chosen, project)
        scores = (_of_events(keys, item) * query.index_select(0, owners)).sum(1, keepdim=True)
        if bias is not None:
            scores = scores + (chosen.contexts @ bias).unsqueeze(1)
        whole = torch.cat([chosen.events, chosen.contexts], 1)
        values = nn.functional.linear(whole, of_head(self.attention.values.weight))
        return sum_within(softmax_within(scores, owners, samples) * values, owners, samples)

    def scores(self, history: History, owners: torch.Tensor, queries: torch.Tensor) -> torch.Tensor:
        """Scores (N, heads) of the events."""
        keys, item = _projected(history, self.attention.keys)
        scores = self.attention.scores(_of_events(keys, item), queries, owners)
        return scores if self.bias is None else scores + self.bias(history.contexts)

    def searched(self, history: History, queries: torch.Tensor) -> Searched:
        """The mean score over heads. The heads' inner products add up to one inner product of whole vectors."""
        with torch.no_grad():
            keys, item = _projected(history, self.attention.keys)
            bias = None if self.bias is None else history.contexts @ self.bias.weight.mean(0)
            return Searched(keys, queries / (self.attention.heads * math.sqrt(self.attention.head_dim)), item, bias)


def _projected(history: History, project: Callable[[torch.Tensor], torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor | None]:
    """project: (n, De) -> (n, D). Returns the projected inherent fields of the distinct items, (M, D), and each event's item
    (N,); None: M = N, and event n is item n."""
    apart = torch.compiler.is_exporting() or not history.event_ids or history.events.device.type != "cpu"
    if apart or not len(history.events):
        return project(history.events), None
    first, item = _distinct(history)
    return project(history.events.index_select(0, first)), item


def _of_events(keys: torch.Tensor, item: torch.Tensor | None) -> torch.Tensor:
    """(M, D) of items -> (N, D) of events."""
    return keys if item is None else keys.index_select(0, item)


def _distinct(history: History) -> tuple[torch.Tensor, torch.Tensor]:
    """Distinct items of a batch, by all ids of an event: (an event of each item (M,), each event's item (N,) in 0 .. M - 1)."""
    positions = torch.arange(len(history.events), device=history.events.device)
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
