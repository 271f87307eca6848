"""Deep Interest Evolution Network (Zhou et al. 2019): a GRU extracts interests, a second one follows those near the target.

Interest extractor (section 4.2): h_t = GRU(x_1 .. x_t) over events x_t = [e_t ; c_t]. An auxiliary loss trains h_t to tell the
next event x_(t+1) from an event x~_(t+1) of another user in the batch: -log sigmoid(h_t . x_(t+1)) - log(1 - sigmoid(h_t .
x~_(t+1))), the mean over all steps of a rank's batch. Steps without another user in the batch are left out.
Interest evolution (section 4.3): a_t = softmax_t(h_t W q), and a GRU with attentional update gate (AUGRU): u~_t = a_t u_t, so
that events far from the target change the state little. The last state is the output. States are as wide as events, because
the auxiliary loss multiplies them.

Step t of a recurrence computes the histories that have a t-th event, longest first, as in torch's packed sequences: nothing is
padded, and the number of steps is the longest history's length. The extractor runs once per history, the evolution once per
target.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from pydantic import Field
from torch import nn
from torch._higher_order_ops.while_loop import while_loop
from torch.nn.utils.rnn import PackedSequence

from home_dist.config.sequence import SequenceSection
from home_dist.sequence.history import Encoded, Encoder, EncoderInputs, History
from home_dist.sequence.jagged import Sizes, softmax_within, starts, true_places


class DienSection(SequenceSection):
    """Evolution of interests, by two recurrences (Zhou et al. 2019)."""

    kind: str = "dien"
    auxiliary_weight: float = Field(default=1.0, ge=0)
    """Factor of the auxiliary loss, by which a state tells the next event from another user's; 0 leaves it out."""


