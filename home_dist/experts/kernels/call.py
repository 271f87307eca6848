"""What the fused backends' autograd functions share: their arguments, and what they keep from forward to backward."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from home_dist.experts.kernels.operands import Operands, Precision


@dataclass
class Call:
    """What a call is made of, apart from tensors with gradients."""

    operands: Operands
    inputs: int
    mask: torch.Tensor | None
    precision: Precision
    keep: bool
    """Whether a backward may follow."""
    samples: torch.Tensor | None = None
    """(): those that the statistics are of; None where they are running averages."""

    @staticmethod
    def arguments(
        operands: Operands, inputs: Sequence[torch.Tensor], mask: torch.Tensor | None, precision: Precision
    ) -> tuple["Call", list[torch.Tensor]]:
        """A call, and the tensors with gradients beside the gates."""
        norm = [] if operands.norm is None else [operands.norm.weight, operands.norm.bias]
        call = Call(operands, len(inputs), mask, precision, torch.is_grad_enabled())
        return call, [*inputs, *operands.weights, *operands.biases, *norm]

    def split(self, tensors: Sequence[torch.Tensor]) -> tuple[list[torch.Tensor], list[torch.Tensor], list[torch.Tensor]]:
        """Inputs, weights and biases, out of the order that they are passed in."""
        layers = len(self.operands.weights)
        ends = (self.inputs, self.inputs + layers, self.inputs + layers + len(self.operands.biases))
        return list(tensors[: ends[0]]), list(tensors[ends[0] : ends[1]]), list(tensors[ends[1] : ends[2]])

    def last_bias(self, biases: Sequence[torch.Tensor]) -> torch.Tensor | None:
        return biases[-1] if len(biases) == len(self.operands.weights) else None


def keep(ctx: Any, y: torch.Tensor, hidden: list[list[torch.Tensor]]) -> None:
    """For the backward to write over; hidden: by layer, each in one or more parts. Not by save_for_backward, which would hold
    all of it until the backward's end."""
    ctx.y, ctx.hidden = y, hidden


def own(ctx: Any) -> tuple[torch.Tensor, list[list[torch.Tensor]]]:
    """What was kept; copies of it if the graph is to serve again."""
    if ctx.y is None:
        raise RuntimeError("this graph has been through a backward; pass retain_graph=True to the first one for a second")
    y, hidden = ctx.y, ctx.hidden
    if _graph_is_kept():
        return y.clone(), [[part.clone() for part in layer] for layer in hidden]
    ctx.y = ctx.hidden = None
    return y, hidden


def _graph_is_kept() -> bool:
    # Not public; where it is missing, a copy is the safe choice.
    asked = getattr(torch._C._autograd, "_get_current_graph_task_keep_graph", None)
    return True if asked is None else asked()
