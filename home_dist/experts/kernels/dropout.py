"""Dropout without a mask in memory: a hash of an output's position and of a random key decides whether the output is kept.

All backends keep the same outputs; each pass of forward and backward computes the hash again. The hash is two rounds of
C. Wellons' "lowbias32" (2018, nullprogram.com), each with a key of its own. Positions count modulo 2^32 in the order of the
tensor (E, B, D).
"""

from typing import Any, NamedTuple

import torch

from home_dist.experts.kernels.cpu_library import call
from home_dist.experts.kernels.once import once_differentiable

_WORD = 0xFFFFFFFF


class Dropout(NamedTuple):
    first: int | torch.Tensor
    """The key of the first round, 32 bits; inside a program of torch.compile an int64 tensor ()."""
    second: int | torch.Tensor
    """The key of the second round, likewise."""
    threshold: int
    """An output is dropped if its hash is smaller: the rate times 2^32."""
    factor: float
    """Kept outputs are multiplied by 1 / (1 - rate)."""

    @staticmethod
    def drawn(rate: float, device: torch.device) -> "Dropout | None":
        """Draws the keys from torch's CPU generator, which training seeds by the step. None if the rate is 0.

        Inside a program of torch.compile the device's generator draws them: numbers from the host would be no part of it, and
        CUDA graphs would drop the same outputs in each step."""
        threshold = round(rate * (_WORD + 1))
        if not threshold:
            return None
        if torch.compiler.is_compiling():
            first, second = torch.randint(_WORD + 1, (2,), device=device).unbind()
        else:
            first, second = torch.randint(_WORD + 1, (2,)).tolist()
        return Dropout(first, second, threshold, 1 / (1 - rate))

    def factors(self, x: torch.Tensor) -> torch.Tensor:
        """0 or `factor` for each element of x, in its shape and dtype."""
        positions = torch.arange(x.numel(), device=x.device).view(x.shape)
        return self.kept(positions).to(x.dtype) * self.factor

    def kept(self, positions: torch.Tensor) -> torch.Tensor:
        """positions: int64, counted from a tensor's first element. Returns booleans."""
        bits = _hash_round((_hash_round((positions & _WORD) ^ self.first) + self.second) & _WORD)
        return bits >= self.threshold


def dropped_on_cpu(x: torch.Tensor, dropout: Dropout) -> torch.Tensor:
    """x (B, F) after dropout, by one pass of the C++ library. Raises CannotBuild."""
    return _Dropped.apply(x, dropout)


class _Dropped(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, dropout: Dropout) -> torch.Tensor:
        ctx.dropout = dropout
        return _drop(x, dropout)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return _drop(grads[0], ctx.dropout), None


def _drop(x: torch.Tensor, dropout: Dropout) -> torch.Tensor:
    x = x.contiguous()
    out = torch.empty_like(x)
    call("drop", x.dtype, x, out, *dropout, *x.shape)
    return out


def _hash_round(x: torch.Tensor) -> torch.Tensor:
    """One round, of 32-bit words in int64: the low word of a product is right even if the product overflows."""
    for shift, factor in ((16, 0x21F0AAAD), (15, 0xD35A2D97)):
        x = ((x ^ (x >> shift)) * factor) & _WORD
    return x ^ (x >> 15)
