# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
"""Triton: the factors of dropout.py, for kernels that drop outputs. Import it only if Triton is installed."""

import triton
import triton.language as tl

from home_dist.experts.kernels.dropout import Dropout


@triton.jit
def factors(place, first, second, threshold, factor):
    """Dropout's factors of the outputs at `place`; positions overflow modulo 2^32, as in dropout.py."""
    bits = _hash_round(_hash_round(place.to(tl.uint32, bitcast=True) ^ _word(first)) + _word(second))
    return tl.where(bits < _word(threshold), 0.0, factor)


@triton.jit
def _hash_round(x):
    """One round of the hash of dropout.py, on 32-bit words."""
    x = (x ^ (x >> 16)) * 0x21F0AAAD
    x = (x ^ (x >> 15)) * 0xD35A2D97
    return x ^ (x >> 15)


@triton.jit
def _word(x):
    return x.to(tl.uint32, bitcast=True)


def keys(dropout: Dropout | None) -> tuple[int, int, int, float]:
    """The keys and the threshold as signed 32-bit words, and the factor: all values then have one type, and one kernel."""
    if dropout is None:
        return 0, 0, 0, 1.0
    first, second, threshold = (word - (word >> 31 << 32) for word in map(int, dropout[:3]))
    return first, second, threshold, dropout.factor
