"""Ids of histories once per batch: items repeat, and a row that is looked up once is exchanged and updated once."""

import ctypes
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from home_dist.data.buffers import Buffers
from home_dist.native_library import library_if_possible, pointer

_SOURCE = Path(__file__).parent / "native" / "distinct.cpp"


def distinct(ids: KeyedJaggedTensor, buffers: Buffers) -> tuple[KeyedJaggedTensor, torch.Tensor]:
    """ids: N, of B samples, on the host.

    Returns each key's distinct ids, and (N,) int64 the place of each id among those of its key. Distinct ids belong to no
    sample: their lengths, B per key, tell their number alone.
    """
    keys, size = ids.keys(), ids.stride()
    values = ids.values().numpy()
    places, found = (buffers.empty(values.shape, np.int64) for _ in range(2))
    lengths = np.zeros((len(keys), size), np.int32)
    first, done = 0, 0
    for key, count in enumerate(ids.length_per_key()):
        part = slice(first, first + count)
        number = _distinct(values[part], found[done : done + count], places[part])
        lengths[key] = number // size
        lengths[key, : number % size] += 1
        first, done = first + count, done + number
    once = KeyedJaggedTensor(keys, torch.from_numpy(found[:done]), lengths=torch.from_numpy(lengths.reshape(-1)))
    return once, torch.from_numpy(places)


def _distinct(ids: NDArray[np.int64], found: NDArray[np.int64], places: NDArray[np.int64]) -> int:
    """Fills `places` (n,) and the first of `found` (n,); returns their number."""
    library = library_if_possible(_SOURCE)
    if library is None:
        values, places[:] = np.unique(ids, return_inverse=True)
        found[: len(values)] = values
        return len(values)
    library.distinct.restype = ctypes.c_int64
    return int(library.distinct(pointer(ids), ctypes.c_int64(len(ids)), pointer(found), pointer(places)))
