"""Arrow arrays as numpy arrays: against Python lists, and without pandas."""

import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from home_dist.ids.arrow_numpy import filled, numpy_of, values_of
from home_dist.ids.keys import missing

KINDS = [pa.bool_(), pa.int8(), pa.uint64(), pa.float16(), pa.float32(), pa.float64()]


@given(st.sampled_from(KINDS), st.lists(st.sampled_from([0, 1, None]), max_size=40), st.integers(0, 9), st.integers(0, 40))
def test_slices_hold_what_lists_hold(kind, values, start, length):
    array = pa.array(values, pa.int8()).cast(pa.float32() if kind == pa.float16() else kind).cast(kind).slice(start, length)
    listed = values[start:][:length]
    known = [v is not None for v in listed]
    assert missing(array).tolist() == [not is_known for is_known in known]
    assert values_of(array)[known].tolist() == [v for v in listed if v is not None]
    assert filled(array, 7).tolist() == [7 if v is None else v for v in listed]
    if all(known):
        assert numpy_of(array).tolist() == listed
        assert numpy_of(array).dtype == kind.to_pandas_dtype()


def test_large_integers_are_exact():
    largest = [2**64 - 1, None, 2**63 + 1]
    assert values_of(pa.array(largest, pa.uint64()))[[0, 2]].tolist() == [2**64 - 1, 2**63 + 1]


def test_other_types_are_as_arrow_gives_them():
    assert numpy_of(pa.array(["a", None])).tolist() == ["a", None]
    assert np.array_equal(values_of(pa.array([1.5, None]).dictionary_encode()), [1.5, np.nan], equal_nan=True)


@pytest.mark.parametrize("read", ["values", "lists", "texts"])
def test_training_reads_rows_without_pandas(tmp_path, read):
    columns = {
        "values": pa.array([1.5, None, 2.5]),
        "lists": pa.array([[1], None, [2, 3]]),
        "texts": pa.array(["a", None, "b"]),
    }
    pq.write_table(pa.table(columns), tmp_path / "rows.parquet")
    by = {
        "values": "from home_dist.data.arrow_arrays import floats_of; floats_of(column, 0.0)",
        "lists": "from home_dist.ids.arrow_numpy import filled; filled(pc.list_value_length(column), 0)",
        "texts": "from home_dist.data.request_keys import key_hashes; key_hashes(column)",
    }[read]
    script = f"""
import sys, pyarrow.compute as pc, pyarrow.parquet as pq
[batch] = pq.ParquetFile({str(tmp_path / "rows.parquet")!r}).iter_batches()
column = batch.column({read!r})
{by}
print("pandas" in sys.modules)
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ended.stdout.split() == ["False"], ended.stderr
