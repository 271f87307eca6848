"""Data whose rows have requests, and can be told apart by number."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from home_dist.config import load_config
from home_dist.data import Batch, Reader, open_files
from home_dist.data.request_scan import find_requests
from home_dist.schema import build_layout
from tests.data.numbered import numbers
from tests.factory import make_config, make_rows, make_schema

SIZES = [[5, 1, 12, 3, 3, 7, 1, 1, 9, 2] * 4, [1] * 30 + [12, 11], [12, 4] * 9]
"""By file: sizes of its requests."""
GROUPS = (7, 600, 20)


class Prepared:
    """Training files whose rows are numbered by `age`, and the request of each row."""

    def __init__(
        self, folder: Path, sizes: Sequence[Sequence[int]], group_sizes: Sequence[int], column=pa.array, request="request_id"
    ):
        rows = sum(map(sum, sizes))
        table = make_rows(rows)
        table = table.set_column(table.schema.get_field_index("age"), "age", [np.arange(rows, dtype=np.float32)])
        first = [sum(len(x) for x in sizes[:n]) for n in range(len(sizes))]
        by_file = [np.repeat(np.arange(len(own)) + first[n], own) for n, own in enumerate(sizes)]
        self.request_of = np.concatenate(by_file)
        self.sizes = np.bincount(self.request_of).tolist()
        table = table.append_column("request_id", column(self.request_of))
        at = 0
        (folder / "train").mkdir(parents=True)
        for number, (own, group) in enumerate(zip(sizes, group_sizes, strict=True)):
            pq.write_table(table.slice(at, sum(own)), folder / "train" / f"part-{number}.parquet", row_group_size=group)
            at += sum(own)
        self.rows, self.schema = rows, make_schema()
        self.layout = build_layout(self.schema, load_config(make_config(folder, folder)))
        columns = (request,) if isinstance(request, str) else request
        self.files = open_files(folder / "train", self.schema, self.layout, columns)
        self.requests = find_requests(self.files)

    def reader(self, **changes) -> Reader:
        options = {"batch_size": 24, "seed": 3, "lanes": 4, "window_rows": 60, "requests": self.requests, **changes}
        return Reader(self.files, self.schema, self.layout, **options)

    def check(self, batches: Sequence[Batch]) -> list[int]:
        """That each request in them is whole, in order and in one batch. Returns the rows' numbers."""
        seen = []
        for batch in batches:
            own = numbers(batch)
            real = len(own)
            assert batch.mask.tolist() == [1] * real + [0] * (batch.size - real)
            at = 0
            while at < real:
                request = self.request_of[own[at]]
                first, size = int(np.searchsorted(self.request_of, request)), self.sizes[request]
                assert own[at : at + size] == list(range(first, first + size))
                assert len(set(batch.requests[at : at + size].tolist())) == 1
                at += size
            keys = batch.requests[:real].tolist()
            assert len(set(keys)) == len({self.request_of[n] for n in own})
            assert -1 not in keys
            assert (batch.requests[real:] == -1).all()
            seen += own
        return seen
