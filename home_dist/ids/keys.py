"""Keys: ids of users, items and the like, as files hold them and as they are compared.

A key is a whole number or a text. A whole number may come in any type that holds it exactly: integers of every width, signed or
unsigned, booleans (0 and 1), decimals, and floats, which pandas makes of an integer column with a missing value. The key is the
same in each type: its 64 bits in two's complement. Unsigned 2^64 - 1 and signed -1 are thus one key, like the two readings of
one 64-bit hash.

Missing are only null and, in a column of floats, NaN. Negative numbers, 0 and the empty text are keys.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from home_dist.ids.arrow_numpy import filled, numpy_of, values_of
from home_dist.ids.arrow_types import is_number, is_text
from home_dist.ids.hashing import hash_texts
from home_dist.ids.no_group import NO_GROUP

KeyType = Literal["integer", "text"]

_WORDS = {"integer": "whole numbers", "text": "texts"}
_EXACT_BITS = {pa.float16(): 11, pa.float32(): 24, pa.float64(): 53}
"""Whole numbers up to 2^bits are exact in these types; beyond, several share one float."""


class NotKeys(ValueError):
    """Values that are no keys. problem: describes the first of them; bad: (n,), marks all."""

    def __init__(self, problem: str, bad: NDArray[np.bool_]):
        super().__init__(problem)
        self.problem, self.bad = problem, bad


def key_type(kind: pa.DataType) -> KeyType | None:
    """The type of the keys in a column of this Arrow type, None if it cannot hold keys. A column of nulls only could hold
    either; "integer" is returned."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if is_text(kind):
        return "text"
    return "integer" if is_number(kind) else None


def fits_key(kind: pa.DataType, wanted: KeyType) -> bool:
    """Whether a column of this type may hold such keys. For floats and decimals, the values decide (`as_keys`)."""
    return pa.types.is_null(kind) or key_type(kind) == wanted


def missing(keys: pa.Array) -> NDArray[np.bool_]:
    """(n,) whether each key, as returned by `as_keys`, is missing."""
    return numpy_of(keys.is_null())


def as_keys(values: pa.Array, kind: KeyType) -> pa.Array:
    """(n,) of any type that `fits_key` -> (n,) int64, or texts unchanged, dictionary-encoded ones included. Nulls stay.

    Raises NotKeys for floats and decimals that are no whole numbers, or too large to be exact in their type or in 64 bits.
    """
    if pa.types.is_null(values.type):
        return values.cast(pa.string() if kind == "text" else pa.int64())
    if not fits_key(values.type, kind):
        raise NotKeys(f"a column of type {values.type} holds no {_WORDS[kind]}", np.ones(len(values), np.bool_))
    if kind == "text":
        return values.cast(pa.string()) if pa.types.is_string_view(values.type) else values
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    if pa.types.is_floating(values.type):
        return _of_floats(values)
    if pa.types.is_decimal(values.type):
        return _of_decimals(values)
    if pa.types.is_uint64(values.type):
        return values.view(pa.int64())
    return values if pa.types.is_int64(values.type) else values.cast(pa.int64())


def _of_floats(values: pa.Array) -> pa.Array:
    numbers = values.to_numpy(zero_copy_only=False)  # NaN for null
    absent = np.isnan(numbers)
    bits = _EXACT_BITS[values.type]
    with np.errstate(invalid="ignore"):
        whole = np.where(absent, 0, numbers).astype(np.float64)
        bad = (whole != np.rint(whole)) | (np.abs(whole) > 2.0**bits)
    if bad.any():
        first = whole[bad][0]
        if not np.isfinite(first) or first != np.rint(first):
            raise NotKeys(f"{first:g} is no whole number", bad)
        raise NotKeys(f"{first:.0f} is beyond 2^{bits}, from where {values.type} rounds whole numbers: store integers", bad)
    return pa.array(whole.astype(np.int64), mask=absent)


def _of_decimals(values: pa.Array) -> pa.Array:
    for kind in (pa.int64(), pa.uint64()):
        try:
            whole = values.cast(kind)  # raises where it would round or overflow
        except pa.ArrowInvalid:
            continue
        return whole.view(pa.int64())
    # Negative numbers beside numbers from 2^63 on, or no keys: converted one by one, as such columns are rare.
    numbers = values.to_pylist()
    bad = np.array([v is not None and (v != v.to_integral_value() or not -(2**63) <= v < 2**64) for v in numbers], np.bool_)
    if bad.any():
        raise NotKeys(f"{numbers[int(np.argmax(bad))]} is no whole number of 64 bits", bad)
    return pa.array([None if v is None else (int(v) + 2**63) % 2**64 - 2**63 for v in numbers], pa.int64())


def key_numbers(keys: pa.Array) -> NDArray[np.int64]:
    """(n,) keys of `as_keys` as numbers, without a copy. A null's number is undefined."""
    return values_of(keys)


def codes(*columns: pa.Array) -> NDArray[np.int64]:
    """(n,) a number per distinct combination of keys (n,); -1 where any of them is missing."""
    combined, absent = np.zeros(len(columns[0]), np.int64), np.zeros(len(columns[0]), np.bool_)
    for column in columns:
        encoded = column.dictionary_encode()
        combined = combined * (len(encoded.dictionary) + 1) + filled(encoded.indices, 0)
        if len(columns) > 1:  # renumbered from 0, so that the next column cannot overflow
            combined = np.unique(combined, return_inverse=True)[1].astype(np.int64)
        absent |= missing(column)
    combined[absent] = -1
    return combined


def group_numbers(keys: Sequence[pa.Array], kind: KeyType) -> NDArray[np.int64]:
    """(n,) numbers, equal for equal keys: whole numbers themselves, 64-bit hashes of texts, NO_GROUP where missing. (The whole
    number -2^63 counts as -2^63 + 1.)"""
    parts = [np.zeros(0, np.int64)]
    for part in keys:
        if kind == "text":
            part = part.cast(part.type.value_type) if pa.types.is_dictionary(part.type) else part
            numbers = hash_texts(part, 0).view(np.int64)
        else:
            numbers = key_numbers(part)
        numbers = np.maximum(numbers, NO_GROUP + 1)
        parts.append(np.where(missing(part), NO_GROUP, numbers) if part.null_count else numbers)
    return np.concatenate(parts)
