"""Parquet row groups -> checked arrays of one window, column by column, without a Python loop over rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from home_dist.data.files import DataFiles, open_parquet
from home_dist.data.order import RowGroup
from home_dist.errors import DataError
from home_dist.schema import DenseFeature, IdInput, InputLayout, PretrainedInput, Schema, StatisticFeature


@dataclass(frozen=True)
class Lists:
    """Columns whose lists are equally long in each row, as for the fields of one history.

    offsets: (rows + 1,) int64; values: (n, columns) int64; weights: (n,) float32 of a weighted feature.
    """

    offsets: NDArray[np.int64]
    values: NDArray[np.int64]
    weights: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Vectors:
    """A pre-trained feature. values: (rows, width) float32, or, of a frozen table, (rows,) its positions, -1 where missing.

    missing: (rows,).
    """

    values: NDArray
    missing: NDArray[np.bool_]


@dataclass(frozen=True)
class Rows:
    """Decoded rows. Columns of `small`, `single` and `lists` are in the order of `Columns`."""

    small: NDArray[np.int64]
    single: NDArray[np.int64]
    lists: tuple[Lists, ...]
    dense: NDArray[np.float32]
    vectors: tuple[Vectors, ...]
    labels: NDArray[np.float32]
    weights: NDArray[np.float32]
    groups: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.groups)


@dataclass(frozen=True)
class Columns:
    """Where each input stands in `Rows`."""

    small: tuple[IdInput, ...]
    single: tuple[IdInput, ...]
    """One id per sample, for sharded tables."""
    lists: tuple[tuple[IdInput, ...], ...]
    """Groups of list columns with common offsets: one per sequence, one per multi-valued feature."""

    @staticmethod
    def of(layout: InputLayout) -> "Columns":
        single = tuple(i for i in layout.features if not i.is_list and i.place != "small")
        together = tuple(tuple(e.field for e in s.fields) for s in layout.sequences)
        alone = tuple((i,) for i in layout.features if i.is_list)
        return Columns(layout.at("small"), single, (*together, *alone))


class Decoder:
    """Reads row groups of one split. Raises DataError naming file, column and row."""

    def __init__(self, files: DataFiles, schema: Schema, layout: InputLayout):
        self.files, self.schema, self.layout = files, schema, layout
        self.columns = Columns.of(layout)

    def read(self, groups: Sequence[RowGroup]) -> Rows:
        """The rows of the given row groups, one after another."""
        parts = [self._decode(_Source(self.files.paths[g.file], self._table(g))) for g in groups]
        if len(parts) == 1:
            return parts[0]
        return Rows(
            small=np.concatenate([p.small for p in parts]),
            single=np.concatenate([p.single for p in parts]),
            lists=tuple(_join([p.lists[i] for p in parts]) for i in range(len(self.columns.lists))),
            dense=np.concatenate([p.dense for p in parts]),
            vectors=tuple(_join_vectors([p.vectors[i] for p in parts]) for i in range(len(self.layout.pretrained))),
            labels=np.concatenate([p.labels for p in parts]),
            weights=np.concatenate([p.weights for p in parts]),
            groups=np.concatenate([p.groups for p in parts]),
        )

    def _table(self, group: RowGroup) -> pa.Table:
        path = self.files.paths[group.file]
        try:
            file = open_parquet(path, self.files.dictionaries)
            return file.read_row_group(group.group, columns=list(self.files.columns), use_threads=False)
        except (pa.ArrowInvalid, OSError) as error:
            reason = str(error).splitlines()[0]
            raise DataError(
                f"{path}: row group {group.group} cannot be read, the file may be damaged ({reason}). Write the file again."
            ) from None

    def _decode(self, source: "_Source") -> Rows:
        count = source.table.num_rows
        small = np.empty((count, len(self.columns.small)), np.int64)
        for index, item in enumerate(self.columns.small):
            statistic = self.layout.statistics.get(item.key)
            small[:, index] = source.buckets(statistic) if statistic else source.ids(item)
        single = np.empty((count, len(self.columns.single)), np.int64)
        for index, item in enumerate(self.columns.single):
            single[:, index] = source.ids(item)
        return Rows(
            small=small,
            single=single,
            lists=tuple(source.lists(items) for items in self.columns.lists),
            dense=self._dense(source),
            vectors=tuple(source.vectors(item) for item in self.layout.pretrained),
            labels=np.stack([source.labels(t.column) for t in self.schema.task], 1),
            weights=np.stack([source.weights(t.weight_column) for t in self.schema.task], 1),
            groups=source.groups(self.schema.group_column),
        )

    def _dense(self, source: "_Source") -> NDArray[np.float32]:
        dense = np.empty((source.table.num_rows, self.layout.dense_width), np.float32)
        at = 0
        for feature in self.layout.dense:
            width = feature.width if isinstance(feature, DenseFeature) else 1
            dense[:, at : at + width] = source.standardised(feature)
            at += width
        return dense


class _Source:
    """One row group's table, with the file's name for messages."""

    def __init__(self, path: str, table: pa.Table):
        self.path, self.table = path, table
        self._read: dict[str, pa.Array] = {}

    def column(self, name: str) -> pa.Array:
        if name not in self._read:
            chunked = self.table.column(name)
            self._read[name] = chunked.chunk(0) if chunked.num_chunks == 1 else chunked.combine_chunks()
        return self._read[name]

    def fail(self, column: str, problem: str, bad: NDArray[np.bool_] | None = None) -> DataError:
        first = "" if bad is None else f" (first in row {int(np.argmax(bad))} of its row group; {int(bad.sum())} in all)"
        return DataError(f"{Path(self.path)}: column {column!r}: {problem}{first}")

    def _without_nulls(self, name: str) -> pa.Array:
        values = self.column(name)
        if values.null_count:
            raise self.fail(name, "null where a value is needed. Fill it in the pipeline", np.asarray(values.is_null()))
        return values

    def ids(self, item: IdInput) -> NDArray[np.int64]:
        """(rows,)"""
        if item.rows_of is not None:
            return _kept(item, item.rows_of(self.column(item.column)))
        return self._checked_ids(item, _numpy(self._without_nulls(item.column)).astype(np.int64, copy=False))

    def _checked_ids(self, item: IdInput, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        if len(ids) and (ids.min() < 0 or ids.max() >= item.declared_rows):
            bad = (ids < 0) | (ids >= item.declared_rows)
            raise self.fail(
                item.column,
                f"id {int(ids[bad][0])} is outside of table {item.table.name!r}, whose rows are 0 to {item.declared_rows - 1}. "
                "Correct the table's rows in the schema or prepare the data again",
                bad,
            )
        return _kept(item, ids)

    def lists(self, items: tuple[IdInput, ...]) -> Lists:
        offsets, flat = None, []
        for item in items:
            own, values = self._flat(item.column, nulls=item.rows_of is not None)
            if offsets is None:
                offsets = own
            elif not np.array_equal(own, offsets):
                problem = f"its lists differ in length from those of {items[0].column!r}, with which it forms a history"
                raise self.fail(item.column, problem, np.diff(own) != np.diff(offsets))
            if item.rows_of is not None:
                flat.append(_kept(item, item.rows_of(values)))
            else:
                flat.append(self._checked_ids(item, _numpy(values).astype(np.int64, copy=False)))
        if offsets is None:
            raise ValueError("a group of list columns has at least one column")
        weights = None if items[0].weights is None else self._list_weights(items[0].weights, items[0].column, offsets)
        return Lists(offsets, np.stack(flat, 1), weights)

    def _flat(self, name: str, nulls: bool) -> tuple[NDArray[np.int64], pa.Array]:
        """A list column's offsets from 0 on, (rows + 1,), and its values; with `nulls`, a list may be null, which counts as an
        empty one, and so may be a value."""
        array = self.column(name) if nulls else self._without_nulls(name)
        if pa.types.is_fixed_size_list(array.type):
            array = array.cast(pa.list_(array.type.value_type))
        # flatten() leaves out what lies under null lists and respects a sliced array's own offset, unlike .offsets and .values.
        lengths = _numpy(pc.fill_null(pc.list_value_length(array), 0)).astype(np.int64)
        offsets, values = np.concatenate([[0], np.cumsum(lengths)]), array.flatten()
        if values.null_count and not nulls:
            bad = np.zeros(len(array), bool)
            bad[np.searchsorted(offsets, np.flatnonzero(np.asarray(values.is_null())), side="right") - 1] = True
            raise self.fail(name, "null within a list. Drop it in the pipeline", bad)
        return offsets, values

    def _list_weights(self, name: str, ids: str, offsets: NDArray[np.int64]) -> NDArray[np.float32]:
        own, values = self._flat(name, nulls=True)
        if not np.array_equal(own, offsets):
            problem = f"its lists differ in length from those of {ids!r}, which they weight"
            raise self.fail(name, problem, np.diff(own) != np.diff(offsets))
        weights = _numpy(pc.fill_null(values, float("nan"))).astype(np.float32)
        if not np.isfinite(weights).all():
            bad = np.zeros(len(offsets) - 1, bool)
            bad[np.searchsorted(offsets, np.flatnonzero(~np.isfinite(weights)), side="right") - 1] = True
            raise self.fail(name, "a weight is NaN, null or infinite. Correct it in the pipeline", bad)
        return weights

    def buckets(self, feature: StatisticFeature) -> NDArray[np.int64]:
        """(rows,): 0 for null, else 1 + the number of boundaries that are not above the value."""
        values, missing = self._finite_or_null(feature.column)
        bucket = np.searchsorted(np.asarray(feature.boundaries), values, side="right") + 1
        bucket[missing] = 0
        return bucket

    def _finite_or_null(self, name: str) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Values with 0 where null, and where that is."""
        array = self.column(name)
        missing = np.asarray(array.is_null())
        values = _numpy(pc.fill_null(array, False if pa.types.is_boolean(array.type) else 0)).astype(np.float64)
        finite = np.isfinite(values)
        if not finite.all():
            raise self.fail(name, "NaN or infinite. Write null where a value is not known", ~finite)
        return values, missing

    def standardised(self, feature: DenseFeature | StatisticFeature) -> NDArray[np.float32]:
        """(rows, width)"""
        if isinstance(feature, DenseFeature) and feature.width > 1:
            values = self._wide(feature)
        elif isinstance(feature, DenseFeature):
            self._without_nulls(feature.column)
            values = self._finite_or_null(feature.column)[0][:, None]
        else:
            values, missing = self._finite_or_null(feature.column)
            values = np.where(missing, feature.mean, values)[:, None]
        return ((values - np.asarray(feature.mean)) / np.asarray(feature.std)).astype(np.float32)

    def _wide(self, feature: DenseFeature) -> NDArray[np.float64]:
        array = self._without_nulls(feature.column)
        lengths = np.asarray(pc.list_value_length(array))
        if (lengths != feature.width).any():
            raise self.fail(feature.column, f"lists of {feature.width} numbers are needed", lengths != feature.width)
        flat = array.flatten()
        values = _numpy(pc.fill_null(flat, float("nan"))).astype(np.float64).reshape(-1, feature.width)
        bad = np.asarray(~np.isfinite(values).all(axis=1))
        if bad.any():
            raise self.fail(feature.column, "NaN, null or infinite. Fill it in the pipeline", bad)
        return values

    def vectors(self, item: PretrainedInput) -> Vectors:
        array = self.column(item.column)
        if item.frozen is not None:
            positions = item.frozen.positions(array)
            return Vectors(positions, positions < 0)
        missing = np.asarray(array.is_null())
        lengths = np.asarray(pc.fill_null(pc.list_value_length(array), item.width))
        if (lengths != item.width).any():
            raise self.fail(item.column, f"lists of {item.width} numbers, or null, are needed", lengths != item.width)
        values = np.zeros((len(array), item.width), np.float32)
        flat = array.flatten()  # without what lies under null lists
        values[~missing] = _numpy(pc.fill_null(flat.cast(pa.float32()), float("nan"))).reshape(-1, item.width)
        bad = np.asarray(~np.isfinite(values).all(axis=1))
        if bad.any():
            raise self.fail(item.column, "NaN, null or infinite within a vector. Write null for the whole vector", bad)
        return Vectors(values, missing)

    def labels(self, name: str) -> NDArray[np.float32]:
        values = _numpy(self._without_nulls(name)).astype(np.float32)
        bad = (values != 0) & (values != 1)
        if bad.any():
            problem = f"label {values[bad][0]:g} is neither 0 nor 1. Correct the label rule in the pipeline"
            raise self.fail(name, problem, bad)
        return values

    def weights(self, name: str | None) -> NDArray[np.float32]:
        if name is None:
            return np.ones(self.table.num_rows, np.float32)
        values = _numpy(self._without_nulls(name)).astype(np.float32)
        bad = ~(np.isfinite(values) & (values >= 0))
        if bad.any():
            raise self.fail(name, "a label weight is negative or not finite. Use 0 where there is no label", bad)
        return values

    def groups(self, name: str | None) -> NDArray[np.int64]:
        if name is None:
            return np.zeros(self.table.num_rows, np.int64)
        return _numpy(self._without_nulls(name)).astype(np.int64, copy=False)


def _kept(item: IdInput, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Without the tail that the run cuts off the table."""
    return np.where(rows < item.table.rows, rows, 0) if item.table.rows < item.declared_rows else rows


def _numpy(array: pa.Array) -> NDArray:
    # Booleans are bits in Arrow and always need a copy.
    return array.to_numpy(zero_copy_only=False)


def _join_vectors(parts: Sequence[Vectors]) -> Vectors:
    return Vectors(np.concatenate([p.values for p in parts]), np.concatenate([p.missing for p in parts]))


def _join(parts: Sequence[Lists]) -> Lists:
    starts = np.cumsum([0] + [len(p.values) for p in parts[:-1]])
    offsets = [parts[0].offsets[:1]] + [p.offsets[1:] + start for p, start in zip(parts, starts, strict=True)]
    weights = [p.weights for p in parts if p.weights is not None]
    return Lists(
        np.concatenate(offsets), np.concatenate([p.values for p in parts]), np.concatenate(weights) if weights else None
    )
