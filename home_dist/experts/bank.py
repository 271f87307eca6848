"""E experts of one shape, computed together."""

import math
from collections.abc import Sequence

import torch
from torch import nn

from home_dist.experts.gates import mixture
from home_dist.layers.global_norm import GlobalBatchNorm


class ExpertBank(nn.Module):
    """Feed-forward experts, of which several may read one input.

    Classic (norm=False): ReLU(W2 ReLU(W1 x + b1) + b2), as in MMoE and PLE. HoME (norm=True): Swish(Norm(MLP(x))), where the
    last linear layer of the MLP has no activation of its own and Norm is batch normalisation per expert and output unit over
    the global batch (Wang et al. 2024); that layer has no bias either, as Norm has one. Any number of hidden layers.
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
        # What a bias before the normalisation adds, the normalisation takes away again; its gradient would be rounding noise,
        # which Adam scales up to full steps.
        for width in widths[1:-1] if norm else widths[1:]:
            self.biases.append(nn.Parameter(torch.zeros(self.total, width)))
        self.norm = GlobalBatchNorm((self.total, out_dim)) if norm else None
        self.dropout = dropout

    def forward(self, inputs: Sequence[torch.Tensor], mask: torch.Tensor | None = None) -> torch.Tensor:
        """inputs: one (B, F) per entry of `experts`; mask: (B,), samples that count in the statistics.

        Returns (E, B, D).
        """
        x = self._first(inputs)
        for depth in range(1, len(self.weights)):
            x, weight = torch.relu(x), self.weights[depth].transpose(1, 2)
            bias = self._bias(depth)
            x = torch.bmm(x, weight) if bias is None else torch.baddbmm(bias.unsqueeze(1), x, weight)
        x = torch.relu(x) if self.norm is None else nn.functional.silu(self.norm(x, mask))
        return nn.functional.dropout(x, self.dropout, self.training)

    def mixed(self, inputs: Sequence[torch.Tensor], gates: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """What gates make of the experts' outputs: sum over e of gates[k, b, e] * expert e of sample b.

        inputs: one (B, F) per entry of `experts`; gates: (K, B, E); mask: (B,), samples that count in the statistics.
        Returns (K, B, D).
        """
        return mixture(gates, self(inputs, mask))

    def _bias(self, depth: int) -> torch.Tensor | None:
        return self.biases[depth] if depth < len(self.biases) else None

    def _first(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        """The first layer: the experts of one input are one matrix product. Returns (E, B, H)."""
        weights, biases = self.weights[0], self._bias(0)
        parts, at = [], 0
        for count, x in zip(self.experts, inputs, strict=True):
            bias = None if biases is None else biases[at : at + count].flatten()
            wide = nn.functional.linear(x, weights[at : at + count].flatten(0, 1), bias)
            parts.append(wide.view(x.shape[0], count, -1).transpose(0, 1))
            at += count
        return torch.cat(parts)
