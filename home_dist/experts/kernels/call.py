"""What the fused backends' autograd functions share: their arguments, and what they keep from forward to backward."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from home_dist.experts.kernels.dropout import Dropout
from home_dist.experts.kernels.operands import Operands, Precision
from home_dist.layers.recompute import within


@dataclass
class Call:
    """What a call is made of, apart from tensors with gradients."""

    operands: Operands
    inputs: int
    mask: torch.Tensor | None
    precision: Precision
    keep: bool
    """Whether a backward may follow."""
    dropout: Dropout | None
    samples: torch.Tensor | None = None
    """(): those that the statistics are of; None where they are running averages."""

    @staticmethod
    def arguments(
        operands: Operands,
        inputs: Sequence[torch.Tensor],
        mask: torch.Tensor | None,
        precision: Precision,
        dropout: Dropout | None,
    ) -> tuple["Call", list[torch.Tensor]]:
        """A call, and the tensors with gradients beside the gates."""
        norm = [] if operands.norm is None else [operands.norm.weight, operands.norm.bias]
        call = Call(operands, len(inputs), mask, precision, torch.is_grad_enabled(), dropout)
        return call, [*inputs, *operands.weights, *operands.biases, *norm]

    def split(self, tensors: Sequence[torch.Tensor]) -> tuple[list[torch.Tensor], list[torch.Tensor], list[torch.Tensor]]:
        """Inputs, weights and biases, out of the order that they are passed in."""
        layers = len(self.operands.weights)
        ends = (self.inputs, self.inputs + layers, self.inputs + layers + len(self.operands.biases))
        return list(tensors[: ends[0]]), list(tensors[ends[0] : ends[1]]), list(tensors[ends[1] : ends[2]])

    def last_bias(self, biases: Sequence[torch.Tensor]) -> torch.Tensor | None:
        return biases[-1] if len(biases) == len(self.operands.weights) else None


Hidden = list[list[torch.Tensor]]
"""By layer, each in one or more parts."""


def keep(ctx: Any, saved: Sequence[torch.Tensor | None], y: torch.Tensor, hidden: Hidden) -> None:
    """saved: what the backward reads; y, hidden: what it writes over. These are not given to save_for_backward, which would
    hold all of them until the backward's end, unless they are to be computed anew, which it cares for."""
    ctx.saved, ctx.parts = len(saved), None
    if within():
        ctx.parts = [len(layer) for layer in hidden]
        saved = [*saved, y, *(part for layer in hidden for part in layer)]
    else:
        ctx.y, ctx.hidden = y, hidden
    ctx.save_for_backward(*saved)


def own(ctx: Any) -> tuple[list[Any], torch.Tensor, Hidden]:
    """What was saved and what was kept; copies of that if the graph is to serve again."""
    found = list(ctx.saved_tensors)
    saved = found[: ctx.saved]
    if ctx.parts is not None:
        y, flat = found[ctx.saved], iter(found[ctx.saved + 1 :])
        return saved, y, [[next(flat) for _ in range(count)] for count in ctx.parts]
    if ctx.y is None:
        raise RuntimeError("this graph has been through a backward; pass retain_graph=True to the first one for a second")
    y, hidden = ctx.y, ctx.hidden
    if _graph_is_kept():
        return saved, y.clone(), [[part.clone() for part in layer] for layer in hidden]
    ctx.y = ctx.hidden = None
    return saved, y, hidden


def _graph_is_kept() -> bool:
    # Not public; where it is missing, a copy is the safe choice.
    asked = getattr(torch._C._autograd, "_get_current_graph_task_keep_graph", None)
    return True if asked is None else asked()
