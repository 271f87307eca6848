"""Dropout of the experts' outputs without a mask in memory: whether an output is kept is a hash of its place and of a seed.

All backends keep the same outputs, and each pass of forward and backward finds out anew. The hash is two rounds of C. Wellons'
"lowbias32" (2018, nullprogram.com), each with a key of its own; places count modulo 2^32, in the order of (E, B, D).
"""

from typing import NamedTuple

import torch

_WORD = 0xFFFFFFFF


class Dropout(NamedTuple):
    first: int
    """Key of the first round, 32 bits."""
    second: int
    """Key of the second one."""
    threshold: int
    """Outputs whose hash is below become 0: the rate times 2^32."""
    factor: float
    """Of the others: 1 / (1 - rate)."""

    @staticmethod
    def drawn(rate: float) -> "Dropout | None":
        """Keys by torch's generator of the CPU, which a step's number seeds. None where nothing is dropped."""
        threshold = round(rate * (_WORD + 1))
        if not threshold:
            return None
        first, second = torch.randint(_WORD + 1, (2,)).tolist()
        return Dropout(first, second, threshold, 1 / (1 - rate))

    def factors(self, shape: torch.Size, rows: slice, like: torch.Tensor) -> torch.Tensor:
        """Of the samples `rows` of outputs of `shape` (E, B, D): 0 or `factor`, (E, b, D), in type and place of `like`."""
        experts, samples, width = shape
        of_experts, of_rows, of_width = (
            torch.arange(*ends, device=like.device) for ends in ((experts,), rows.indices(samples), (width,))
        )
        at = (of_experts[:, None, None] * samples + of_rows[:, None]) * width + of_width
        kept = _mixed((_mixed((at & _WORD) ^ self.first) + self.second) & _WORD) >= self.threshold
        return kept.to(like.dtype) * self.factor


def _mixed(x: torch.Tensor) -> torch.Tensor:
    """One round, of 32-bit words in int64: a product's low word is right even where it overflows."""
    for shift, factor in ((16, 0x21F0AAAD), (15, 0xD35A2D97)):
        x = ((x ^ (x >> shift)) * factor) & _WORD
    return x ^ (x >> 15)
