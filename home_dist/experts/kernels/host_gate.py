"""HoME's feature gate on a CPU: the (G, L, B, F) low-rank gates exist for a chunk of samples only, which stays in the cache.

The backward computes them anew. Kept for it are the inputs, the low-rank activations and the shares. In bf16 are the products
with all features; those of low rank that follow are done within a cache, where fp32 is faster than changing types.
"""

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from home_dist.experts.kernels.gate_products import GateProducts, Gates, TorchGateProducts
from home_dist.experts.kernels.gate_products_native import NativeGateProducts
from home_dist.experts.kernels.grouped import add_back, by_group, weight_grad
from home_dist.experts.kernels.host import STORED, passes
from home_dist.experts.kernels.operands import Precision
from home_dist.experts.kernels.passes import Passes
from home_dist.experts.kernels.passes_native import NativePasses
from home_dist.experts.kernels.products_native import routine


def gated(
    x: torch.Tensor,
    down: torch.Tensor,
    up: torch.Tensor,
    choice: torch.Tensor,
    inside: bool,
    precision: Precision,
    using: Passes | None = None,
) -> torch.Tensor:
    """x: (B, F) or (G, B, F); down: (G, L R, F); up: (G L, R, F); choice: (G, L, F). Returns the gated x, (G, B, F).

    `using`: other passes than this machine's best.
    """
    kinds = {t.dtype for t in (x, down, up, choice)}
    if len(kinds) > 1 or not kinds <= {torch.float32, torch.float64}:
        raise TypeError(f"the cpu kernel takes fp32 or fp64 throughout, got {', '.join(sorted(map(str, kinds)))}")
    return _Gated.apply(x.contiguous(), down, up, choice, inside, STORED[precision], using or passes())


def _products(using: Passes, kind: torch.dtype) -> GateProducts:
    if isinstance(using, NativePasses) and (gemm := routine(kind)) is not None:
        return NativeGateProducts(using, gemm)
    return TorchGateProducts(using)


class _Gated(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        down: torch.Tensor,
        up: torch.Tensor,
        choice: torch.Tensor,
        inside: bool,
        stored: torch.dtype | None,
        using: Passes,
    ) -> torch.Tensor:
        groups, gates, width = choice.shape
        down, up = down.to(stored or x.dtype), up.contiguous().view(groups, gates, -1, width)
        low = by_group(x.to(down.dtype), down).to(x.dtype).unflatten(2, (gates, -1)).contiguous()
        share = by_group(x, choice).softmax(2).contiguous()
        ctx.inside, ctx.products = inside, _products(using, x.dtype)
        ctx.save_for_backward(x, low, share, down, up, choice)
        return ctx.products.forward(Gates(x, low, up, share, inside))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, low, share, down, up, choice = ctx.saved_tensors
        grad = grads[0].contiguous()
        x_grad = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        share_grad, low_grad, up_grad = ctx.products.backward(grad, Gates(x, low, up, share, ctx.inside), x_grad)
        scores_grad = share * (share_grad - (share * share_grad).sum(2, keepdim=True))
        low_grad = low_grad.flatten(2).to(down.dtype)
        if x_grad is not None:
            add_back(x_grad, low_grad, down)
            add_back(x_grad, scores_grad, choice)
        down_grad = weight_grad(low_grad, x.to(down.dtype)).to(grad.dtype)
        return x_grad, down_grad, up_grad.flatten(0, 1), weight_grad(scores_grad, x), None, None, None
