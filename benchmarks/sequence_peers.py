"""Histories as the peers compute them, written for the comparison: padded rectangles, and attention over all events."""

import math

import torch
from torch import nn

from home_dist.layers.activations import Dice


class PaddedDin(nn.Module):
    """DIN over (B, Tmax, 4D): the target repeated for each place, the four parts concatenated, padding masked out."""

    def __init__(self, dim: int, hidden: tuple[int, ...]):
        super().__init__()
        widths = [4 * dim, *hidden]
        self.linears = nn.ModuleList(nn.Linear(a, b) for a, b in zip(widths[:-1], widths[1:], strict=True))
        self.activations = nn.ModuleList(Dice(b) for b in hidden)
        self.last = nn.Linear(hidden[-1], 1)

    def forward(self, padded: torch.Tensor, target: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """padded: (B, T, D); target: (B, D); mask: (B, T). Returns (B, D)."""
        q = target.unsqueeze(1).expand_as(padded)
        x = torch.cat([padded, q, padded - q, padded * q], 2)
        for linear, activation in zip(self.linears, self.activations, strict=True):
            y = linear(x)
            x = activation(y.flatten(0, 1)).view_as(y)
        return ((self.last(x) * mask.unsqueeze(2)) * padded).sum(1)


class FullAttention(nn.Module):
    """Multi-head target attention over all T events, by torch's own batched products."""

    def __init__(self, dim: int, heads: int, head_dim: int):
        super().__init__()
        self.heads, self.head_dim = heads, head_dim
        self.queries = nn.Linear(dim, heads * head_dim, bias=False)
        self.keys = nn.Linear(dim, heads * head_dim, bias=False)
        self.values = nn.Linear(dim, heads * head_dim, bias=False)

    def forward(self, events: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """events: (B, T, D); target: (B, D). Returns (B, heads * head_dim)."""
        shape = (len(events), -1, self.heads, self.head_dim)
        q, k, v = (p(x).view(shape).transpose(1, 2) for p, x in
                   ((self.queries, target.unsqueeze(1)), (self.keys, events), (self.values, events)))  # fmt: skip
        weights = (q @ k.transpose(2, 3) / math.sqrt(self.head_dim)).softmax(3)
        return (weights @ v).transpose(1, 2).flatten(1)
