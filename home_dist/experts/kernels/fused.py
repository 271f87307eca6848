"""The parts that the expert banks of the cpu and the triton backend share.

A call's arguments, the activation between the last product and the mixture, and the activations that a backward overwrites.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from home_dist.experts.kernels.dropout import Dropout
from home_dist.experts.kernels.operands import Operands, Precision
from home_dist.layers.global_norm import Moments, several_ranks
from home_dist.layers.recompute import within

Hidden = list[list[torch.Tensor]]
"""The hidden activations by layer, each layer in blocks of experts (e, B, H)."""


@dataclass
class Arguments:
    """The arguments of one call that have no gradient."""

    operands: Operands
    inputs: int
    """The number of inputs."""
    mask: torch.Tensor | None
    precision: Precision
    keep: bool
    """Whether a backward may follow."""
    dropout: Dropout | None
    samples: torch.Tensor | None = None
    """(), the number of samples of the batch statistics; None where running averages normalise."""

    @staticmethod
    def of(
        operands: Operands,
        inputs: Sequence[torch.Tensor],
        mask: torch.Tensor | None,
        precision: Precision,
        dropout: Dropout | None,
    ) -> tuple["Arguments", list[torch.Tensor]]:
        """Returns the arguments and the tensors with gradients: inputs, weights, biases, weight and bias of `norm`."""
        norm = [] if operands.norm is None else [operands.norm.weight, operands.norm.bias]
        arguments = Arguments(operands, len(inputs), mask, precision, torch.is_grad_enabled(), dropout)
        return arguments, [*inputs, *operands.weights, *operands.biases, *norm]

    def split(self, tensors: Sequence[torch.Tensor]) -> tuple[list[torch.Tensor], list[torch.Tensor], list[torch.Tensor]]:
        """Tensors in the order of `of` -> inputs, weights and biases."""
        layers = len(self.operands.weights)
        ends = (self.inputs, self.inputs + layers, self.inputs + layers + len(self.operands.biases))
        return list(tensors[: ends[0]]), list(tensors[ends[0] : ends[1]]), list(tensors[ends[1] : ends[2]])

    def last_bias(self, biases: Sequence[torch.Tensor]) -> torch.Tensor | None:
        return biases[-1] if len(biases) == len(self.operands.weights) else None


class Activation(NamedTuple):
    """Swish(y * scale + shift) with scale = weight * rstd and shift = bias - mean * scale; or ReLU(y + shift). All (E, D)."""

    scale: torch.Tensor | None
    shift: torch.Tensor
    mean: torch.Tensor | None = None
    rstd: torch.Tensor | None = None


def activation_of(
    operands: Operands, bias: torch.Tensor | None, local_moments: Callable[[], Moments]
) -> tuple[Activation, torch.Tensor | None]:
    """bias: the last layer's, if there is one. local_moments computes this rank's moments of y.

    Returns the activation, and `Statistics.samples`; None where running averages normalise.
    """
    norm = operands.norm
    if norm is None:
        if bias is None:
            raise ValueError("experts without normalisation have a bias in each layer")
        return Activation(None, bias.contiguous()), None
    statistics = norm.of_batch(*local_moments()) if norm.training else norm.running()
    rstd = torch.rsqrt(statistics.variance + norm.module.eps)
    scale = rstd * norm.weight
    shift = norm.bias - statistics.mean * scale
    # Running averages change in place before the backward.
    return Activation(scale, shift, statistics.mean.clone(), rstd), statistics.samples


def statistics_grad(
    arguments: Arguments, activation: Activation, shift_grad: torch.Tensor, scale_grad: torch.Tensor | None
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """The part of y's gradient that flows through the batch statistics: away + along * (y - mean) * rstd, to be subtracted.

    Returns away and along, (E, D) each; None where running averages normalise. Sums over the ranks of the statistics.
    """
    samples, norm = arguments.samples, arguments.operands.norm
    if samples is None or norm is None or scale_grad is None or activation.scale is None:
        return None, None
    sums, peers = torch.stack([shift_grad, scale_grad]), norm.module.peers
    if several_ranks(peers):
        torch.distributed.all_reduce(sums, group=None if peers is None else peers.group)
    away, along = (sums * (activation.scale / samples.clamp(min=1))).unbind(0)
    return away, along


def save(ctx: Any, tensors: Sequence[torch.Tensor | None], y: torch.Tensor, hidden: Hidden) -> None:
    """Saves for the backward `tensors`, which it reads, and y and hidden, which it overwrites with their gradients.

    y and hidden are attributes of ctx: the backward frees each as soon as it was used, where save_for_backward would hold all
    until its end. Under recomputation they go through save_for_backward, whose hooks drop and recompute them.
    """
    ctx.tensors, ctx.blocks = len(tensors), None
    if within():
        ctx.blocks = [len(layer) for layer in hidden]
        tensors = [*tensors, y, *(block for layer in hidden for block in layer)]
    else:
        ctx.activations = y, hidden
    ctx.save_for_backward(*tensors)


def saved(ctx: Any) -> tuple[list[Any], tuple[torch.Tensor, Hidden] | None]:
    """Returns the saved tensors, and y and hidden, which the caller may overwrite.

    y and hidden can be taken once. In a second backward through a retained graph they are None: the caller computes them again
    from the saved tensors. A second backward through a freed graph raises autograd's RuntimeError.
    """
    tensors = list(ctx.saved_tensors)
    if ctx.blocks is not None:
        y, flat = tensors[ctx.tensors], iter(tensors[ctx.tensors + 1 :])
        return tensors[: ctx.tensors], (y, [[next(flat) for _ in range(count)] for count in ctx.blocks])
    activations, ctx.activations = ctx.activations, None
    return tensors, activations
