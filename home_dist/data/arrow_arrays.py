"""Arrow arrays -> numpy arrays."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from home_dist.ids.arrow_numpy import filled


def plain_lists(array: pa.Array) -> pa.Array:
    if pa.types.is_null(array.type):
        return array.cast(pa.list_(pa.null()))
    return array.cast(pa.list_(array.type.value_type)) if pa.types.is_fixed_size_list(array.type) else array


def plain_numbers(array: pa.Array) -> pa.Array:
    """Decimals and all-null arrays, which numpy lacks, as float64; other arrays unchanged."""
    return array.cast(pa.float64()) if pa.types.is_decimal(array.type) or pa.types.is_null(array.type) else array


def floats_of(array: pa.Array, null: float) -> NDArray:
    """(n,) numbers, with `null` in place of nulls; arrays without nulls keep their type."""
    return filled(plain_numbers(array), null)


def joined_floats(chunks: Sequence[pa.Array], dtype: type, null: float = float("nan")) -> NDArray:
    return np.concatenate([np.zeros(0, dtype), *(floats_of(chunk, null) for chunk in chunks)], dtype=dtype, casting="unsafe")


def offsets_of(lengths: Sequence[NDArray]) -> NDArray[np.int64]:
    joined = np.concatenate([np.zeros(0, np.int64), *lengths])
    offsets = np.zeros(len(joined) + 1, np.int64)
    np.cumsum(joined, out=offsets[1:])
    return offsets
