"""Parquet row groups -> checked arrays of one window, column by column, without a Python loop over rows.

Numbers stay where they were read, in the type that the file has: they are checked here, and copied when the rows are permuted.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from home_dist.data.bad_rows import BadRow, BadRowLog, shown
from home_dist.data.files import DataFiles
from home_dist.data.gather import Block, Cut, Pieces
from home_dist.data.parts import Part, PartReader
from home_dist.data.rows import Columns, DecodedLists, DecodedRows, Vectors
from home_dist.data.sampling import Sampler
from home_dist.data.statistic import buckets, standardise
from home_dist.errors import DataError
from home_dist.schema import DenseFeature, IdInput, InputLayout, PretrainedInput, Schema, StatisticFeature

_ONE = {"integer": pa.int64(), "number": pa.float64(), "text": pa.large_string()}
_WIDEST = _ONE | {f"{kind}s": pa.list_(one) for kind, one in _ONE.items()}
"""What any type of a kind can be cast to."""


@dataclass(frozen=True)
class Decoded:
    rows: DecodedRows
    kept: NDArray[np.int64] | None = None
    """Numbers of the rows among those that were read; None: all of them."""
    bad: dict[int, BadRow] = field(default_factory=dict)
    """The others, by their number."""


class BadRows(DataError):
    """Rows whose values cannot be used, and why: `problem` is the same for all rows that have it."""

    def __init__(self, message: str, column: str, problem: str, bad: NDArray[np.bool_]):
        super().__init__(message)
        self.column, self.problem, self.bad = column, problem, bad


class Decoder:
    """Reads row groups, or slices of them, of one split. Raises DataError naming file, column and row."""

    def __init__(
        self,
        files: DataFiles,
        schema: Schema,
        layout: InputLayout,
        sampler: Sampler | None = None,
        bad_rows: BadRowLog | None = None,
    ):
        """bad_rows: takes rows that cannot be used, which otherwise are errors."""
        self.schema, self.layout, self.bad_rows = schema, layout, bad_rows
        self.columns = Columns.of(layout)
        self.parts = PartReader(files, sampler)

    def decode(self, parts: Sequence[Part]) -> Decoded:
        """The rows of the given parts, one after another."""
        kept: NDArray[np.int64] | None = None
        bad: dict[int, BadRow] = {}
        while True:
            try:
                return Decoded(self._decode(_Source(parts, self.parts.files.columns)), kept, bad)
            except BadRows as error:
                if self.bad_rows is None:
                    raise
                if kept is None:
                    kept = np.arange(len(error.bad))
                bad |= zip(kept[error.bad].tolist(), _described(parts, error), strict=True)
                # What is left is decoded anew: bad rows are few.
                bounds = np.cumsum([p.table.num_rows for p in parts])[:-1]
                parts = [p.only(good) for p, good in zip(parts, np.split(~error.bad, bounds), strict=True)]
                kept = kept[~error.bad]

    def _decode(self, source: "_Source") -> DecodedRows:
        cut = source.cut
        weights = {i: task.weight_column for i, task in enumerate(self.schema.task) if task.weight_column is not None}
        group = self.schema.group_column
        return DecodedRows(
            columns=self.columns,
            tasks=len(self.schema.task),
            small=Block([self._small(source, i) for i in self.columns.small], cut),
            single=Block([source.ids(i) for i in self.columns.single], cut),
            lists=tuple(source.lists(items) for items in self.columns.lists),
            dense=self._dense(source),
            vectors=tuple(source.vectors(item) for item in self.layout.pretrained),
            labels=Block([source.labels(t.column) for t in self.schema.task], cut),
            weights=Block([[source.weights(column)] for column in weights.values()], cut),
            weighted=tuple(weights),
            groups=Block([] if group is None else [source.values(group)], cut),
        )

    def _small(self, source: "_Source", item: IdInput) -> Pieces:
        statistic = self.layout.statistics.get(item.key)
        return source.ids(item) if statistic is None else [source.buckets(statistic)]

    def _dense(self, source: "_Source") -> NDArray[np.float32]:
        dense = np.empty((source.rows, self.layout.dense_width), np.float32)
        at = 0
        for feature in self.layout.dense:
            width = feature.width if isinstance(feature, DenseFeature) else 1
            source.standardised(feature, dense[:, at : at + width])
            at += width
        return dense


class _Source:
    """What was read from row groups, one after another, with where it stands for messages."""

    def __init__(self, parts: Sequence[Part], kinds: Mapping[str, str]):
        """kinds: of the columns, see needed_columns."""
        self.parts = parts
        self.table = _together([p.table for p in parts], kinds)
        self.rows = self.table.num_rows
        self.cut = Cut([len(chunk) for chunk in self.table.column(0).chunks] or [0])
        self._read: dict[str, pa.Array] = {}
        self._numbers: dict[str, tuple[NDArray, NDArray[np.bool_] | None]] = {}

    def column(self, name: str) -> pa.Array:
        if name not in self._read:
            chunked = self.table.column(name)
            self._read[name] = chunked.chunk(0) if chunked.num_chunks == 1 else chunked.combine_chunks()
        return self._read[name]

    def fail(self, column: str, problem: str, bad: NDArray[np.bool_], reason: str | None = None) -> BadRows:
        """bad: (rows,); reason: the problem, where that names the first row's value."""
        first, at = int(np.argmax(bad)), 0
        for part in self.parts:
            if first < at + part.table.num_rows:
                break
            at += part.table.num_rows
        count = int(bad[at : at + part.table.num_rows].sum())
        where = f"first in row {part.row(first - at)} of its row group; {count} in all"
        return BadRows(f"{part.path}: column {column!r}: {problem} ({where})", column, reason or problem, bad)

    def _without_nulls(self, name: str) -> pa.Array:
        values = self.column(name)
        if values.null_count:
            raise self.fail(name, "null where a value is needed. Fill it in the pipeline", np.asarray(values.is_null()))
        return values

    def values(self, name: str) -> Pieces:
        """(rows,) without nulls."""
        column = self.table.column(name)
        if column.null_count:
            self._without_nulls(name)
        return self._pieces([_numpy(chunk) for chunk in column.chunks], column.chunks)

    def _pieces(self, values: Pieces, chunks: Sequence[pa.Array]) -> Pieces:
        """As they are where the column was read in the same pieces as the others, else as one."""
        if values and tuple(map(len, chunks)) == self.cut.lengths:
            return values
        return [np.concatenate(values) if values else np.zeros(0, np.int64)]

    def ids(self, item: IdInput) -> Pieces:
        """(rows,)"""
        if item.rows_of is not None:
            return [_kept(item, item.rows_of(self.column(item.column)))]
        return self._checked_ids(item, self.values(item.column))

    def _checked_ids(self, item: IdInput, pieces: Pieces, offsets: NDArray[np.int64] | None = None) -> Pieces:
        """pieces: one id per row, or with `offsets` those of the rows' lists, one after another."""
        if any(len(p) and (p.min() < 0 or p.max() >= item.declared_rows) for p in pieces):
            ids = np.concatenate(pieces)
            bad = (ids < 0) | (ids >= item.declared_rows)
            raise self.fail(
                item.column,
                f"id {int(ids[bad][0])} is outside of table {item.table.name!r}, whose rows are 0 to {item.declared_rows - 1}. "
                "Correct the table's rows in the schema or prepare the data again",
                bad if offsets is None else _rows_with(bad, offsets),
                f"id outside of table {item.table.name!r}",
            )
        return [_kept(item, p) for p in pieces]

    def lists(self, items: tuple[IdInput, ...]) -> DecodedLists:
        offsets, columns = None, []
        for item in items:
            if item.rows_of is not None:
                own, found = self._flat(item.column)
                values: Pieces = [_kept(item, item.rows_of(found))]
            else:
                own, values = self._flat_numbers(item.column)
            if offsets is None:
                offsets = own
            elif not np.array_equal(own, offsets):
                problem = f"its lists differ in length from those of {items[0].column!r}, with which it forms a history"
                raise self.fail(item.column, problem, np.diff(own) != np.diff(offsets))
            columns.append(values if item.rows_of is not None else self._checked_ids(item, values, own))
        if offsets is None:
            raise ValueError("a group of list columns has at least one column")
        weights = None
        if items[0].weights is not None:
            weights = Block([[self._list_weights(items[0].weights, items[0].column, offsets)]], self.cut, offsets)
        return DecodedLists(Block(columns, self.cut, offsets), weights)

    def _flat(self, name: str) -> tuple[NDArray[np.int64], pa.Array]:
        """A list column's offsets from 0 on, (rows + 1,), and its values. A list may be null, which counts as an empty one, and
        so may be a value."""
        array = _plain_lists(self.column(name))
        # flatten() leaves out what lies under null lists and respects a sliced array's own offset, unlike .offsets and .values.
        return _offsets([_numpy(pc.fill_null(pc.list_value_length(array), 0))]), array.flatten()

    def _flat_numbers(self, name: str) -> tuple[NDArray[np.int64], Pieces]:
        """The same without nulls."""
        column = self.table.column(name)
        if column.null_count:
            self._without_nulls(name)
        chunks = [_plain_lists(chunk) for chunk in column.chunks]
        offsets = _offsets([_numpy(pc.list_value_length(chunk)) for chunk in chunks])
        values = [chunk.flatten() for chunk in chunks]
        if any(v.null_count for v in values):
            bad = _rows_with(np.concatenate([np.asarray(v.is_null()) for v in values]), offsets)
            raise self.fail(name, "null within a list. Drop it in the pipeline", bad)
        return offsets, self._pieces([_numpy(v) for v in values], chunks)

    def _list_weights(self, name: str, ids: str, offsets: NDArray[np.int64]) -> NDArray[np.float32]:
        own, values = self._flat(name)
        if not np.array_equal(own, offsets):
            problem = f"its lists differ in length from those of {ids!r}, which they weight"
            raise self.fail(name, problem, np.diff(own) != np.diff(offsets))
        weights = _numpy(pc.fill_null(values, float("nan"))).astype(np.float32)
        if not np.isfinite(weights).all():
            bad = _rows_with(~np.isfinite(weights), offsets)
            raise self.fail(name, "a weight is NaN, null or infinite. Correct it in the pipeline", bad)
        return weights

    def buckets(self, feature: StatisticFeature) -> NDArray:
        """(rows,): 0 for null, else 1 + the number of boundaries that are not above the value."""
        values, missing = self._finite_or_null(feature.column)
        bucket = buckets(values, np.asarray(feature.boundaries, np.float64))
        if missing is not None:
            bucket[missing] = 0
        return bucket

    def _finite_or_null(self, name: str) -> tuple[NDArray, NDArray[np.bool_] | None]:
        """Values, float32 or float64, with 0 where null, and where that is, if anywhere."""
        if name not in self._numbers:
            column = self.table.column(name)
            dtype = np.float32 if column.type == pa.float32() else np.float64
            missing = None
            if column.null_count:
                array = self.column(name)
                missing = np.asarray(array.is_null())
                values = _numpy(pc.fill_null(array, False if pa.types.is_boolean(array.type) else 0)).astype(dtype)
            else:
                values = np.concatenate(self.values(name), dtype=dtype, casting="unsafe")
            finite = np.isfinite(values)
            if not finite.all():
                raise self.fail(name, "NaN or infinite. Write null where a value is not known", ~finite)
            self._numbers[name] = values, missing
        return self._numbers[name]

    def standardised(self, feature: DenseFeature | StatisticFeature, out: NDArray[np.float32]) -> None:
        """out: (rows, width)"""
        if isinstance(feature, DenseFeature) and feature.width > 1:
            out[:] = (self._wide(feature) - np.asarray(feature.mean)) / np.asarray(feature.std)
            return
        if isinstance(feature, DenseFeature):
            self._without_nulls(feature.column)
        values, missing = self._finite_or_null(feature.column)
        [mean], [deviation] = np.ravel(feature.mean), np.ravel(feature.std)
        standardise(values, float(mean), float(deviation), out[:, 0])
        if missing is not None:
            out[missing] = 0  # as if it had the mean

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

    def labels(self, name: str) -> Pieces:
        pieces = self.values(name)
        if not all(_zeros_and_ones(p) for p in pieces):
            values = np.concatenate(pieces)
            bad = (values != 0) & (values != 1)
            problem = f"label {values[bad][0]:g} is neither 0 nor 1. Correct the label rule in the pipeline"
            raise self.fail(name, problem, bad, "label neither 0 nor 1")
        return pieces

    def weights(self, name: str) -> NDArray[np.float32]:
        values = _numpy(self._without_nulls(name)).astype(np.float32)
        bad = ~(np.isfinite(values) & (values >= 0))
        if bad.any():
            raise self.fail(name, "a label weight is negative or not finite. Use 0 where there is no label", bad)
        return values


