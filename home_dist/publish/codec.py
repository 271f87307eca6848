"""Rows of tables as bytes: fp32, fp16, or int8 with a scale and a lowest value per row. docs/publish.md has the layout.

int8 is as in FBGEMM, Caffe2 and export/scorer.py: value = code * scale + lowest, with codes of 0 to 255, scale = (greatest -
lowest) / 255, both in fp32. `error_bound` tells how far a decoded value may be from the value that was given.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from home_dist.config.publish import RowType

VALUES: dict[RowType, np.dtype[Any]] = {"fp32": np.dtype("<f4"), "fp16": np.dtype("<f2"), "int8": np.dtype("u1")}
"""What stands in a file per value."""
SCALES = np.dtype("<f4")
_LARGEST_FP16 = 65504.0
_LEAST_SCALE = np.float32(1e-30)
Floats = NDArray[np.float32]


class NotEncodable(ValueError):
    """Rows with values that the type of rows cannot hold. row: the first of them."""

    def __init__(self, row: int, problem: str):
        super().__init__(problem)
        self.row, self.problem = row, problem


@dataclass(frozen=True)
class EncodedRows:
    values: NDArray[Any]
    """(n, columns)"""
    scales: NDArray[np.float32] | None
    """(n, 2) of int8: scale and lowest value of each row; None of others."""


def encode(rows: Floats, kind: RowType) -> EncodedRows:
    """rows: (n, columns). Raises NotEncodable for values that are not finite, or too large, unless they are kept in fp32."""
    if kind == "fp32":
        return EncodedRows(np.ascontiguousarray(rows, VALUES[kind]), None)
    largest = np.abs(rows).max(1, initial=0)
    if kind == "fp16":
        _refuse(~(largest <= _LARGEST_FP16), largest, "fp16 holds numbers up to 65504")
        return EncodedRows(rows.astype(VALUES[kind]), None)
    lowest = rows.min(1, initial=np.inf, keepdims=True)
    with np.errstate(over="ignore", invalid="ignore"):
        scale = np.maximum((rows.max(1, initial=-np.inf, keepdims=True) - lowest) / np.float32(255), _LEAST_SCALE)
    _refuse(~np.isfinite(scale[:, 0]) | ~np.isfinite(largest), largest, "int8 holds finite numbers of a finite range")
    codes = np.clip(np.rint((rows - lowest) / scale), 0, 255).astype(VALUES[kind])
    return EncodedRows(codes, np.ascontiguousarray(np.concatenate([scale, lowest], 1), SCALES))


def _refuse(bad: NDArray[np.bool_], largest: Floats, reason: str) -> None:
    if bad.any():
        row = int(np.argmax(bad))
        raise NotEncodable(row, f"its largest value is {largest[row]:g}, but {reason}")


def decode(values: NDArray[Any], scales: NDArray[Any] | None) -> Floats:
    """(n, columns) float32."""
    if scales is None:
        return values.astype(np.float32)
    return values.astype(np.float32) * scales[:, :1] + scales[:, 1:]


def error_bound(rows: Floats, kind: RowType) -> NDArray[np.float64]:
    """(n, 1), how far values of a decoded row may be from those given: 0 for fp32; for fp16 2^-11 of the row's largest value,
    at least 2^-25; for int8 half of the row's scale, and 2^-22 of its largest value for rounding in fp32."""
    largest = np.abs(rows.astype(np.float64)).max(1, keepdims=True, initial=0)
    if kind == "fp32":
        return np.zeros_like(largest)
    if kind == "fp16":
        return np.maximum(largest * 2.0**-11, 2.0**-25)
    wide = rows.astype(np.float64)
    span = wide.max(1, keepdims=True, initial=-np.inf) - wide.min(1, keepdims=True, initial=np.inf)
    return np.maximum(span / 255, 1e-30) / 2 + largest * 2.0**-22
