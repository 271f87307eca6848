"""HoME's feature gate on a CPU: the low-rank gates (G, L, B, F) exist for a chunk of samples at a time, in the cache.

One product of the inputs gives the low-rank activations and the shares' scores. The forward keeps the inputs, the activations
and the shares; the backward computes the low-rank gates again. With precision bf16, the inputs, the operands of products and
the result are bf16: the bank reads it as it is. The operator is an autograd function and no custom op, which takes longer: see
kernels/__init__.py.
"""

from typing import Any, NamedTuple

import torch

from home_dist.experts.kernels.cpu_library import call, check_dtypes, gemm
from home_dist.experts.kernels.grouped_products import add_input_grad, by_group, weight_grad
from home_dist.experts.kernels.once import once_differentiable
from home_dist.experts.kernels.operands import Precision

CHUNK_BYTES = 1 << 20
"""The size of one chunk's low-rank gates, (L, b, F)."""

_MOST_PARTS, _LEAST_SAMPLES = 16, 128
"""The backward cuts the samples into parts that threads work on, each with a sum of its own for the gradient of `up`.

More parts than 16 serve no more threads; with fewer samples than 128 in a part, its products are slow.
"""


def gated(
    x: torch.Tensor, down: torch.Tensor, up: torch.Tensor, choice: torch.Tensor, inside: bool, precision: Precision
) -> torch.Tensor:
    """x: (B, F) or (G, B, F); down: (G, L R, F); up: (G L, R, F); choice: (G, L, F). Returns the gated x, (G, B, F), in bf16 if
    that is the precision.

    inside: whether the sigmoid is inside the weighted sum over L.
    """
    check_dtypes(x, down, up, choice)
    return _CpuGated.apply(x.contiguous(), down, up, choice, inside, precision == "bf16")


class Gates(NamedTuple):
    """The operands of the low-rank gates of all groups, all contiguous."""

    x: torch.Tensor
    """(B, F) or (G, B, F)"""
    low: torch.Tensor
    """(G, B, L, R), the low-rank activations"""
    up: torch.Tensor
    """(G, L, R, F)"""
    share: torch.Tensor
    """(G, B, L)"""
    inside: bool

    @property
    def chunk(self) -> int:
        """The number of samples in a chunk."""
        row = self.share.shape[2] * self.x.shape[-1] * self.share.element_size()
        return max(min(max(CHUNK_BYTES // row, 16), self.x.shape[-2]), 1)

    @property
    def sizes(self) -> tuple[int, ...]:
        groups, samples, gates, rank = self.low.shape
        width = self.x.shape[-1]
        return samples * width if self.x.dim() == 3 else 0, int(self.inside), groups, gates, rank, samples, width


class _CpuGated(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, down: torch.Tensor, up: torch.Tensor, choice: torch.Tensor, inside: bool, bf16: bool
    ) -> torch.Tensor:
        groups, gates, width = choice.shape
        ctx.inside, ctx.dtype, first = inside, x.dtype, torch.cat([down, choice], 1)
        if bf16:
            x, first, up = x.bfloat16(), first.bfloat16(), up.bfloat16()
        up = up.contiguous().view(groups, gates, -1, width)
        low, scores = by_group(x, first).split(down.shape[1], 2)
        low, share = low.unflatten(2, (gates, -1)).to(x.dtype).contiguous(), scores.softmax(2).contiguous()
        ctx.save_for_backward(x, low, share, first, up)
        return _gate(Gates(x, low, up, share, inside))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, low, share, first, up = ctx.saved_tensors
        grad = grads[0].contiguous()
        x_grad = torch.empty_like(x, dtype=ctx.dtype) if ctx.needs_input_grad[0] else None
        share_grad, low_grad, up_grad = _gate_backward(grad, Gates(x, low, up, share, ctx.inside), x_grad)
        scores_grad = share * (share_grad - (share * share_grad).sum(2, keepdim=True))
        first_grad = torch.cat([low_grad.flatten(2), scores_grad], 2).to(first.dtype)
        if x_grad is not None:
            add_input_grad(x_grad, first_grad, first)
        down_grad, choice_grad = weight_grad(first_grad, x).split([first.shape[1] - share.shape[2], share.shape[2]], 1)
        return x_grad, down_grad, up_grad.flatten(0, 1), choice_grad, None, None


def _gate(gates: Gates) -> torch.Tensor:
    """The gated x, (G, B, F)."""
    x, low, up, share, _ = gates
    out = low.new_empty(*share.shape[:2], x.shape[-1])
    call("feature_gates", low.dtype, gemm(low.dtype), x, low, up, share, out, gates.chunk, *gates.sizes)
    return out


def _gate_backward(
    grad: torch.Tensor, gates: Gates, x_grad: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Returns the gradients of share, low and up. Writes to x_grad the gradient of x as a factor of the result."""
    x, low, up, share, _ = gates
    share_grad, low_grad = torch.empty_like(share), torch.empty_like(low, dtype=share.dtype)
    # The number of parts does not depend on the number of threads, so that the sums do not either.
    parts = max(min(x.shape[-2] // _LEAST_SAMPLES, _MOST_PARTS), 1)
    up_grads = share.new_empty(parts, *up.shape)
    arguments = (grad, x, low, up, share, share_grad, low_grad, x_grad, up_grads, gates.chunk, parts, *gates.sizes)
    call("feature_gates_backward", low.dtype, gemm(low.dtype), *arguments)
    return share_grad, low_grad, up_grads[0] if parts == 1 else up_grads.sum(0)
