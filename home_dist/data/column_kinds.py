"""Kinds of values that a use of a column needs. A column with several uses must fit each of them."""

import pyarrow as pa

from home_dist.ids.arrow_types import is_list, is_number
from home_dist.ids.keys import fits_key, key_type

KINDS = {
    "integer": "whole numbers",
    "integers": "lists of whole numbers",
    "text": "texts",
    "texts": "lists of texts",
    "key": "whole numbers or texts",
    "number": "numbers",
    "numbers": "lists of numbers",
}


def fits(kind: pa.DataType, wanted: str) -> bool:
    """Whether a column of this Arrow type may hold the kind. wanted: a key of KINDS. For floats and decimals as whole numbers
    the values decide, when they are read."""
    if wanted in ("integers", "numbers", "texts"):
        return pa.types.is_null(kind) or (is_list(kind) and fits(kind.value_type, wanted[:-1]))
    if wanted == "key":
        return key_type(kind) is not None
    if wanted == "text":
        return fits_key(kind, "text")
    return fits_key(kind, "integer") if wanted == "integer" else is_number(kind)
