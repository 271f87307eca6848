"""A frozen table of vectors on disk, looked up by item id: memory-mapped, so that the ranks of a host share one copy.

A folder with keys.npy, (n,) int64, strictly increasing, and vectors.npy, (n, width) float16 or float32. An integer is its own
key; a text's key is its 64-bit hash (home_dist/ids/hashing.py, seed 0) read as int64. keys.json tells which of both: {"type":
"integer"}; folders of earlier versions lack it. `home-dist prepare frozen` writes all three.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from home_dist.errors import DataError
from home_dist.files.json_files import read_json
from home_dist.ids.arrow_numpy import filled
from home_dist.ids.arrow_types import is_text
from home_dist.ids.hashing import hash_texts
from home_dist.ids.keys import KeyType, as_keys, key_numbers, missing

KEYS, VECTORS, TYPE = "keys.npy", "vectors.npy", "keys.json"
_PROBES = 4096


class FrozenTable:
    def __init__(self, keys: NDArray[np.int64], vectors: NDArray, kind: KeyType):
        """keys: (n,) strictly increasing; vectors: (n, width)."""
        self.keys, self.vectors, self.type = keys, vectors, kind

    def positions(self, values: pa.Array) -> NDArray[np.int64]:
        """(m,) keys -> (m,) rows of `vectors`; -1 for missing keys and for keys that the table lacks. Raises NotKeys."""
        keys = as_keys(values, self.type)
        if pa.types.is_dictionary(keys.type):
            of_distinct = self.positions(keys.dictionary) if len(keys.dictionary) else np.full(1, -1)
            return np.where(missing(keys), -1, of_distinct[filled(keys.indices, 0)])
        if not len(self.keys):
            return np.full(len(keys), -1)
        wanted = sort_keys(keys)
        at = np.minimum(np.searchsorted(self.keys, wanted), len(self.keys) - 1)
        return np.where((self.keys[at] == wanted) & ~missing(keys), at, -1)


def sort_keys(keys: pa.Array) -> NDArray[np.int64]:
    """(n,) keys, as returned by `as_keys` -> (n,) numbers by which a frozen table is sorted. A null's number is undefined."""
    return hash_texts(keys, 0).view(np.int64) if is_text(keys.type) else key_numbers(keys)


def open_frozen(folder: Path, width: int, kind: KeyType, wanted: str, mend: str) -> FrozenTable:
    """Opens and checks a frozen table. Raises DataError for a folder that does not hold one of this width.

    wanted: who reads it; mend: what to correct where the width is another one."""
    wrong = f"{folder}: frozen table of {wanted}"
    try:
        keys, vectors = (np.load(folder / name, mmap_mode="r", allow_pickle=False) for name in (KEYS, VECTORS))
    except (OSError, ValueError) as error:
        raise DataError(
            f"{wrong}: {KEYS} or {VECTORS} cannot be read ({error}). Write it with `home-dist prepare frozen`."
        ) from None
    told = read_json(folder / TYPE, "Write the table again with `home-dist prepare frozen`.", DataError).get("type", kind)
    if told != kind:
        raise DataError(f"{wrong}: its keys are of type {told}, but {kind} is needed. Write it of the ids that the data holds.")
    if keys.dtype != np.int64 or keys.ndim != 1:
        raise DataError(f"{wrong}: {KEYS} has type {keys.dtype}{list(keys.shape)}, but int64 in one dimension is needed.")
    if vectors.dtype not in (np.float16, np.float32) or vectors.shape != (len(keys), width):
        raise DataError(
            f"{wrong}: {VECTORS} has type {vectors.dtype}{list(vectors.shape)}, but float16 or float32 [{len(keys)}, {width}] "
            f"is needed. {mend}, or write the table again."
        )
    probes = keys[np.linspace(0, len(keys) - 1, min(len(keys), _PROBES)).astype(np.int64)] if len(keys) else keys
    if (probes[1:] <= probes[:-1]).any():  # differences could overflow
        raise DataError(f"{wrong}: {KEYS} does not rise. Write it with `home-dist prepare frozen`.")
    return FrozenTable(keys, vectors, kind)
