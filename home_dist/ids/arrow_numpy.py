"""Arrow arrays as numpy arrays that nobody may write to.

Arrow imports pandas, half a second of a command's start, at the first call of `to_numpy`, `array` or `scalar`, and of what
calls these, such as `fill_null` and `np.asarray`. Training on ids that are rows of tables goes without.
"""

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


def numpy_of(array: pa.Array) -> NDArray:
    """(n,) of any type; NaN, NaT or None for nulls."""
    if array.null_count == 0:
        if pa.types.is_boolean(array.type):  # bits in Arrow
            return np.from_dlpack(array.cast(pa.uint8())).view(np.bool_)
        if pa.types.is_integer(array.type) or pa.types.is_floating(array.type):
            return np.from_dlpack(array)
    return array.to_numpy(zero_copy_only=False)


def values_of(array: pa.Array) -> NDArray:
    """(n,) as `numpy_of`, but of numbers and booleans in their own type, with anything for nulls."""
    if array.null_count and pa.types.is_primitive(array.type):
        _, values = array.buffers()
        array = pa.Array.from_buffers(array.type, len(array), [None, values], offset=array.offset)
    return numpy_of(array)


def filled(array: pa.Array, null: float) -> NDArray:
    """(n,) of numbers or booleans, with `null` in place of nulls; without nulls in their own type."""
    values = values_of(array)
    return np.where(numpy_of(array.is_null()), null, values) if array.null_count else values
