"""Intervals of shares of rows."""

import math

_Z = 1.96  # 95 %


def interval(happened: int, known: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share."""
    if not known:
        return 0.0, 0.0
    share, spread = happened / known, _Z * _Z / known
    middle = (share + spread / 2) / (1 + spread)
    half = _Z / (1 + spread) * math.sqrt(share * (1 - share) / known + spread / (4 * known))
    return max(0.0, middle - half), min(1.0, middle + half)