def _together(tables: Sequence[pa.Table], kinds: Mapping[str, str]) -> pa.Table:
    """One table, also of files that hold a column in different types."""
    if len(tables) == 1:
        return tables[0]
    try:
        return pa.concat_tables(tables, promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        schema = pa.schema([(column, _WIDEST[kind]) for column, kind in kinds.items()])
        return pa.concat_tables([t.select(schema.names).cast(schema, safe=False) for t in tables])


def _described(parts: Sequence[Part], error: BadRows) -> list[BadRow]:
    rows, at = [], 0
    for part in parts:
        bad = np.flatnonzero(error.bad[at : at + part.table.num_rows])
        values = part.table.column(error.column).take(pa.array(bad)).to_pylist()
        rows += [
            BadRow(part.path, part.group.group, part.row(int(i)), error.column, error.problem, shown(value))
            for i, value in zip(bad, values, strict=True)
        ]
        at += part.table.num_rows
    return rows


def _kept(item: IdInput, rows: NDArray) -> NDArray:
    """Without the tail that the run cuts off the table."""
    return np.where(rows < item.table.rows, rows, 0) if item.table.rows < item.declared_rows else rows


def _rows_with(bad: NDArray[np.bool_], offsets: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(values of all lists,) -> (rows,): the rows whose lists hold one."""
    found = np.zeros(len(offsets) - 1, bool)
    found[np.searchsorted(offsets, np.flatnonzero(bad), side="right") - 1] = True
    return found


def _zeros_and_ones(values: NDArray) -> bool:
    if values.dtype.kind == "f":
        return bool(((values == 0) | (values == 1)).all())
    return not len(values) or bool(values.min() >= 0 and values.max() <= 1)


def _plain_lists(array: pa.Array) -> pa.Array:
    return array.cast(pa.list_(array.type.value_type)) if pa.types.is_fixed_size_list(array.type) else array


def _offsets(lengths: Sequence[NDArray]) -> NDArray[np.int64]:
    together = np.concatenate([np.zeros(0, np.int64), *lengths])
    offsets = np.zeros(len(together) + 1, np.int64)
    np.cumsum(together, out=offsets[1:])
    return offsets


def _numpy(array: pa.Array) -> NDArray:
    # Booleans are bits in Arrow and always need a copy.
    return array.to_numpy(zero_copy_only=False)