class Dien(Encoder):
    section = DienSection
    compares = ()
    reads_requests = True

    def __init__(self, section: DienSection, inputs: EncoderInputs):
        super().__init__()
        self.auxiliary_weight, target_dim = section.auxiliary_weight, inputs.target_dim
        self.out_dim = width = target_dim + inputs.context_dim
        self.extractor = nn.GRU(width, width)
        self.relevance = nn.Linear(target_dim, width, bias=False)  # W
        self.gates_in = nn.Linear(width, 3 * width)  # of update, reset and candidate
        self.gates_state = nn.Linear(width, 3 * width)

    def forward(self, history: History) -> Encoded:
        whole = torch.cat([history.events, history.contexts], 1)
        if torch.compiler.is_exporting():
            return Encoded(self._traced(history, whole))
        samples, pairs = len(history.targets), history.pairs
        if not len(whole):
            # Data-parallel training waits for every parameter's gradient in every step, so give zero gradients.
            nothing = sum((0 * p.sum() for p in self.parameters()), start=whole.new_zeros(()))
            return Encoded(whole.new_zeros(samples, self.out_dim) + nothing)
        known = history.on_host
        times = _Times.of(history.lengths, history.owners, None if known is None else known.histories)
        packed, _ = self.extractor(PackedSequence(whole.index_select(0, times.order), times.sizes))
        # Under autocast a GPU's GRU gives 16 bits.
        states = torch.empty_like(whole).index_copy(0, times.order, packed.data.to(whole.dtype))
        auxiliary = {}
        if self.training and self.auxiliary_weight:
            auxiliary["next_event"] = self.auxiliary_weight * self._next_event(states, whole, history)
        near = self.relevance(history.targets).index_select(0, pairs.targets)
        attention = softmax_within((pairs.of_events(states) * near).sum(1, keepdim=True), pairs.targets, samples)
        inputs = self.gates_in(packed.data).split(times.sizes.tolist())
        place = None
        if history.of_target is not None:
            of_histories, times = times, _Times.of(pairs.lengths, pairs.targets, None if known is None else known.targets)
            place = of_histories.rank_of().index_select(0, history.of_target.index_select(0, times.ranks))
        sizes = times.sizes.tolist()
        last = self._evolve(inputs, attention.index_select(0, times.order).split(sizes), sizes, place)
        # From the order of lengths back to the order of samples; samples without events keep the zero vector.
        out = whole.new_zeros(samples, self.out_dim)
        return Encoded(out.index_copy(0, times.ranks[: len(last)], last), auxiliary)

    def _traced(self, history: History, events: torch.Tensor) -> torch.Tensor:
        """The same vectors (B, out_dim), of histories that no two targets share, by loops that a program can hold: each step
        computes all histories, and those that have ended keep their states."""
        lengths, first, end = history.lengths, starts(history.lengths), len(events)
        longest = lengths.max()
        weight_in, weight, bias_in, bias = self.extractor.all_weights[0]
        # One more row, for histories that have ended.
        inputs = nn.functional.linear(events, weight_in, bias_in)
        inputs = torch.cat([inputs, inputs.new_zeros(1, inputs.shape[1])])

        def goes_on(time: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
            return time < longest

        def extract(time: torch.Tensor, state: torch.Tensor, states: torch.Tensor) -> tuple[torch.Tensor, ...]:
            there = time < lengths
            at = torch.where(there, first + time, end)
            reset_in, update_in, new_in = inputs.index_select(0, at).chunk(3, 1)
            reset_state, update_state, new_state = nn.functional.linear(state, weight, bias).chunk(3, 1)
            new = torch.tanh(new_in + torch.sigmoid(reset_in + reset_state) * new_state)
            update = torch.sigmoid(update_in + update_state)
            state = torch.where(there.unsqueeze(1), (1 - update) * new + update * state, state)
            return time + 1, state, states.index_copy(0, at, state)

        start = torch.zeros((), dtype=torch.int64), events.new_zeros(len(lengths), self.out_dim)
        _, _, states = while_loop(goes_on, extract, (*start, events.new_zeros(end + 1, self.out_dim)))
        near = self.relevance(history.targets).index_select(0, history.owners)
        attention = softmax_within((states[:-1] * near).sum(1, keepdim=True), history.owners, len(lengths))
        attention = torch.cat([attention, attention.new_zeros(1, 1)])
        gates = self.gates_in(states)

        def evolve(time: torch.Tensor, state: torch.Tensor) -> tuple[torch.Tensor, ...]:
            at = torch.where(time < lengths, first + time, end)  # attention of the one more row is 0, which keeps a state
            update_in, reset_in, candidate_in = gates.index_select(0, at).chunk(3, 1)
            update_state, reset_state, candidate_state = self.gates_state(state).chunk(3, 1)
            update = attention.index_select(0, at) * torch.sigmoid(update_in + update_state)
            candidate = torch.tanh(candidate_in + torch.sigmoid(reset_in + reset_state) * candidate_state)
            return time + 1, torch.lerp(state, candidate, update)

        return while_loop(goes_on, evolve, start)[1]

    def _next_event(self, states: torch.Tensor, events: torch.Tensor, history: History) -> torch.Tensor:
        """The auxiliary loss (). torch's generator, which the step's number seeds, draws other users' events from the rank's
        batch. A history counts for each target that reads it."""
        pairs = history.pairs
        owners = pairs.targets
        users = owners if history.users is None else pairs.of_events(history.users.index_select(0, history.owners))
        count = None if history.on_host is None else int((history.on_host.targets - 1).clip(min=0).sum())
        earlier = true_places(owners[1:] == owners[:-1], count)
        other, exists = strangers(users, earlier)
        at, after, far_at = earlier, earlier + 1, other
        if pairs.events is not None:
            at, after, far_at = (pairs.events.index_select(0, x) for x in (at, after, far_at))
        state = states.index_select(0, at)
        near = (state * events.index_select(0, after)).sum(1)
        far = (state * events.index_select(0, far_at)).sum(1)
        losses = nn.functional.softplus(-near) + nn.functional.softplus(far)
        return torch.where(exists, losses, 0).sum() / exists.sum().clamp(min=1)

    def _evolve(
        self,
        inputs: Sequence[torch.Tensor],
        attention: Sequence[torch.Tensor],
        sizes: Sequence[int],
        place: torch.Tensor | None,
    ) -> torch.Tensor:
        """By time: inputs of the gates (histories, 3 H), longest history first, attention (targets, 1) and the number of
        targets, those of the longest histories first. place: (B,) the history of each of these targets among the inputs; None:
        the same one. Returns the last states of targets with events, in the same order."""
        state = inputs[0].new_zeros(sizes[0], self.out_dim)
        ended = []
        for gates, weights, size in zip(inputs, attention, sizes, strict=True):
            if size < len(state):
                ended.append(state[size:])  # histories that have ended; the longest stand first
                state = state[:size]
            own = gates if place is None else gates.index_select(0, place[:size])
            update_in, reset_in, candidate_in = own.chunk(3, 1)
            update_state, reset_state, candidate_state = self.gates_state(state).chunk(3, 1)
            update = weights * torch.sigmoid(update_in + update_state)
            candidate = torch.tanh(candidate_in + torch.sigmoid(reset_in + reset_state) * candidate_state)
            # The state keeps the events' precision, whatever the precision of products.
            state = torch.lerp(state, candidate.to(state.dtype), update.to(state.dtype))
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


@dataclass(frozen=True)
class _Times:
    """Jagged values by time: the first of each sample, then the second of each, the longest sample first."""

    order: torch.Tensor
    """(N,): values by time, then by their samples' rank."""
    sizes: torch.Tensor
    """(T,): number of values at each time, on the host."""
    ranks: torch.Tensor
    """(B,): samples by rank, longest first."""

    @staticmethod
    def of(lengths: torch.Tensor, owners: torch.Tensor, known: Sizes) -> "_Times":
        """known: the lengths on the host, where the tensors are on a GPU."""
        ranks = lengths.argsort(descending=True, stable=True)
        time = torch.arange(len(owners), device=owners.device) - starts(lengths).index_select(0, owners)
        if known is None:
            sizes = torch.bincount(time)
        else:
            sizes = lengths.new_zeros(int(known.max()), dtype=torch.int64).index_add_(0, time, torch.ones_like(time))
        # At each time the samples that still have values are the first ones by rank.
        place = starts(sizes).index_select(0, time) + _places(ranks).index_select(0, owners)
        return _Times(_places(place), sizes if known is None else on_host(known), ranks)

    def rank_of(self) -> torch.Tensor:
        """(B,): the rank of each sample."""
        return _places(self.ranks)


def on_host(lengths: np.ndarray) -> torch.Tensor:
    """(T,): how many of some lengths (B,) are longer than 0, 1, .., T - 1."""
    ended = np.bincount(lengths, minlength=int(lengths.max()) + 1)[:-1].cumsum()
    return torch.from_numpy((len(lengths) - ended).astype(np.int64))


def _places(permutation: torch.Tensor) -> torch.Tensor:
    """(n,): the index of each of 0 .. n - 1 in a permutation of them."""
    places = torch.empty_like(permutation)
    places[permutation] = torch.arange(len(permutation), device=permutation.device)
    return places
