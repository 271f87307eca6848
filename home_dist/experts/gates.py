"""Gates over experts under a mask."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from home_dist.experts.kernels import KernelUser
from home_dist.experts.kernels.cpu_gate_weights import ScoreLayout, gate_weights, scored
from home_dist.experts.kernels.mixture_tiles import Sees

_FUSED = ("cpu", "triton")
"""Backends with passes of their own from scores to weights."""


class _Scores(nn.Module):
    """K maps to E scores each, on one common input or on one input per gate: linear without a bias, or perceptrons."""

    mask: torch.Tensor

    def __init__(self, in_dim: int, mask: torch.Tensor, hidden: Sequence[int] = (), bias: bool = False):
        """mask: (K, E) bool, the experts that a gate may see; hidden: widths of each gate's own hidden layers; bias: of the
        scores (hidden layers have one)."""
        super().__init__()
        if mask.dtype != torch.bool or mask.dim() != 2:
            raise ValueError(f"a gate mask is a boolean (K, E) tensor, got {mask.dtype} {tuple(mask.shape)}")
        blind = (~mask.any(1)).nonzero().flatten().tolist()
        if blind:
            raise ValueError(f"gates {blind} may see no expert; let each gate see at least one")
        self.register_buffer("mask", mask, persistent=False)
        gates, experts = mask.shape
        self.hidden = HiddenLayers(gates, [in_dim, *hidden]) if hidden else None
        in_dim = hidden[-1] if hidden else in_dim
        bound = 1 / math.sqrt(in_dim)
        self.weight = nn.Parameter(torch.empty(gates, experts, in_dim).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(gates, experts)) if bias else None

    def scores(self, x: torch.Tensor) -> torch.Tensor:
        """x: (B, F), one input for all gates, or (K, B, F). Returns (K, B, E)."""
        scores = _product(x if self.hidden is None else self.hidden(x), self.weight)
        return scores if self.bias is None else scores + self.bias.unsqueeze(1)


class HiddenLayers(nn.Module):
    """ReLU(W x + b), layer by layer, for each of K gates."""

    def __init__(self, gates: int, widths: Sequence[int]):
        super().__init__()
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for fan_in, width in itertools.pairwise(widths):
            bound = math.sqrt(6 / fan_in)  # Kaiming
            self.weights.append(nn.Parameter(torch.empty(gates, width, fan_in).uniform_(-bound, bound)))
            self.biases.append(nn.Parameter(torch.zeros(gates, width)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (B, F) or (K, B, F). Returns (K, B, H)."""
        for weight, bias in zip(self.weights, self.biases, strict=True):
            x = torch.relu(_product(x, weight) + bias.unsqueeze(1))
        return x


def _product(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """x: (B, F) or (K, B, F); weight: (K, H, F). Returns (K, B, H)."""
    if x.dim() == 2:
        wide = nn.functional.linear(x, weight.flatten(0, 1))
        return wide.view(len(x), *weight.shape[:2]).transpose(0, 1)
    return torch.bmm(x, weight.transpose(1, 2))


def first_largest(x: torch.Tensor, count: int) -> torch.Tensor:
    """x: (..., E). Returns (..., count): where its largest values stand, by falling value; of equal ones the first. torch.topk
    takes any of equal values."""
    places = []
    for _ in range(count):
        places.append(x.argmax(-1, keepdim=True))
        x = x.scatter(-1, places[-1], -torch.inf)
    return torch.cat(places, -1) if places else x.new_zeros((*x.shape[:-1], 0), dtype=torch.int64)


class MaskedGates(_Scores, KernelUser):
    """softmax(W_k x) over the experts that gate k may see; all others get exactly 0 and no gradient. With `hidden`, x passes
    through the gate's own hidden layers first."""

    _layout: tuple[torch.Tensor, torch.Tensor | None, ScoreLayout] | None = None
    _on_device: Any = None
    _seen: tuple[torch.Tensor, torch.Tensor | None, Sees] | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (B, F) or (K, B, F). Returns weights (K, B, E)."""
        if self.kernel.backend in _FUSED and self.bias is None:
            return self._fused(x if self.hidden is None else self.hidden(x), None)
        return self.scores(x).masked_fill(~self.mask.unsqueeze(1), -torch.inf).softmax(-1)

    def joined(self, own: "SelfGates | None", x: torch.Tensor) -> torch.Tensor:
        """Weights (K, B, E) of these gates plus those of the self gates `own`, if given."""
        if self.kernel.backend in _FUSED and own is not None and self.hidden is None and self.bias is None:
            return self._fused(x, own)
        return self(x) if own is None else self(x) + own(x)

    def seen(self, own: "SelfGates | None") -> Sees | None:
        """Where the weights of `joined` may differ from 0, for the triton backend; None for others. Waits for the masks' device
        once."""
        if self.kernel.backend != "triton":
            return None
        masks = (self.mask, None if own is None else own.mask)
        if self._seen is None or self._seen[0] is not masks[0] or self._seen[1] is not masks[1]:
            self._seen = (*masks, Sees.of(masks[0] if masks[1] is None else masks[0] | masks[1]))
        return self._seen[2]

    def _fused(self, x: torch.Tensor, own: "SelfGates | None") -> torch.Tensor:
        masks = (self.mask, None if own is None else own.mask)
        if self._layout is None or self._layout[0] is not masks[0] or self._layout[1] is not masks[1]:
            self._layout = (*masks, ScoreLayout.of(*masks))
            self._on_device = None
        weights = self.weight, None if own is None else own.weight
        if self.kernel.backend == "cpu":
            return gate_weights(x, *weights, self._layout[2])
        from home_dist.experts.kernels import triton_gate_weights

        if self._on_device is None or self._on_device.device != x.device:
            self._on_device = triton_gate_weights.DeviceLayout(self._layout[2], x.device)
        return triton_gate_weights.gate_weights(_product(x, scored(*weights, self._on_device)), self._on_device)


class SelfGates(_Scores):
    """HoME's residual path from a group's own experts: softmax(W x) over them, or sigmoid(W x) if the group has one expert.

    The paper does not give the depth of MLP_G; here it is that of the main gates, by default one linear layer.
    """

    lone: torch.Tensor

    def __init__(self, in_dim: int, mask: torch.Tensor, hidden: Sequence[int] = (), bias: bool = False):
        super().__init__(in_dim, mask, hidden, bias)
        self.register_buffer("lone", mask.sum(1) == 1, persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (B, F) or (K, B, F). Returns weights (K, B, E)."""
        scores = self.scores(x)
        several = scores.masked_fill(~self.mask.unsqueeze(1), -torch.inf).softmax(-1)
        single = torch.sigmoid(scores) * self.mask.unsqueeze(1)
        return torch.where(self.lone[:, None, None], single, several)
