"""E experts of one shape, computed together."""

import math
from collections.abc import Sequence

import torch
from torch import nn

from home_dist.layers.global_norm import GlobalBatchNorm


class ExpertBank(nn.Module):
    """Feed-forward experts, of which several may read one input.

    Classic (norm=False): ReLU(W2 ReLU(W1 x + b1) + b2), as in MMoE and PLE. HoME (norm=True): Swish(Norm(MLP(x))), where the
    last linear layer of the MLP has no activation of its own and Norm is batch normalisation per expert and output unit over
    the global batch (Wang et al. 2024). Any number of hidden layers.
    """

    def __init__(
        self, experts: Sequence[int], in_dim: int, hidden: Sequence[int], out_dim: int, norm: bool, dropout: float = 0.0
    ):
        """experts: how many experts read input i; experts of one input stand together."""
        super().__init__()
        if not experts or min(experts) < 1:
            raise ValueError(f"each input needs at least one expert, got {list(experts)}")
        self.experts, self.total = tuple(experts), sum(experts)
        widths = [in_dim, *hidden, out_dim]
        self.weights = nn.ParameterList()
        self.biases = nn.ParameterList()
        for fan_in, fan_out in zip(widths[:-1], widths[1:], strict=True):
            bound = math.sqrt(6 / fan_in)  # Kaiming, for ReLU
            self.weights.append(nn.Parameter(torch.empty(self.total, fan_out, fan_in).uniform_(-bound, bound)))
            self.biases.append(nn.Parameter(torch.zeros(self.total, fan_out)))
        self.norm = GlobalBatchNorm((self.total, out_dim)) if norm else None
        self.dropout = dropout

    def forward(self, inputs: Sequence[torch.Tensor], mask: torch.Tensor | None = None) -> torch.Tensor:
        """inputs: one (B, F) per entry of `experts`; mask: (B,), samples that count in the statistics.

        Returns (E, B, D).
        """
        x = self._first(inputs)
        for weight, bias in zip(list(self.weights)[1:], list(self.biases)[1:], strict=True):
            x = torch.baddbmm(bias.unsqueeze(1), torch.relu(x), weight.transpose(1, 2))
        x = torch.relu(x) if self.norm is None else nn.functional.silu(self.norm(x, mask))
        return nn.functional.dropout(x, self.dropout, self.training)

    def _first(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        """The first layer: the experts of one input are one matrix product. Returns (E, B, H)."""
        weights, biases = self.weights[0], self.biases[0]
        parts, at = [], 0
        for count, x in zip(self.experts, inputs, strict=True):
            wide = nn.functional.linear(x, weights[at : at + count].flatten(0, 1), biases[at : at + count].flatten())
            parts.append(wide.view(x.shape[0], count, -1).transpose(0, 1))
            at += count
        return torch.cat(parts)
