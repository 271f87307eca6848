"""The two forms of a statistic that a model reads: its bucket and its standardised value."""

import ctypes

import numpy as np
from numpy.typing import NDArray

from home_dist.data.chunked import address, native


def buckets(values: NDArray, boundaries: NDArray[np.float64]) -> NDArray[np.int32]:
    """values: (rows,) float32 or float64 -> (rows,): 1 + the number of boundaries <= the value."""
    limits = _in_type_of(values, boundaries)
    library = native()
    if library is None:
        return np.searchsorted(limits, values, side="right").astype(np.int32) + 1
    out = np.empty(len(values), np.int32)
    arguments = (address(values), len(values), address(limits), len(limits), address(out))
    getattr(library, f"buckets_{values.dtype.name}")(*map(ctypes.c_int64, arguments))
    return out


def standardise(values: NDArray, mean: float, deviation: float, out: NDArray[np.float32]) -> None:
    """values: (rows,) float32 or float64. Writes (values - mean) / deviation, computed in float64, to `out`, (rows,)."""
    library = native()
    if library is None:
        out[:] = (values.astype(np.float64) - mean) / deviation
        return
    arguments = (address(values), len(values), address(out), out.strides[0] // out.itemsize)
    call = getattr(library, f"standardised_{values.dtype.name}")
    call(*map(ctypes.c_int64, arguments), ctypes.c_double(mean), ctypes.c_double(deviation))


def _in_type_of(values: NDArray, boundaries: NDArray[np.float64]) -> NDArray:
    """Each boundary rounded up to the values' type: comparing values with it gives the same result as with the boundary."""
    if values.dtype == np.float64:
        return np.ascontiguousarray(boundaries)
    near = boundaries.astype(values.dtype)
    return np.where(near < boundaries, np.nextafter(near, np.array(np.inf, values.dtype)), near)
