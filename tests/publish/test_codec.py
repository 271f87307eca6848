"""Rows as bytes: fp32 bit for bit; fp16 and int8 within the documented bound, against arithmetic in float64."""

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from home_dist.publish.codec import NotEncodable, decode, encode, error_bound

SHAPES = st.tuples(st.integers(1, 5), st.integers(1, 9))
ANY = st.floats(width=32)
HALVES = st.floats(-65504, 65504, width=32)
WIDE = st.floats(-(2.0**126), 2.0**126, width=32)


@given(hnp.arrays(np.float32, SHAPES, elements=ANY))
def test_fp32_keeps_every_bit(rows):
    encoded = encode(rows, "fp32")
    assert encoded.values.dtype == np.dtype("<f4")
    assert encoded.scales is None
    assert decode(encoded.values, None).tobytes() == rows.tobytes()


@given(hnp.arrays(np.float32, SHAPES, elements=HALVES))
def test_fp16_is_within_its_bound(rows):
    encoded = encode(rows, "fp16")
    difference = np.abs(decode(encoded.values, encoded.scales).astype(np.float64) - rows)
    assert (difference <= error_bound(rows, "fp16")).all()


@given(hnp.arrays(np.float32, SHAPES, elements=WIDE))
def test_int8_is_within_its_bound(rows):
    encoded = encode(rows, "int8")
    assert encoded.values.dtype == np.uint8
    assert encoded.scales.shape == (len(rows), 2)
    codes, scales = encoded.values.astype(np.float64), encoded.scales.astype(np.float64)
    found = codes * scales[:, :1] + scales[:, 1:]
    bound = error_bound(rows, "int8")
    assert (np.abs(found - rows) <= bound).all()
    assert (np.abs(decode(encoded.values, encoded.scales).astype(np.float64) - rows) <= bound).all()


def test_int8_bytes_are_as_documented():
    encoded = encode(np.array([[-1.0, 0.0, 254.0], [3.0, 3.0, 3.0]], np.float32), "int8")
    assert encoded.values.tolist() == [[0, 1, 255], [0, 0, 0]]
    np.testing.assert_array_equal(encoded.scales, np.array([[1.0, -1.0], [1e-30, 3.0]], np.float32))
    assert encode(np.zeros((0, 4), np.float32), "int8").values.shape == (0, 4)


@pytest.mark.parametrize(
    ("kind", "value"), [("fp16", 65520), ("fp16", np.nan), ("int8", np.inf), ("int8", np.nan), ("int8", 3e38)]
)
def test_what_a_type_cannot_hold_is_refused_by_row(kind, value):
    rows = np.ones((3, 2), np.float32)
    rows[1, 0], rows[1, 1] = value, -value
    with pytest.raises(NotEncodable) as refused:
        encode(rows, kind)
    assert refused.value.row == 1
    encode(rows, "fp32")
