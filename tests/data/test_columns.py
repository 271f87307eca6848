"""What is asked of a file's columns."""

import pyarrow as pa
import pytest

from home_dist.data.files import check_columns
from home_dist.errors import DataError


def test_a_column_that_stands_twice_is_not_called_missing():
    schema = pa.schema([("user", pa.int64()), ("item", pa.int64()), ("user", pa.int64())])
    check_columns("a.parquet", schema, {"item": ["integer"]})
    with pytest.raises(DataError, match=r"a\.parquet: 2 columns are called 'user'; the schema needs one"):
        check_columns("a.parquet", schema, {"user": ["integer"]})
