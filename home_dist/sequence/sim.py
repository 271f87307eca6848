"""Search-based Interest Model (Pi et al. 2020): first find the events that matter for the target, then attend to them.

General search unit. hard: events whose category is the target's, the newest k of them. soft: the k with the highest inner
product r_t = (W_a q) . (W_b e_t); what the search learns comes from a loss of its own, a prediction of the tasks by
MLP([sum_t r_t e_t ; q]), because nothing differentiable leads through the choice (section 3.2). The search reads embeddings
but does not change them: it would pull those of items towards what is easy to find.

Exact search unit: multi-head target attention over the k events, their time gaps among the fields (section 3.3).
"""

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
from home_dist.sequence.jagged import best_within, dots_within, newest_within, some_within, sum_within


class SimSection(SearchSection):
    """Search, then attention, each with parameters of its own (Pi et al. 2020)."""

    kind: Literal["sim"] = "sim"
    search: Literal["hard", "soft"] = "soft"
    """The newest events of the target's category, or the k most similar ones."""
    category: str | None = None
    """Event column that a hard search compares with its target; by default the last one that has a target."""
    search_dim: Count = 16
    """Width in which a soft search compares."""
    search_weight: float = Field(default=1.0, ge=0)
    """Factor of the soft search's own loss."""


SAMPLED = 1000
_PREDICTOR_HIDDEN = 32


class Sim(Encoder):
    section = SimSection

    def __init__(self, section: SimSection, inputs: EncoderInputs):
        """Raises ConfigError where `category` is no event column with a target."""
        super().__init__()
        self.search, self.most, self.search_weight = section.search, section.most, section.search_weight
        self.category = section.category or inputs.columns[-1]
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
        owners = history.owners
        if self.search == "hard":
            return Encoded(self.attention(self._same_category(history, owners)))
        with torch.no_grad():
            relevance = self.relevance(history)
        best = history.take(*best_within(relevance, history.lengths, owners, self.most))
        found = Encoded(self.attention(best))
        if self.training:
            found.predictions["search"] = (self._prediction(history), self.search_weight)
        return found

    def relevance(self, history: History) -> torch.Tensor:
        """(N,): r_t. (W_a q) . (W_b e_t) = (W_b^T W_a q) . e_t: one product per sample in place of one per event."""
        wanted = self.of_target(history.targets.detach()) @ self.of_event.weight
        return dots_within(history.events.detach(), wanted, history.lengths, history.owners)

    def _prediction(self, history: History) -> torch.Tensor:
        """(B, K). Reads at most SAMPLED events of a history, in place of the rest of which they count several times."""
        positions, kept = some_within(history.lengths, SAMPLED)
        some = history.take(positions, kept)
        pooled = sum_within(self.relevance(some).unsqueeze(1) * some.events.detach(), some.owners, len(kept))
        length = history.lengths.clamp(min=1).to(pooled.dtype)
        # A sum over 10,000 events must not drown the target beside it: divided by the root of their number.
        pooled = pooled * (length.sqrt() / kept.clamp(min=1)).unsqueeze(1)
        return self.predictor(torch.cat([pooled, history.targets.detach()], 1))

    def _same_category(self, history: History, owners: torch.Tensor) -> History:
        same = history.event_ids[self.category] == history.target_ids[self.category].index_select(0, owners)
        found = same.nonzero().flatten()
        counts = torch.zeros_like(history.lengths).index_add_(0, owners, same.to(history.lengths.dtype))
        last, kept = newest_within(counts, owners.index_select(0, found), self.most)
        return history.take(found.index_select(0, last), kept)
