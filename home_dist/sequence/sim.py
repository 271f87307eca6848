"""Search-based Interest Model (Pi et al. 2020): finds the events that matter for the target, then attends to them.

General search unit. hard: the newest k events of the target's category. soft: the k events with the highest inner product
r_t = (W_a q) . (W_b e_t). The choice of events is not differentiable, so the soft search has its own loss: MLP([sum_t r_t e_t ;
q]) predicts the tasks (section 3.2). The search's loss does not train embeddings, which it would pull towards easy search.

Exact search unit: multi-head target attention over the k events, with time gaps among their fields (section 3.3).
"""

from dataclasses import replace
from typing import Literal

import torch
from pydantic import Field
from torch import nn

from home_dist.config.section import Count
from home_dist.config.sequence import SearchSection
from home_dist.errors import ConfigError
from home_dist.layers.axis_names import Axes, Names
from home_dist.sequence.attention import TargetAttention
from home_dist.sequence.history import Encoded, Encoder, EncoderInputs, History
from home_dist.sequence.jagged import dots_within, newest_within, products, some_within, true_places, weighted_sums_within
from home_dist.sequence.search import Searched, by_history, spans


class SimSection(SearchSection):
    """Search, then attention, with separate parameters (Pi et al. 2020)."""

    kind: str = "sim"
    search: Literal["hard", "soft"] = "soft"
    """hard: the newest events of the target's category; soft: the k most similar events."""
    category: str | None = None
    """Event column that a hard search compares with its target; by default the last column that has a target."""
    search_dim: Count = 16
    """Width of the vectors that a soft search compares."""
    search_weight: float = Field(default=1.0, ge=0)
    """Factor of the soft search's own loss."""


SAMPLED = 1000
"""Events of a history, at most, that the search's loss reads."""
_PREDICTOR_HIDDEN = 32


class Sim(Encoder):
    section = SimSection
    reads_requests = True

    def __init__(self, section: SimSection, inputs: EncoderInputs):
        """Raises ConfigError if `category` is no event column with a target."""
        super().__init__()
        self.search, self.most, self.search_weight = section.search, section.most, section.search_weight
        self.category = section.category or inputs.columns[-1]
        self.compares = (self.category,) if self.search == "hard" else ()
        if self.category not in inputs.columns:
            raise ConfigError(
                f"sequence {section.name!r}: category = {self.category!r} is no event column with a target; there are: "
                f"{', '.join(inputs.columns)}"
            )
        target_dim = inputs.target_dim
        self.attention = TargetAttention(target_dim, inputs.context_dim, section.heads, section.head_dim)
        self.out_dim = self.attention.out_dim
        if self.search == "soft":
            self.of_target = nn.Linear(target_dim, section.search_dim, bias=False)
            self.of_event = nn.Linear(target_dim, section.search_dim, bias=False)
            self.predictor = nn.Sequential(
                nn.Linear(2 * target_dim, _PREDICTOR_HIDDEN), nn.ReLU(), nn.Linear(_PREDICTOR_HIDDEN, inputs.tasks)
            )

    def axes(self, tasks: Names) -> dict[str, Axes]:
        return {"predictor.2.weight": (tasks, None), "predictor.2.bias": (tasks,)} if self.search == "soft" else {}

    def forward(self, history: History) -> Encoded:
        if self.search == "hard":
            out = self.attention(self._same_category(history))
            return Encoded(out if history.on_host is None else out[: len(history.targets)])
        best, kept = self.searched(history).best(history, self.most)
        encoded = Encoded(self.attention(history.for_targets(best, kept)))
        if self.training:
            encoded.predictions["search"] = (self._prediction(history), self.search_weight)
        return encoded

    def searched(self, history: History) -> Searched:
        """Scores r_t."""
        return Searched(history.events, self._projected(history))

    def _projected(self, history: History) -> torch.Tensor:
        """W_b^T W_a q, (B, De): (W_b^T W_a q) . e_t = (W_a q) . (W_b e_t), but projects once per target, not once per event."""
        return self.of_target(history.targets.detach()) @ self.of_event.weight

    def _prediction(self, history: History) -> torch.Tensor:
        """Predicted logits (B, K). Of a long history reads SAMPLED events, weighted so that they stand for all events."""
        events, projected = history.events.detach(), self._projected(history)
        lengths = history.lengths
        if history.of_target is not None and by_history(history) and int(lengths.max()) <= SAMPLED:
            lengths = kept = lengths.index_select(0, history.of_target)
            pooled = events.new_zeros(len(lengths), events.shape[1])
            sums = [products(products(projected[t], events[e].t()), events[e]) for e, t in spans(history)]
            pooled = pooled.index_copy(0, lengths.nonzero().flatten(), torch.cat([pooled[:0], *sums]))
        else:
            pairs = history.pairs
            positions, kept = some_within(pairs.lengths, SAMPLED, None if history.on_host is None else history.on_host.targets)
            lengths, owners, places = pairs.lengths, pairs.targets.index_select(0, positions), positions
            if pairs.events is not None:
                places = pairs.events.index_select(0, positions)
            relevance = dots_within(events, projected, kept, owners, places)
            pooled = weighted_sums_within(relevance, events, kept, owners, places)
        # The sum over all events is divided by the root of their number: 10,000 events must not drown the target beside them.
        pooled = pooled * (lengths.clamp(min=1).to(pooled.dtype).sqrt() / kept.clamp(min=1)).unsqueeze(1)
        return self.predictor(torch.cat([pooled, history.targets.detach()], 1))

    def _same_category(self, history: History) -> History:
        """A history for each target. On a GPU one more target follows, and reads what is left of as many events as could match:
        their number would have to be waited for."""
        pairs = history.pairs
        wanted = history.target_ids[self.category].index_select(0, pairs.targets)
        same = pairs.of_events(history.event_ids[self.category]) == wanted
        counts = torch.zeros_like(pairs.lengths).index_add_(0, pairs.targets, same.to(pairs.lengths.dtype))
        if history.on_host is not None:
            return self._padded(history, same, counts, int(history.on_host.at_most(self.most).targets.sum()))
        matching = same.nonzero().flatten()
        newest, kept = newest_within(counts, pairs.targets.index_select(0, matching), self.most)
        return history.take_pairs(matching.index_select(0, newest), kept)

    def _padded(self, history: History, same: torch.Tensor, counts: torch.Tensor, size: int) -> History:
        """same: (P,) bool; counts: (B,) of them by target; size: the events of all targets, and those that fill up."""
        owners, kept = history.pairs.targets, counts.clamp(max=self.most)
        later = counts.cumsum(0).index_select(0, owners) - same.cumsum(0)  # events of the category after this one
        taken = history.take_pairs(true_places(same & (later < self.most), size), kept)
        targets = torch.cat([taken.targets, taken.targets.new_zeros(1, taken.targets.shape[1])])
        return replace(taken, targets=targets, lengths=torch.cat([kept, (size - kept.sum()).view(1)]))
