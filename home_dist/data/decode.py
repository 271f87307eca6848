"""Row groups, or slices of them -> the decoded rows of one window, without a Python loop over rows. Bad rows are left out if
the run skips them."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from home_dist.config.data import NegativesSection
from home_dist.data.bad_rows import BadRow, BadRowLog, shown
from home_dist.data.chunked import ChunkedColumns, Chunks
from home_dist.data.column_reader import BadRows, ColumnReader
from home_dist.data.decoded_rows import Columns, DecodedLists, DecodedRows
from home_dist.data.files import DataFiles
from home_dist.data.labels import read_durations, read_labels, read_teacher, refuse_durations, unusable_labels
from home_dist.data.negatives import positive
from home_dist.data.raw_rows import Heads, RawReader, RawRows
from home_dist.data.runs import Runs
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
        unknown_labels: bool = False,
        negatives: NegativesSection | None = None,
    ):
        """bad_rows: log of bad rows, which are then left out; without it they are errors. heads: see RawReader. unknown_labels:
        labels that are no values of their kind are taken as unknown. negatives: rows without a positive label are a
        share of all, and weigh as many."""
        self.request = files.request
        self.schema, self.layout, self.bad_rows = schema, layout, bad_rows
        self.columns = Columns.of(layout)
        self.raw = RawReader(files, sampler, heads)
        self.unknown_labels, self.negatives = unknown_labels, negatives

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
        labels, durations = self._labels(reader, weights), self._durations(reader, weights)
        group = self.schema.group_column
        small = ChunkedColumns([self._small(reader, i) for i in self.columns.small], starts)
        single = ChunkedColumns([reader.ids(i) for i in self.columns.single], starts)
        lists = tuple(reader.lists(items) for items in self.columns.lists)
        requests = reader.requests(self.request) if self.request else None
        runs = Runs.of(requests) if requests is not None and any(i.once for i in self.layout.inputs) else None
        if runs is not None:
            _refuse_differing(reader, runs, self.columns, small, single, lists)
        return DecodedRows(
            columns=self.columns,
            tasks=len(tasks),
            small=small,
            single=single,
            lists=lists,
            dense=reader.dense(self.layout.dense, self.layout.clip),
            vectors=tuple(reader.vectors(item) for item in self.layout.pretrained),
            labels=ChunkedColumns(labels, starts),
            weights=ChunkedColumns([[column] for column in weights.values()], starts),
            weighted=tuple(weights),
            groups=ChunkedColumns([] if group is None else [reader.groups(group)], starts),
            durations=ChunkedColumns(durations, starts),
            teachers=ChunkedColumns(
                [read_teacher(reader, c, labels[k], self.layout.labels[k].values) for k, c in self.layout.teachers.items()],
                starts,
            ),
            requests=ChunkedColumns([] if requests is None else [[requests]], starts),
            runs=runs,
        )

    def _labels(self, reader: ColumnReader, weights: dict[int, NDArray[np.float32]]) -> list[Chunks]:
        """Labels by task. If bad ones are to be taken as unknown, gives them weight 0 in `weights`, whatever else is there."""
        columns = []
        for i, (task, label) in enumerate(zip(self.schema.task, self.layout.labels, strict=True)):
            if self.unknown_labels:
                known = weights.get(i, np.ones(reader.rows, np.float32))
                weights[i] = np.where(unusable_labels(reader, task, label.values), np.float32(0), known)
            columns.append(read_labels(reader, task, weights.get(i), label.values))
        if self.negatives is not None:
            self._stand_for_others(self.negatives, columns, weights, reader.rows)
        return columns

    def _stand_for_others(
        self, section: NegativesSection, labels: list[Chunks], weights: dict[int, NDArray[np.float32]], rows: int
    ) -> None:
        """Gives rows without a positive label weight 1 / r in `weights`, but for the task whose logit is corrected."""
        tasks = [i for i, t in enumerate(self.schema.task) if t.name in section.tasks]
        happened = positive([np.concatenate(labels[i]) for i in tasks], [weights.get(i) for i in tasks])
        factor = np.where(happened, np.float32(1), np.float32(1 / section.keep))
        for i in range(len(labels)):
            if section.correct == "weight" or i not in tasks:
                weights[i] = weights.get(i, np.ones(rows, np.float32)) * factor

    def _durations(self, reader: ColumnReader, weights: dict[int, NDArray[np.float32]]) -> list[Chunks]:
        """Durations by column. Rows without one lose the labels that need it, if bad labels are taken as unknown."""
        columns: list[Chunks] = []
        for column in self.layout.durations:
            values, bad = read_durations(reader, column)
            users = [i for i, label in enumerate(self.layout.labels) if label.duration == column]
            if bad.any() and self.unknown_labels:
                weights |= {i: np.where(bad, np.float32(0), weights[i]) for i in users}
            elif bad.any():
                refuse_durations(reader, column, bad, [weights.get(i) for i in users])
            columns.append([values])
        return columns

    def _small(self, reader: ColumnReader, item: IdInput) -> Chunks:
        statistic = self.layout.statistics.get(item.key)
        return reader.ids(item) if statistic is None else [reader.buckets(statistic)]


def _refuse_differing(
    reader: ColumnReader,
    runs: Runs,
    columns: Columns,
    small: ChunkedColumns,
    single: ChunkedColumns,
    lists: Sequence[DecodedLists],
) -> None:
    """Raises BadRows for rows that differ from the first row of their request in an input that the request's rows share."""
    checked = [(i, i.column, small, n) for n, i in enumerate(columns.small)]
    checked += [(i, i.column, single, n) for n, i in enumerate(columns.single)]
    for items, decoded in zip(columns.lists, lists, strict=True):
        checked += [(i, i.column, decoded.values, n) for n, i in enumerate(items)]
        if decoded.weights is not None:
            checked.append((items[0], items[0].weights or items[0].column, decoded.weights, 0))
    for item, column, values, place in checked:
        if not item.once:
            continue
        bad = runs.differing(values, place)
        if bad.any():
            name = item.key.split("/")[0]
            problem = (
                f"differs from the first row of its request, but data.once_per_request names {name!r}. Leave the name out "
                "there, or correct the rows in the pipeline"
            )
            raise reader.fail(column, problem, bad, "differs from the first row of its request")


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
