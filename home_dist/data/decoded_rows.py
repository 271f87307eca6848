"""Decoded rows in arrays that batches are cut from, and the place of each input in them."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from home_dist.data.buffers import Buffers
from home_dist.data.chunked import ChunkedColumns
from home_dist.data.runs import Runs
from home_dist.schema import IdInput, InputLayout


@dataclass(frozen=True)
class Lists:
    """Columns whose lists are equally long in each row, such as the fields of one history. Inputs with `once` have a list per
    run, not per row.

    offsets: (rows + 1,) int64; values: (n,) int32 or int64 per column; weights: (n,) float32, of a weighted feature.
    """

    offsets: NDArray[np.int64]
    values: tuple[NDArray, ...]
    weights: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Vectors:
    """A pre-trained feature. values: (rows, width) float32; for a frozen table (rows,) positions in it, -1 where missing.

    missing: (rows,).
    """

    values: NDArray
    missing: NDArray[np.bool_]


@dataclass(frozen=True)
class Rows:
    """Permuted rows. Columns of `small`, `single` and `lists` are in the order of `Columns`."""

    small: NDArray
    """(rows, columns) int32 or int64"""
    single: NDArray
    """(columns, rows) int32 or int64"""
    lists: tuple[Lists, ...]
    dense: NDArray[np.float32]
    """(rows, width)"""
    vectors: tuple[Vectors, ...]
    labels: NDArray[np.float32]
    """(rows, tasks)"""
    weights: NDArray[np.float32] | None
    """(rows, tasks); None: all are 1."""
    groups: NDArray[np.int64]
    durations: NDArray[np.float32]
    """(rows, columns)"""
    teachers: NDArray[np.float32]
    """(rows, T)"""
    requests: NDArray[np.int64]
    """Keys of the rows' requests; (0,) without `data.request`."""
    runs: NDArray[np.int32] | None = None
    """(rows,): the run of each row, numbered from 0 (runs.py); None without `data.once_per_request`."""

    def __len__(self) -> int:
        return len(self.groups)


@dataclass(frozen=True)
class DecodedLists:
    values: ChunkedColumns
    weights: ChunkedColumns | None

    def take(self, order: NDArray[np.int64], dtype: type, empty: Callable[..., NDArray] = np.empty) -> Lists:
        offsets = self.values.offsets_of(order)
        values = tuple(empty((int(offsets[-1]),), dtype) for _ in range(len(self.values)))
        self.values.gather(order, values)
        weights: NDArray[np.float32] | None = None
        if self.weights is not None:
            weights = empty((int(offsets[-1]),), np.float32)
            self.weights.gather(order, [weights])
        return Lists(offsets, values, weights)


@dataclass(frozen=True)
class DecodedRows:
    """A window's rows in the memory where they were read: checked, but neither copied nor permuted yet."""

    columns: "Columns"
    tasks: int
    small: ChunkedColumns
    single: ChunkedColumns
    lists: tuple[DecodedLists, ...]
    dense: NDArray[np.float32]
    vectors: tuple[Vectors, ...]
    labels: ChunkedColumns
    weights: ChunkedColumns
    weighted: tuple[int, ...]
    """The tasks that have a column of weights."""
    groups: ChunkedColumns
    durations: ChunkedColumns
    teachers: ChunkedColumns
    requests: ChunkedColumns
    runs: Runs | None = None

    def take(self, order: NDArray[np.int64], buffers: Buffers) -> Rows:
        """Permutes rows: those at indices `order`, in this order. It is the only copy between Parquet's decoder and a batch."""
        rows = len(order)
        small: NDArray = buffers.empty((rows, len(self.small)), _dtype(self.columns.small))
        self.small.gather(order, list(small.T))
        single: NDArray = buffers.empty((len(self.single), rows), _dtype(self.columns.single))
        self.single.gather(order, list(single))
        labels: NDArray[np.float32] = buffers.empty((rows, self.tasks), np.float32)
        self.labels.gather(order, list(labels.T))
        weights: NDArray[np.float32] | None = None
        if self.weighted:
            weights = np.ones((rows, self.tasks), np.float32)
            self.weights.gather(order, [weights[:, task] for task in self.weighted])
        groups = np.zeros(rows, np.int64)
        self.groups.gather(order, [groups] * len(self.groups))
        durations: NDArray[np.float32] = buffers.empty((rows, len(self.durations)), np.float32)
        self.durations.gather(order, list(durations.T))
        teachers: NDArray[np.float32] = buffers.empty((rows, len(self.teachers)), np.float32)
        self.teachers.gather(order, list(teachers.T))
        requests = np.zeros(rows if len(self.requests) else 0, np.int64)
        self.requests.gather(order, [requests] * len(self.requests))
        dense = buffers.empty((rows, self.dense.shape[1]), np.float32)
        np.take(self.dense, order, axis=0, out=dense, mode="clip")  # `order` is valid; only with a mode is there no copy
        runs, firsts = (None, order) if self.runs is None else self.runs.taken(order)
        orders = [firsts if items[0].once else order for items in self.columns.lists]
        return Rows(
            small=small,
            single=single,
            lists=tuple(
                x.take(o, _dtype(c), buffers.empty) for x, c, o in zip(self.lists, self.columns.lists, orders, strict=True)
            ),
            dense=dense,
            vectors=tuple(Vectors(np.take(v.values, order, axis=0), v.missing[order]) for v in self.vectors),
            labels=labels,
            weights=weights,
            groups=groups,
            durations=durations,
            teachers=teachers,
            requests=requests,
            runs=runs,
        )


@dataclass(frozen=True)
class Columns:
    """The place of each input in `Rows`."""

    small: tuple[IdInput, ...]
    single: tuple[IdInput, ...]
    """One id per sample, for sharded tables."""
    lists: tuple[tuple[IdInput, ...], ...]
    """Groups of list columns with common offsets: one per sequence, one per multi-valued feature."""

    @staticmethod
    def of(layout: InputLayout) -> "Columns":
        single = tuple(i for i in layout.features if not i.is_list and i.place != "small")
        histories = tuple(tuple(e.field for e in s.fields) for s in layout.sequences)
        features = tuple((i,) for i in layout.features if i.is_list)
        return Columns(layout.at("small"), single, (*histories, *features))


def _dtype(items: tuple[IdInput, ...]) -> type:
    """Type for the ids of these inputs. Ids of managed tables are hashes of 64 bits."""
    small = all(i.declared_rows <= 2**31 and i.table.managed is None for i in items)
    return np.int32 if small else np.int64
