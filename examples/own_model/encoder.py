"""A history encoder of one's own: the newer an event, the more it counts.

x = sum_t w_t [e_t ; c_t], w_t = softmax over the history of -r t, where t counts events from the newest, which is 0, and r is a
learned rate. e_t are the fields of an event that the target has too, c_t the other fields.
"""

import torch
from pydantic import Field
from torch import nn

from home_dist import Encoded, Encoder, EncoderInputs, History
from home_dist.config.sequence import SequenceSection
from home_dist.sequence.jagged import softmax_within, starts, sum_within


class RecencySection(SequenceSection):
    """What stands in a `[[sequence]]` beside the keys that all encoders have."""

    rate: float = Field(default=0.1, gt=0)
    """r, at the start of training."""


class Recency(Encoder):
    section = RecencySection

    def __init__(self, section: RecencySection, inputs: EncoderInputs):
        super().__init__()
        self.out_dim = inputs.target_dim + inputs.context_dim
        self.rate = nn.Parameter(torch.tensor(section.rate))

    def forward(self, history: History) -> Encoded:
        """Of N events of B samples: vector (B, out_dim), zero for an empty history."""
        lengths, owners = history.lengths, history.owners
        oldest = torch.arange(len(owners), device=owners.device) - starts(lengths).index_select(0, owners)
        newest = lengths.index_select(0, owners) - 1 - oldest
        weight = softmax_within(-self.rate * newest.unsqueeze(1), owners, len(lengths))
        return Encoded(sum_within(weight * torch.cat([history.events, history.contexts], 1), owners, len(lengths)))
