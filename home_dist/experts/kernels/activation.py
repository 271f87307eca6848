"""What stands between the last matrix product and the mixture: bias and ReLU, or batch normalisation and Swish."""

from collections.abc import Callable
from typing import NamedTuple

import torch

from home_dist.experts.kernels.operands import Operands
from home_dist.layers.global_norm import Moments, several_ranks


class Activation(NamedTuple):
    """Swish(y * scale + shift) with scale = weight * rstd and shift = bias - mean * scale, all (E, D); or ReLU(y + shift)."""

    scale: torch.Tensor | None
    shift: torch.Tensor
    mean: torch.Tensor | None = None
    rstd: torch.Tensor | None = None


def activation_of(
    operands: Operands, bias: torch.Tensor | None, local: Callable[[], Moments]
) -> tuple[Activation, torch.Tensor | None]:
    """bias: the last layer's, if any; local: computes this rank's moments of y.

    Besides, the number of samples that the statistics are of; None where they do not depend on the batch.
    """
    norm = operands.norm
    if norm is None:
        if bias is None:
            raise ValueError("experts without normalisation have a bias in each layer")
        return Activation(None, bias.contiguous()), None
    statistics = norm.of_ranks(*local()) if norm.of_batch else norm.running()
    rstd = torch.rsqrt(statistics.variance + norm.module.eps)
    scale = rstd * norm.weight
    shift = norm.bias - statistics.mean * scale
    # Running averages change before the backward, in place.
    return Activation(scale, shift, statistics.mean.clone(), rstd), statistics.samples


def through_statistics(
    activation: Activation, shift_grad: torch.Tensor, scale_grad: torch.Tensor | None, samples: torch.Tensor | None
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """What each sample's gradient loses to the statistics that it is part of: away + along * its standardised value, (E, D)."""
    if samples is None or scale_grad is None or activation.scale is None:
        return None, None
    sums = torch.stack([shift_grad, scale_grad])
    if several_ranks():
        torch.distributed.all_reduce(sums)
    away, along = (sums * (activation.scale / samples.clamp(min=1))).unbind(0)
    return away, along
