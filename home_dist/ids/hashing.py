"""64-bit hashes of ids, without a Python loop over ids. Never change them: trained models and written data depend on them.

mix(x) is splitmix64 (Steele, Lea and Flood 2014): with x := x + 0x9E3779B97F4A7C15, then x := (x ^ x >> 30) *
0xBF58476D1CE4E5B9, then x := (x ^ x >> 27) * 0x94D049BB133111EB, it is x ^ x >> 31, all modulo 2^64.

An integer v, as 64 bits in two's complement, has the hash mix(v ^ mix(seed)). This is a permutation: two integers never share
a hash. A text of n bytes of UTF-8 starts with h = mix(mix(seed) ^ n). For each 8 bytes, read as a little-endian integer, the
last ones padded with zeros, h := mix(h ^ bytes). Texts and integers with the same digits have different hashes.

Row of a hash: 1 + hash mod (rows - 1). Row 0 is for missing values.
"""

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]

_STEP, _FIRST, _SECOND = (np.uint64(x) for x in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))
_WORD = 8


def mix(x: Hashes) -> Hashes:
    """(n,) -> (n,)"""
    with np.errstate(over="ignore"):
        x = x + _STEP
        x = (x ^ (x >> np.uint64(30))) * _FIRST
        x = (x ^ (x >> np.uint64(27))) * _SECOND
        return x ^ (x >> np.uint64(31))


def hash_integers(values: NDArray, seed: int) -> Hashes:
    """values: (n,) of any integer type; an integer's width does not change its hash."""
    wide = values if values.dtype == np.uint64 else values.astype(np.int64, copy=False).view(np.uint64)
    return mix(wide ^ mix(np.asarray([seed], np.uint64)))


def hash_texts(texts: pa.Array, seed: int) -> Hashes:
    """texts: (n,) strings; a null's hash is undefined."""
    raw = texts.cast(pa.large_string())
    _, bounds, data = raw.buffers()
    if not len(raw):
        return np.zeros(0, np.uint64)
    offsets = np.frombuffer(bounds, np.int64)[raw.offset : raw.offset + len(raw) + 1]
    lengths = np.diff(offsets)
    content = np.frombuffer(data, np.uint8)[offsets[0] : offsets[-1]] if data is not None else np.zeros(0, np.uint8)
    # Padding, so that eight bytes can be read from every position.
    padded = np.concatenate([content, np.zeros(_WORD, np.uint8)])
    words = np.ndarray(len(content) + 1, "<u8", padded, strides=(1,))
    hashes = mix(mix(np.asarray([seed], np.uint64)) ^ lengths.astype(np.uint64))
    at, left = offsets[:-1] - offsets[0], lengths.copy()
    open_ = np.flatnonzero(left > 0)
    while len(open_):
        missing = np.maximum(_WORD - left[open_], 0).astype(np.uint64) * np.uint64(8)
        kept = np.uint64(0xFFFFFFFFFFFFFFFF) >> missing
        hashes[open_] = mix(hashes[open_] ^ (words[at[open_]] & kept))
        at[open_] += _WORD
        left[open_] -= _WORD
        open_ = open_[left[open_] > 0]
    return hashes


def rows_of_hashes(hashes: Hashes, rows: int) -> NDArray[np.int64]:
    """(n,) rows 1 to rows - 1."""
    return (hashes % np.uint64(rows - 1)).astype(np.int64) + 1
