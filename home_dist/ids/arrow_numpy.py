"""Arrow arrays as numpy arrays, read-only where memory has one layout in both.

Arrow imports pandas, half a second of a command's start, at the first call of `to_numpy`, `array` or `scalar`. What training
reads before its first step goes without.
"""

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


def numpy_of(array: pa.Array) -> NDArray:
    """(n,) of any type; NaN or None for nulls."""
    if array.null_count == 0:
        if pa.types.is_boolean(array.type):  # bits in Arrow
            return np.from_dlpack(array.cast(pa.uint8())).view(np.bool_)
        if pa.types.is_integer(array.type) or pa.types.is_floating(array.type):
            return np.from_dlpack(array)
    return array.to_numpy(zero_copy_only=False)


def values_of(array: pa.Array) -> NDArray:
    """(n,) of numbers or booleans, in their type; anything for nulls."""
    if array.null_count:
        _, values = array.buffers()
        array = pa.Array.from_buffers(array.type, len(array), [None, values], offset=array.offset)
    return numpy_of(array)
