"""Towers: one small head per task, computed together."""

import math
from collections.abc import Sequence

import torch
from torch import nn


class Towers(nn.Module):
    """K perceptrons of one shape with ReLU and one logit each. start: initial biases of the logits, the tasks' log-odds."""

    def __init__(self, tasks: int, in_dim: int, hidden: Sequence[int], start: torch.Tensor | None = None):
        super().__init__()
        widths = [in_dim, *hidden, 1]
        self.weights = nn.ParameterList()
        self.biases = nn.ParameterList()
        for fan_in, fan_out in zip(widths[:-1], widths[1:], strict=True):
            bound = math.sqrt(6 / fan_in) if fan_out > 1 else 1 / math.sqrt(fan_in)
            self.weights.append(nn.Parameter(torch.empty(tasks, fan_in, fan_out).uniform_(-bound, bound)))
            self.biases.append(nn.Parameter(torch.zeros(tasks, fan_out)))
        if start is not None:
            with torch.no_grad():
                self.biases[-1].copy_(start.view(tasks, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (K, B, D). Returns logits, (B, K)."""
        last = len(self.weights) - 1
        for depth, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = torch.baddbmm(bias.unsqueeze(1), x, weight)
            if depth < last:
                x = torch.relu(x)
        return x.squeeze(-1).t()
