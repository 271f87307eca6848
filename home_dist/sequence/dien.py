"""Deep Interest Evolution Network (Zhou et al. 2019): a GRU extracts interests, a second one follows those near the target.

Interest extractor (section 4.2): h_t = GRU(x_1 .. x_t) over events x_t = [e_t ; c_t]. An auxiliary loss trains h_t to tell the
next event x_(t+1) from an event x~_(t+1) of another user in the batch: -log sigmoid(h_t . x_(t+1)) - log(1 - sigmoid(h_t .
x~_(t+1))), the mean over all steps of a rank's batch. Steps without another user in the batch are left out.
Interest evolution (section 4.3): a_t = softmax_t(h_t W q), and a GRU with attentional update gate (AUGRU): u~_t = a_t u_t, so
that events far from the target change the state little. The last state is the output. States are as wide as events, because
the auxiliary loss multiplies them.

Step t of a recurrence computes the samples that have a t-th event, longest history first, as in torch's packed sequences:
nothing is padded, and the number of steps is the longest history's length.
"""

import torch
from pydantic import Field
from torch import nn
from torch.nn.utils.rnn import PackedSequence

from home_dist.config.sequence import SequenceSection
from home_dist.sequence.history import Encoded, Encoder, EncoderInputs, History
from home_dist.sequence.jagged import softmax_within, starts


class DienSection(SequenceSection):
    """Evolution of interests, by two recurrences (Zhou et al. 2019)."""

    kind: str = "dien"
    auxiliary_weight: float = Field(default=1.0, ge=0)
    """Factor of the auxiliary loss, by which a state tells the next event from another user's; 0 leaves it out."""


class Dien(Encoder):
    section = DienSection

    def __init__(self, section: DienSection, inputs: EncoderInputs):
        super().__init__()
        self.auxiliary_weight, target_dim = section.auxiliary_weight, inputs.target_dim
        self.out_dim = width = target_dim + inputs.context_dim
        self.extractor = nn.GRU(width, width)
        self.relevance = nn.Linear(target_dim, width, bias=False)  # W
        self.gates_in = nn.Linear(width, 3 * width)  # of update, reset and candidate
        self.gates_state = nn.Linear(width, 3 * width)

    def forward(self, history: History) -> Encoded:
        samples, owners = len(history.lengths), history.owners
        whole = torch.cat([history.events, history.contexts], 1)
        if not len(whole):
            # Data-parallel training waits for every parameter's gradient in every step, so give zero gradients.
            nothing = sum((0 * p.sum() for p in self.parameters()), start=whole.new_zeros(()))
            return Encoded(whole.new_zeros(samples, self.out_dim) + nothing)
        order, sizes, ranks = _by_time(history.lengths, owners)
        packed, _ = self.extractor(PackedSequence(whole.index_select(0, order), sizes))
        states = torch.empty_like(whole).index_copy(0, order, packed.data)
        auxiliary = {}
        if self.training and self.auxiliary_weight:
            auxiliary["next_event"] = self.auxiliary_weight * self._next_event(states, whole, history)
        scores = (states * self.relevance(history.targets).index_select(0, owners)).sum(1, keepdim=True)
        attention = softmax_within(scores, owners, samples)
        last = self._evolve(packed.data, attention.index_select(0, order), sizes)
        # From the order of lengths back to the order of samples; samples without events keep the zero vector.
        out = whole.new_zeros(samples, self.out_dim)
        return Encoded(out.index_copy(0, ranks[: len(last)], last), auxiliary)

    def _next_event(self, states: torch.Tensor, events: torch.Tensor, history: History) -> torch.Tensor:
        """The auxiliary loss (). torch's generator, which the step's number seeds, draws other users' events from the rank's
        batch."""
        owners = history.owners
        users = owners if history.users is None else history.users.index_select(0, owners)
        pairs = (owners[1:] == owners[:-1]).nonzero().flatten()
        other, exists = strangers(users, pairs)
        state = states.index_select(0, pairs)
        near = (state * events.index_select(0, pairs + 1)).sum(1)
        far = (state * events.index_select(0, other)).sum(1)
        losses = nn.functional.softplus(-near) + nn.functional.softplus(far)
        return torch.where(exists, losses, 0).sum() / exists.sum().clamp(min=1)

    def _evolve(self, interests: torch.Tensor, attention: torch.Tensor, sizes: torch.Tensor) -> torch.Tensor:
        """interests (N, H) and attention (N, 1) are ordered by time. Returns the last states of samples with events, longest
        history first."""
        inputs = self.gates_in(interests)
        state = interests.new_zeros(int(sizes[0]), self.out_dim)
        ended = []
        first = 0
        for size in sizes.tolist():
            if size < len(state):
                ended.append(state[size:])  # histories that have ended; the longest stand first
                state = state[:size]
            update_in, reset_in, candidate_in = inputs[first : first + size].chunk(3, 1)
            update_state, reset_state, candidate_state = self.gates_state(state).chunk(3, 1)
            update = attention[first : first + size] * torch.sigmoid(update_in + update_state)
            candidate = torch.tanh(candidate_in + torch.sigmoid(reset_in + reset_state) * candidate_state)
            # The state keeps the events' precision, whatever the precision of products.
            state = torch.lerp(state, candidate.to(state.dtype), update.to(state.dtype))
            first += size
        return torch.cat([state, *reversed(ended)])


def strangers(users: torch.Tensor, chosen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Draws for each of the events `chosen` (n,) an event of another user, uniformly. users: (N,), of all events. Returns the
    drawn events and whether there is any, (n,) each."""
    by_user, order = users.sort(stable=True)
    own_user = users.index_select(0, chosen)
    first, end = torch.searchsorted(by_user, own_user), torch.searchsorted(by_user, own_user, right=True)
    others = len(users) - (end - first)
    drawn = (torch.rand(len(chosen), dtype=torch.float64, device=users.device) * others).long()
    drawn = torch.minimum(drawn, (others - 1).clamp(min=0))
    place = torch.where(drawn < first, drawn, drawn + end - first).clamp(max=max(0, len(users) - 1))
    return order.index_select(0, place), others > 0


def _by_time(lengths: torch.Tensor, owners: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(order of events by time, then by their samples' rank (N,); number of events at each time (T,), on the host; samples by
    rank, longest history first (B,))."""
    ranks = lengths.argsort(descending=True, stable=True)
    rank_of = torch.empty_like(ranks)
    rank_of[ranks] = torch.arange(len(ranks), device=ranks.device)
    time = torch.arange(len(owners), device=owners.device) - starts(lengths).index_select(0, owners)
    order = (time * len(lengths) + rank_of.index_select(0, owners)).argsort()
    return order, torch.bincount(time).cpu(), ranks
