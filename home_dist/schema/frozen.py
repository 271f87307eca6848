"""A frozen table of vectors on disk, looked up by item id: memory-mapped, so that the ranks of a host share one copy.

A folder with keys.npy, (n,) int64 in rising order, and vectors.npy, (n, width) float16 or float32. Integers are their own keys;
a text's key is its 64-bit hash (home_dist/schema/hashing.py, seed 0) read as an int64. `home-dist prepare frozen` writes it.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from home_dist.errors import DataError
from home_dist.schema.base import KeyType
from home_dist.schema.hashing import as_int64, hash_texts

KEYS, VECTORS = "keys.npy", "vectors.npy"
_PROBES = 4096


class FrozenTable:
    def __init__(self, keys: NDArray[np.int64], vectors: NDArray, kind: KeyType):
        """keys: (n,) rising; vectors: (n, width)."""
        self.keys, self.vectors, self.type = keys, vectors, kind

    def positions(self, values: pa.Array) -> NDArray[np.int64]:
        """(m,) integers or texts -> (m,) rows of `vectors`; -1 for null and for what the table does not hold."""
        if pa.types.is_dictionary(values.type):
            found = self.positions(values.dictionary) if len(values.dictionary) else np.full(1, -1)
            return np.where(np.asarray(values.is_null()), -1, found[np.asarray(pc.fill_null(values.indices, 0))])
        if not len(self.keys):
            return np.full(len(values), -1)
        wanted = keys_of(values)
        at = np.minimum(np.searchsorted(self.keys, wanted), len(self.keys) - 1)
        return np.where((self.keys[at] == wanted) & ~np.asarray(values.is_null()), at, -1)


def keys_of(values: pa.Array) -> NDArray[np.int64]:
    """(n,); those of nulls are of no meaning."""
    if pa.types.is_integer(values.type):
        return as_int64(pc.fill_null(values, 0))
    return hash_texts(values, 0).view(np.int64)


def open_frozen(feature: str, folder: Path, width: int, kind: KeyType) -> FrozenTable:
    """Raises DataError for a folder that is not what it should be."""
    wrong = f"{folder}: frozen table of feature {feature!r}"
    try:
        keys, vectors = (np.load(folder / name, mmap_mode="r", allow_pickle=False) for name in (KEYS, VECTORS))
    except (OSError, ValueError) as error:
        raise DataError(
            f"{wrong}: {KEYS} or {VECTORS} cannot be read ({error}). Write it with `home-dist prepare frozen`."
        ) from None
    if keys.dtype != np.int64 or keys.ndim != 1:
        raise DataError(f"{wrong}: {KEYS} has type {keys.dtype}{list(keys.shape)}, but int64 in one dimension is needed.")
    if vectors.dtype not in (np.float16, np.float32) or vectors.shape != (len(keys), width):
        raise DataError(
            f"{wrong}: {VECTORS} has type {vectors.dtype}{list(vectors.shape)}, but float16 or float32 [{len(keys)}, {width}] "
            "is needed. Correct the feature's width or write the table again."
        )
    probes = keys[np.linspace(0, len(keys) - 1, min(len(keys), _PROBES)).astype(np.int64)] if len(keys) else keys
    if (np.diff(probes) <= 0).any():
        raise DataError(f"{wrong}: {KEYS} does not rise. Write it with `home-dist prepare frozen`.")
    return FrozenTable(keys, vectors, kind)
