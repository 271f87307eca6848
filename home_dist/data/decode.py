"""Row groups, or slices of them -> the decoded rows of one window, without a Python loop over rows. Bad rows are left out if
the run skips them."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from home_dist.data.bad_rows import BadRow, BadRowLog, shown
from home_dist.data.chunked import ChunkedColumns, Chunks
from home_dist.data.column_reader import BadRows, ColumnReader
from home_dist.data.decoded_rows import Columns, DecodedRows
from home_dist.data.files import DataFiles
from home_dist.data.raw_rows import Heads, RawReader, RawRows
from home_dist.data.sampling import Sampler
from home_dist.schema import IdInput, InputLayout, Schema


@dataclass(frozen=True)
class WindowRows:
    rows: DecodedRows
    kept: NDArray[np.int64] | None = None
    """Indices of `rows` among all rows that were read; None: all of them."""
    bad: dict[int, BadRow] = field(default_factory=dict)
    """The bad rows, by index among all rows that were read."""


class Decoder:
    """Reads row groups, or slices of them, of one split. Raises DataError, which names file, column and row."""

    def __init__(
        self,
        files: DataFiles,
        schema: Schema,
        layout: InputLayout,
        sampler: Sampler | None = None,
        bad_rows: BadRowLog | None = None,
        heads: Heads | None = None,
    ):
        """bad_rows: log of bad rows, which are then left out; without it they are errors. heads: see RawReader."""
        self.request = files.request
        self.schema, self.layout, self.bad_rows = schema, layout, bad_rows
        self.columns = Columns.of(layout)
        self.raw = RawReader(files, sampler, heads)

    def decode(self, raw: Sequence[RawRows]) -> WindowRows:
        """Decodes raw rows, one row group after another."""
        kept: NDArray[np.int64] | None = None
        bad: dict[int, BadRow] = {}
        while True:
            try:
                return WindowRows(self._decode(ColumnReader(raw)), kept, bad)
            except BadRows as error:
                if self.bad_rows is None:
                    raise
                if kept is None:
                    kept = np.arange(len(error.bad))
                bad |= zip(kept[error.bad].tolist(), _described(raw, error), strict=True)
                # The remaining rows are decoded anew. Bad rows are few.
                bounds = np.cumsum([r.table.num_rows for r in raw])[:-1]
                raw = [r.only(good) for r, good in zip(raw, np.split(~error.bad, bounds), strict=True)]
                kept = kept[~error.bad]

    def _decode(self, reader: ColumnReader) -> DecodedRows:
        starts, tasks = reader.starts, self.schema.task
        weights = {i: reader.weights(t.weight_column) for i, t in enumerate(tasks) if t.weight_column is not None}
        group = self.schema.group_column
        return DecodedRows(
            columns=self.columns,
            tasks=len(tasks),
            small=ChunkedColumns([self._small(reader, i) for i in self.columns.small], starts),
            single=ChunkedColumns([reader.ids(i) for i in self.columns.single], starts),
            lists=tuple(reader.lists(items) for items in self.columns.lists),
            dense=reader.dense(self.layout.dense, self.layout.clip),
            vectors=tuple(reader.vectors(item) for item in self.layout.pretrained),
            labels=ChunkedColumns([reader.labels(t.column, weights.get(i)) for i, t in enumerate(tasks)], starts),
            weights=ChunkedColumns([[column] for column in weights.values()], starts),
            weighted=tuple(weights),
            groups=ChunkedColumns([] if group is None else [reader.groups(group)], starts),
            requests=ChunkedColumns([[reader.requests(self.request)]] if self.request else [], starts),
        )

    def _small(self, reader: ColumnReader, item: IdInput) -> Chunks:
        statistic = self.layout.statistics.get(item.key)
        return reader.ids(item) if statistic is None else [reader.buckets(statistic)]


def _described(raw: Sequence[RawRows], error: BadRows) -> list[BadRow]:
    rows, at = [], 0
    for group_rows in raw:
        bad = np.flatnonzero(error.bad[at : at + group_rows.table.num_rows])
        values = group_rows.table.column(error.column).take(bad).to_pylist()
        rows += [
            BadRow(group_rows.path, group_rows.group.group, group_rows.row(int(i)), error.column, error.problem, shown(value))
            for i, value in zip(bad, values, strict=True)
        ]
        at += group_rows.table.num_rows
    return rows
