"""Multi-head attention of a target over the events of its history, on jagged values."""

import math

import torch
from torch import nn

from home_dist.sequence.history import History
from home_dist.sequence.jagged import softmax_within, sum_within


class TargetAttention(nn.Module):
    """head_i = softmax_t(q W_q,i . x_t W_k,i / sqrt(d)) x_t W_v,i over x_t = [e_t ; c_t]; the heads side by side."""

    def __init__(self, target_dim: int, context_dim: int, heads: int, head_dim: int):
        super().__init__()
        self.heads, self.head_dim, self.out_dim = heads, head_dim, heads * head_dim
        self.queries = nn.Linear(target_dim, self.out_dim, bias=False)
        self.keys = nn.Linear(target_dim + context_dim, self.out_dim, bias=False)
        self.values = nn.Linear(target_dim + context_dim, self.out_dim, bias=False)

    def forward(self, history: History) -> torch.Tensor:
        """Returns (B, heads * head_dim)."""
        whole = torch.cat([history.events, history.contexts], 1)
        owners = history.owners
        scores = self.scores(self.keys(whole), self.queries(history.targets), owners)
        return self.attend(scores, self.values(whole), owners, len(history.lengths))

    def of_head(self, rows: torch.Tensor, head: int) -> torch.Tensor:
        """A head's rows (head_dim, n) of (heads * head_dim, n)."""
        return rows[head * self.head_dim : (head + 1) * self.head_dim]

    def scores(self, keys: torch.Tensor, queries: torch.Tensor, owners: torch.Tensor) -> torch.Tensor:
        """keys: (N, heads * head_dim); queries: (B, heads * head_dim); owners: (N,). Returns (N, heads)."""
        products = keys * queries.index_select(0, owners)
        return products.view(-1, self.heads, self.head_dim).sum(2) / math.sqrt(self.head_dim)

    def attend(self, scores: torch.Tensor, values: torch.Tensor, owners: torch.Tensor, samples: int) -> torch.Tensor:
        """scores: (N, heads); values: (N, heads * head_dim). Returns (B, heads * head_dim)."""
        weights = softmax_within(scores, owners, samples).unsqueeze(2)
        return sum_within((weights * values.view(-1, self.heads, self.head_dim)).flatten(1), owners, samples)
