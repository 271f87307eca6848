"""Data whose requests share the user's columns."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.factory import make_rows

SHARED = ("user", "tab", "tags", "levels", "watched_video", "watched_level", "user_key")
"""Columns that are the same in all rows of a request."""
ONCE = ("user", "tab", "tags", "levels", "watched")
"""The same as names of features and histories."""


def make_shared(sizes: Sequence[int], seed: int = 0) -> pa.Table:
    """Rows of requests of these sizes, numbered by `age`; the column `request_id` tells them apart."""
    table = make_rows(sum(sizes), seed)
    request_of = np.repeat(np.arange(len(sizes)), sizes)
    firsts = (np.cumsum(sizes) - np.asarray(sizes))[request_of]
    for name in SHARED:
        table = table.set_column(table.schema.get_field_index(name), name, table.column(name).take(firsts))
    table = table.set_column(table.schema.get_field_index("age"), "age", [np.arange(len(table), dtype=np.float32)])
    return table.append_column("request_id", pa.array(request_of))


def write_shared(folder: Path, sizes: Sequence[int], row_group: int, seed: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(make_shared(sizes, seed), folder / "part-0.parquet", row_group_size=row_group)
