"""Deep Interest Network's attention over a history (Zhou et al. 2018, section 4.3)."""

from typing import Literal, cast

import torch
from pydantic import Field
from torch import nn

from home_dist.config.section import Widths
from home_dist.config.sequence import SequenceSection
from home_dist.experts.kernels import KernelUser
from home_dist.layers.activations import Dice, activation
from home_dist.sequence import fused_attention
from home_dist.sequence.history import Encoded, Encoder, EncoderInputs, History
from home_dist.sequence.jagged import softmax_within, sum_within


class DinSection(SequenceSection):
    """Attention weights by a small perceptron (Zhou et al. 2018)."""

    kind: str = "din"
    hidden: Widths = Field(default=(32, 16), min_length=1)
    """Hidden widths of the attention unit."""
    activation: Literal["dice", "prelu", "swish", "relu"] = "dice"
    """Of the attention's network."""
    softmax: bool = False
    """Normalise attention weights over the history; the paper does not."""


class Din(Encoder, KernelUser):
    """Weight a(e_t, q) = MLP([e_t ; q ; e_t - q ; e_t * q ; c_t]) per event; output sum_t a_t [e_t ; c_t].

    e_t are the fields of an event that the target has too, c_t the other fields (watch ratio, age), which the paper lacks.
    Everything is jagged and linear in N; an empty history gives the zero vector. The first layer is linear, so that the term of
    q is computed once per sample, not per event, that of e and c once per event, and the difference e - q costs nothing:
    W [e; q; e - q; e * q] = (W_e + W_d) e + (W_q - W_d) q + W_p (e * q).
    On a CPU the compiled kernel (fused_attention.py) computes the same without a tensor of all pairs' inputs.
    """

    section = DinSection
    compares = ()
    reads_requests = True

    def __init__(self, section: DinSection, inputs: EncoderInputs):
        super().__init__()
        hidden, kind = section.hidden, section.activation
        target_dim, context_dim = inputs.target_dim, inputs.context_dim
        self.kind, self.softmax = kind, section.softmax
        self.out_dim = target_dim + context_dim
        self.event = nn.Linear(target_dim + context_dim, hidden[0])
        self.target = nn.Linear(target_dim, hidden[0], bias=False)
        self.product = nn.Linear(target_dim, hidden[0], bias=False)
        layers: list[nn.Module] = [activation(kind, hidden[0])]
        for width, following in zip(hidden[:-1], hidden[1:], strict=True):
            layers += [nn.Linear(width, following), activation(kind, following)]
        layers.append(nn.Linear(hidden[-1], 1))
        self.unit = nn.Sequential(*layers)

    def forward(self, history: History) -> Encoded:
        inputs = history.events, history.contexts, history.targets
        if self.kernel.backend == "cpu" and fused_attention.takes(*inputs, self.event.weight):
            first = torch.cat([self.event.weight, self.product.weight], 1), self.event.bias, self.target.weight
            which = fused_attention.TargetPairs.of(history.lengths, history.of_target)
            return Encoded(fused_attention.attend(which, *inputs, first, self.layers(), self.kind, self.softmax))
        pairs, samples = history.pairs, len(history.targets)
        whole = torch.cat([history.events, history.contexts], 1)
        target = self.target(history.targets).index_select(0, pairs.targets)
        product = pairs.of_events(history.events) * history.targets.index_select(0, pairs.targets)
        weight = self.unit(pairs.of_events(self.event(whole)) + target + self.product(product))
        if self.softmax:
            weight = softmax_within(weight, pairs.targets, samples)
        return Encoded(sum_within(weight * pairs.of_events(whole), pairs.targets, samples))

    def layers(self) -> list[fused_attention.UnitLayer]:
        """Each activation with the linear layer that follows it."""
        found, modules = [], list(self.unit)
        for before, linear in zip(modules[::2], modules[1::2], strict=True):
            slope = before.slope if isinstance(before, Dice) else before.weight if isinstance(before, nn.PReLU) else None
            norm = before.norm if isinstance(before, Dice) else None
            found.append(fused_attention.UnitLayer(cast(nn.Linear, linear), slope, norm))
        return found
