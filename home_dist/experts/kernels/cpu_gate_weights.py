"""The weights of masked gates and self gates on a CPU.

One matrix product computes the scores of both kinds of gates, and only of the experts that a gate may see. One pass turns the
scores into weights. The operator is an autograd function and no custom op, which takes longer: see kernels/__init__.py.
"""

from typing import Any, NamedTuple

import torch

from home_dist.experts.kernels.cpu_library import call
from home_dist.experts.kernels.grouped_products import by_group, input_grad, weight_grad
from home_dist.experts.kernels.once import once_differentiable


class ScoreLayout(NamedTuple):
    """S scores for each of K gates: `main` of its masked gate, then those of its self gate.

    Gates may see different numbers of experts: shorter lists of scores are padded to the longest one.
    """

    weight_rows: torch.Tensor
    """(K S), the row of the two stacked weights (2 K E, F) that yields a score; an arbitrary row for padding."""
    experts_of: torch.Tensor
    """(K, S), the expert of a score; -1 for padding."""
    main: int
    lone: torch.Tensor
    """(K,), 1 if the self gate sees a single expert and is a sigmoid, else 0."""
    experts: int

    @staticmethod
    def of(masked: torch.Tensor, own: torch.Tensor | None) -> "ScoreLayout":
        """masked, own: (K, E), the masks of the masked gates and of the self gates, if there are any. All is on the host."""
        masks = [mask.cpu() for mask in (masked, own) if mask is not None]
        experts_of = torch.cat([_positions(mask) for mask in masks], 1)
        gates, experts = masked.shape
        first_rows = torch.arange(gates * len(masks)).view(len(masks), gates).t() * experts  # (K, masks)
        widths = torch.tensor([int(mask.sum(1).max()) for mask in masks])
        rows = (first_rows.repeat_interleave(widths, 1) + experts_of.clamp(min=0)).flatten()
        lone = torch.zeros(gates, dtype=torch.int64) if own is None else (own.cpu().sum(1) == 1).long()
        return ScoreLayout(rows, experts_of, int(widths[0]), lone, experts)


def gate_weights(x: torch.Tensor, masked: torch.Tensor, own: torch.Tensor | None, layout: ScoreLayout) -> torch.Tensor:
    """x: (B, F) or (K, B, F); masked, own: (K, E, F), the parameters of both kinds of gates.

    Returns the sum of the weights of both kinds, (K, B, E).
    """
    return _GateWeights.apply(x, scored(masked, own, layout), layout)


def scored(masked: torch.Tensor, own: torch.Tensor | None, layout: Any) -> torch.Tensor:
    """The rows of both parameters that yield scores, (K, S, F). layout: its `weight_rows` and `experts_of`."""
    parameters = masked.flatten(0, 1) if own is None else torch.cat([masked.flatten(0, 1), own.flatten(0, 1)])
    return parameters.index_select(0, layout.weight_rows).view(*layout.experts_of.shape, -1)


class _GateWeights(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, layout: ScoreLayout) -> torch.Tensor:
        scores = by_group(x, weight)
        ctx.save_for_backward(x, weight, scores)
        ctx.layout = layout
        gates, samples, _ = scores.shape
        out = scores.new_empty(gates, samples, layout.experts)
        call("gate_weights", scores.dtype, *_scores(scores, layout), out, *_sizes(scores, layout))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight, scores = ctx.saved_tensors
        grad, scores_grad = grads[0].contiguous(), torch.empty_like(scores)
        arguments = (*_scores(scores, ctx.layout), scores_grad, *_sizes(scores, ctx.layout))
        call("gate_weights_backward", scores.dtype, grad, *arguments)
        x_grad = input_grad(scores_grad, weight, x.dim() == 2) if ctx.needs_input_grad[0] else None
        return x_grad, weight_grad(scores_grad, x), None


def _positions(mask: torch.Tensor) -> torch.Tensor:
    """(K, E) -> (K, most): the positions of a row's ones, ascending, then -1."""
    rows = [row.nonzero().flatten() for row in mask]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-1).contiguous()


def _scores(scores: torch.Tensor, layout: ScoreLayout) -> tuple[Any, ...]:
    return scores, scores.stride(0), scores.stride(1), layout.experts_of, layout.lone


def _sizes(scores: torch.Tensor, layout: ScoreLayout) -> tuple[int, ...]:
    return layout.main, *scores.shape, layout.experts
