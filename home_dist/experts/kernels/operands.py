"""The operands of the expert bank's operator: the parameters of a bank."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import nn

from home_dist.layers.global_norm import GlobalBatchNorm, joined

Precision = Literal["fp32", "bf16"]


class Statistics(NamedTuple):
    """The statistics that normalise a batch."""

    mean: torch.Tensor
    """(E, D)"""
    variance: torch.Tensor
    """(E, D)"""
    samples: torch.Tensor | None
    """The number of samples of all ranks, () or each expert's (E, 1); None for running averages, which do not depend on the
    batch."""


@dataclass(frozen=True)
class Norm:
    """The batch normalisation of the experts' outputs."""

    module: GlobalBatchNorm
    weight: torch.Tensor
    """(E, D)"""
    bias: torch.Tensor
    """(E, D)"""

    @staticmethod
    def of(module: GlobalBatchNorm) -> "Norm":
        if module.weight is None or module.bias is None:
            raise ValueError("the normalisation of experts has weights and biases of its own")
        return Norm(module, module.weight, module.bias)

    @property
    def training(self) -> bool:
        """Whether the batch's statistics normalise; in evaluation, running averages do."""
        return self.module.training

    def running(self) -> Statistics:
        return Statistics(self.module.running_mean, self.module.running_var, None)

    def scale_and_shift(self, statistics: Statistics) -> tuple[torch.Tensor, torch.Tensor]:
        """(E, D) each: normalised outputs are y * scale + shift."""
        scale = torch.rsqrt(statistics.variance + self.module.eps) * self.weight
        return scale, self.bias - statistics.mean * scale

    def of_batch(self, mean: torch.Tensor, squares: torch.Tensor, count: torch.Tensor) -> Statistics:
        """The global batch's statistics, from this rank's `local_moments`. Moves the running averages."""
        mean, variance, samples = joined(mean, squares, count, self.module.peers)
        self.module.follow(mean.detach(), variance.detach(), samples.detach())
        return Statistics(mean, variance, samples)


@dataclass(frozen=True)
class Inside:
    """Normalisation and dropout of experts' hidden layers: dropout(ReLU(Norm(W x))). The eager kernel alone computes it."""

    norms: Sequence[GlobalBatchNorm]
    """Per hidden layer, of (E, H); none without normalisation. A layer before one has no bias."""
    dropout: float

    def activated(self, layer: int, x: torch.Tensor, mask: torch.Tensor | None, training: bool) -> torch.Tensor:
        """x: (E, B, H), of hidden layer `layer`; mask: (B,)."""
        if self.norms:
            x = self.norms[layer](x, mask)
        return nn.functional.dropout(torch.relu(x), self.dropout, training)


@dataclass(frozen=True)
class Operands:
    """The parameters of E experts."""

    experts: tuple[int, ...]
    """How many experts read input i."""
    weights: Sequence[torch.Tensor]
    """Per layer (E, out, in)."""
    biases: Sequence[torch.Tensor]
    """Per layer (E, out); the last layer has none before a normalisation."""
    norm: Norm | None
    inside: Inside | None = None
    training: bool = False
    """Whether `inside` drops outputs."""

    def bias(self, depth: int) -> torch.Tensor | None:
        """(E, out) of a layer; None before a normalisation."""
        if self.inside is not None and self.inside.norms:
            return self.biases[0] if self.biases and depth == len(self.weights) - 1 else None
        return self.biases[depth] if depth < len(self.biases) else None

    def activated(self, layer: int, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Hidden activations (E, B, H) of a hidden layer's products x, biases included."""
        return torch.relu(x) if self.inside is None else self.inside.activated(layer, x, mask, self.training)
