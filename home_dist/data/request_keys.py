"""Keys of requests: 64-bit numbers made of the values of the columns that name a request.

One column of whole numbers gives different requests different keys. Texts and several columns are hashed: among 10^8 requests,
two have the same key with a probability of 3 in 10,000.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from home_dist.ids.arrow_numpy import filled
from home_dist.ids.hashing import Hashes, hash_integers, hash_texts, mix
from home_dist.ids.keys import as_keys, key_numbers, key_type, missing

PADDING = -1
"""Key of padding. The hash -1 becomes -2."""


def key_hashes(values: pa.Array) -> tuple[Hashes, NDArray[np.bool_]]:
    """values: (n,) of a type that can hold keys -> (n,) hashes, and (n,) whether the value is missing, whose hash is undefined.

    Raises NotKeys.
    """
    kind = key_type(values.type) or "integer"
    keys = as_keys(values, kind)
    absent = missing(keys)
    if kind == "integer":
        return hash_integers(key_numbers(keys), 0), absent
    if not pa.types.is_dictionary(keys.type):
        return hash_texts(keys, 0), absent
    of_distinct = hash_texts(keys.dictionary, 0) if len(keys.dictionary) else np.zeros(1, np.uint64)
    return of_distinct[filled(keys.indices, 0)], absent


def joined_keys(columns: Sequence[Hashes]) -> NDArray[np.int64]:
    """(n,) hashes per column -> (n,) keys."""
    keys = columns[0]
    for column in columns[1:]:
        keys = mix(mix(keys) ^ column)
    numbers = keys.view(np.int64)
    return np.where(numbers == PADDING, PADDING - 1, numbers)


def place_keys(file: str, group: int, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """(n,) keys of rows without a key, which are requests of their own. rows: (n,) their numbers in the row group."""
    of_group = hash_integers(np.asarray([group]), int(hash_texts(pa.array([file]), 0)[0]))
    return joined_keys([mix(hash_integers(rows, 0) ^ of_group)])
