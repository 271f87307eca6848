"""Arrow columns -> checked arrays: the one decoder of training, evaluation and scoring.

Each use of a column decodes it separately: a column may be an id, a number and a label at once. Numbers stay in the memory and
type in which they were read. They are checked here, and copied only when rows are permuted.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from home_dist.data.arrow_arrays import joined_floats, offsets_of, plain_lists
from home_dist.data.chunked import ChunkedColumns, Chunks, ChunkStarts
from home_dist.data.decoded_rows import DecodedLists, Vectors
from home_dist.data.files import Uses, check_columns, open_parquet, partition_values
from home_dist.data.order import RowGroup
from home_dist.data.raw_rows import RawRows
from home_dist.data.request_keys import joined_keys, key_hashes, place_keys
from home_dist.data.statistic import buckets, standardise
from home_dist.errors import DataError
from home_dist.files.listing import Found
from home_dist.files.stores import Store
from home_dist.ids.arrow_numpy import filled, numpy_of
from home_dist.ids.arrow_types import is_text
from home_dist.ids.keys import NotKeys, as_keys, group_numbers, key_numbers, missing
from home_dist.ids.no_group import NO_GROUP
from home_dist.schema import DenseFeature, IdInput, PretrainedInput, StatisticFeature

VALUE_NEEDED = "null where a value is needed. Fill it in the pipeline"


class BadRows(DataError):
    """Bad rows of a column: `bad` marks them, `problem` is the reason without values, the same for all of them."""

    def __init__(self, message: str, column: str, problem: str, bad: NDArray[np.bool_]):
        super().__init__(message)
        self.column, self.problem, self.bad = column, problem, bad


class ColumnReader:
    """Columns of raw rows, one row group after another. Methods raise BadRows, whose message names file, column and row."""

    def __init__(self, raw: Sequence[RawRows]):
        self.raw = raw
        self.rows = sum(r.table.num_rows for r in raw)
        lengths = [len(chunk) for r in raw if r.table.num_columns for chunk in r.table.column(0).chunks]
        self.starts = ChunkStarts(lengths or [0])
        self._numbers: dict[str, tuple[NDArray, NDArray[np.bool_] | None]] = {}

    def fail(self, column: str, problem: str, bad: NDArray[np.bool_], reason: str | None = None) -> BadRows:
        """bad: (rows,); reason: the problem in general words, if `problem` names the first row's value."""
        first, at = int(np.argmax(bad)), 0
        for raw in self.raw:
            if first < at + raw.table.num_rows:
                break
            at += raw.table.num_rows
        count = int(bad[at : at + raw.table.num_rows].sum())
        where = f"first in row {raw.row(first - at)} of {raw.counted_in}; {count} in all"
        return BadRows(f"{raw.path}: column {column!r}: {problem} ({where})", column, reason or problem, bad)

    def chunks(self, name: str) -> list[pa.Array]:
        """The column's chunks as read, row group by row group."""
        return [chunk for raw in self.raw for chunk in raw.table.column(name).chunks]

    def _joined(self, name: str) -> list[pa.Array]:
        """The column as one array if all row groups have the same type, else its chunks: types are not converted."""
        chunks = self.chunks(name)
        if len(chunks) == 1 or len({chunk.type for chunk in chunks}) > 1:
            return chunks
        if not chunks:
            return []
        whole = pa.chunked_array(chunks)
        if pa.types.is_dictionary(whole.type):
            whole = whole.unify_dictionaries()
        return [whole.combine_chunks()]

    def _refuse_nulls(self, name: str, chunks: Sequence[pa.Array]) -> None:
        if any(chunk.null_count for chunk in chunks):
            raise self.fail(name, VALUE_NEEDED, nulls(chunks))

    def refuse_nulls(self, name: str) -> None:
        self._refuse_nulls(name, self.chunks(name))

    def as_chunks(self, values: Chunks, chunks: Sequence[pa.Array]) -> Chunks:
        """`values` as they are if they have one type and the same chunks as the other columns; else joined into one array."""
        types = {value.dtype for value in values}
        if len(types) > 1:  # files differ; numpy would turn a mix of signed and unsigned integers into floats
            common = np.int64 if all(t.kind in "biu" for t in types) else np.float64
            return [np.concatenate(values, dtype=common, casting="unsafe")]
        if values and tuple(map(len, chunks)) == self.starts.lengths:
            return values
        return [np.concatenate(values) if values else np.zeros(0, np.int64)]

    def ids(self, item: IdInput) -> Chunks:
        """(rows,) row of the item's table for each row read."""
        if item.look_up is not None:
            return [_kept(item, self._looked_up(item, self._joined(item.column)))]
        chunks = self._whole(item.column, self.chunks(item.column))
        self._refuse_nulls(item.column, chunks)
        return self._checked_ids(item, self.as_chunks([numpy_of(chunk) for chunk in chunks], chunks))

    def _looked_up(self, item: IdInput, chunks: Sequence[pa.Array], offsets: NDArray[np.int64] | None = None) -> NDArray:
        """Table rows of keys. chunks: one key per row; with `offsets`, the keys of the rows' lists, one list after another."""
        rows_of = item.look_up
        if rows_of is None:
            raise ValueError("a column of rows needs no look-up")
        return np.concatenate([np.zeros(0, np.int64), *self._keyed(item.column, chunks, rows_of, offsets)])

    def _keyed(
        self, name: str, chunks: Sequence[pa.Array], convert: Callable[[pa.Array], object], offsets: NDArray[np.int64] | None
    ) -> list:
        """convert(chunk) of each chunk. A NotKeys that it raises becomes BadRows, which names file and row."""
        converted, at = [], 0
        for chunk in chunks:
            try:
                converted.append(convert(chunk))
            except NotKeys as error:
                bad = np.zeros(sum(map(len, chunks)), np.bool_)
                bad[at : at + len(chunk)] = error.bad
                bad = bad if offsets is None else _rows_with(bad, offsets)
                raise self.fail(name, f"{error.problem}. Correct it in the pipeline", bad, "no whole number") from None
            at += len(chunk)
        return converted

    def _whole(self, name: str, chunks: Sequence[pa.Array], offsets: NDArray[np.int64] | None = None) -> list[pa.Array]:
        """Integers as they are; whole numbers of other types as int64."""
        return self._keyed(name, chunks, lambda c: c if pa.types.is_integer(c.type) else as_keys(c, "integer"), offsets)

    def _checked_ids(self, item: IdInput, chunks: Chunks, offsets: NDArray[np.int64] | None = None) -> Chunks:
        """Refuses ids outside of the table. chunks: one id per row; with `offsets`, the ids of the rows' lists, one after
        another."""
        if any(_outside(chunk, item.declared_rows) for chunk in chunks):
            ids = np.concatenate(chunks)
            bad = (ids < 0) | (ids >= item.declared_rows)
            raise self.fail(
                item.column,
                f"id {int(ids[bad][0])} is outside of table {item.table.name!r}, whose rows are 0 to {item.declared_rows - 1}. "
                "Correct the table's rows in the schema or prepare the data again",
                bad if offsets is None else _rows_with(bad, offsets),
                f"id outside of table {item.table.name!r}",
            )
        return [_kept(item, chunk) for chunk in chunks]

    def lists(self, items: tuple[IdInput, ...]) -> DecodedLists:
        """Columns whose lists are equally long in each row."""
        offsets, columns = None, []
        for item in items:
            if item.look_up is not None:
                item_offsets, chunks = self._flat(item.column)
                values: Chunks = [_kept(item, self._looked_up(item, chunks, item_offsets))]
            else:
                item_offsets, values = self._flat_integers(item.column)
            if offsets is None:
                offsets = item_offsets
            elif not np.array_equal(item_offsets, offsets):
                problem = f"its lists differ in length from those of {items[0].column!r}, with which it forms a history"
                raise self.fail(item.column, problem, np.diff(item_offsets) != np.diff(offsets))
            columns.append(values if item.look_up is not None else self._checked_ids(item, values, item_offsets))
        if offsets is None:
            raise ValueError("a group of list columns has at least one column")
        weights = None
        if items[0].weights is not None:
            weights = ChunkedColumns([[self._list_weights(items[0].weights, items[0].column, offsets)]], self.starts, offsets)
        return DecodedLists(ChunkedColumns(columns, self.starts, offsets), weights)

    def _flat(self, name: str) -> tuple[NDArray[np.int64], list[pa.Array]]:
        """A list column's offsets from 0 on, (rows + 1,), and its values. A null list counts as an empty one. Values may be
        null."""
        chunks = [plain_lists(chunk) for chunk in self._joined(name)]
        # Unlike .offsets and .values, flatten() skips the values below null lists and respects the offset of a sliced array.
        lengths = [filled(pc.list_value_length(chunk), 0) for chunk in chunks]
        return offsets_of(lengths), [chunk.flatten() for chunk in chunks]

    def _flat_integers(self, name: str) -> tuple[NDArray[np.int64], Chunks]:
        """As `_flat`, for integers, with neither null lists nor null values."""
        chunks = self.chunks(name)
        self._refuse_nulls(name, chunks)
        chunks = [plain_lists(chunk) for chunk in chunks]
        offsets = offsets_of([numpy_of(pc.list_value_length(chunk)) for chunk in chunks])
        values = self._whole(name, [chunk.flatten() for chunk in chunks], offsets)
        if any(v.null_count for v in values):
            raise self.fail(name, "null within a list. Drop it in the pipeline", _rows_with(nulls(values), offsets))
        return offsets, self.as_chunks([numpy_of(v) for v in values], chunks)

    def _list_weights(self, name: str, ids: str, offsets: NDArray[np.int64]) -> NDArray[np.float32]:
        weight_offsets, chunks = self._flat(name)
        if not np.array_equal(weight_offsets, offsets):
            problem = f"its lists differ in length from those of {ids!r}, which they weight"
            raise self.fail(name, problem, np.diff(weight_offsets) != np.diff(offsets))
        weights = joined_floats(chunks, np.float32)
        if not np.isfinite(weights).all():
            bad = _rows_with(~np.isfinite(weights), offsets)
            raise self.fail(name, "a weight is NaN, null or infinite. Correct it in the pipeline", bad)
        return weights

    def keys(self, name: str, in_lists: bool, take: Callable[[pa.Array], object]) -> None:
        """Passes a column's keys to `take`, which may raise NotKeys. Keys of lists come one list after another."""
        offsets, chunks = self._flat(name) if in_lists else (None, self._joined(name))
        self._keyed(name, chunks, take, offsets)

    def groups(self, name: str) -> Chunks:
        """(rows,) numbers, equal for equal keys; NO_GROUP where missing."""
        chunks = self._joined(name)
        text = any(is_text(c.type.value_type if pa.types.is_dictionary(c.type) else c.type) for c in chunks)
        keys = self._keyed(name, chunks, lambda c: as_keys(c, "text" if text else "integer"), None)
        if not text and not any(k.null_count or (len(k) and pc.min(k).as_py() == NO_GROUP) for k in keys):
            return self.as_chunks([key_numbers(k) for k in keys], keys)
        return [group_numbers(keys, "text" if text else "integer")]

    def requests(self, names: Sequence[str]) -> NDArray[np.int64]:
        """(rows,) keys of requests. A row without a key has a key of its own, made of its place."""
        keys, absent = self.request_keys(names)
        if absent.any():
            places = [place_keys(raw.path, raw.group.group, raw.rows) for raw in self.raw]
            keys[absent] = np.concatenate(places)[absent]
        return keys

    def request_keys(self, names: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """(rows,) keys of requests from the columns that name them, and (rows,) whether one of the columns is missing."""
        columns = []
        for name in names:
            chunks = self._keyed(name, self._joined(name), key_hashes, None)
            columns.append([np.concatenate(parts) for parts in zip(*chunks, strict=True)])
        return joined_keys([hashes for hashes, _ in columns]), np.any([absent for _, absent in columns], axis=0)

    def buckets(self, feature: StatisticFeature) -> NDArray:
        """(rows,): 0 for null, else 1 + the number of boundaries <= the value."""
        values, absent = self.numbers(feature.column)
        bucket = buckets(values, np.asarray(feature.boundaries, np.float64))
        if absent is not None:
            bucket[absent] = 0
        return bucket

    def numbers(self, name: str) -> tuple[NDArray, NDArray[np.bool_] | None]:
        """Finite values, (rows,) float32 or float64, 0 where null; and a mask of nulls, (rows,), or None if there are none."""
        if name not in self._numbers:
            chunks = self.chunks(name)
            dtype = np.float32 if chunks and all(chunk.type == pa.float32() for chunk in chunks) else np.float64
            absent = nulls(chunks) if any(chunk.null_count for chunk in chunks) else None
            values = joined_floats(chunks, dtype, null=0)
            finite = np.isfinite(values)
            if not finite.all():
                raise self.fail(name, "NaN or infinite. Write null where a value is not known", ~finite)
            self._numbers[name] = values, absent
        return self._numbers[name]

    def dense(self, features: Sequence[DenseFeature | StatisticFeature], clip: float | None = None) -> NDArray[np.float32]:
        """(rows, sum of widths): standardised values, 0 where a statistic is null. clip: bounds values to -clip .. clip."""
        widths = [f.width if isinstance(f, DenseFeature) else 1 for f in features]
        out = np.empty((self.rows, sum(widths)), np.float32)
        ends = np.cumsum([0, *widths])
        for feature, first, end in zip(features, ends, ends[1:], strict=False):
            self._standardised(feature, out[:, first:end])
        if clip is not None:
            np.clip(out, -clip, clip, out=out)
        if not np.isfinite(out).all():
            for feature, first, end in zip(features, ends, ends[1:], strict=False):
                bad = np.asarray(~np.isfinite(out[:, first:end]).all(axis=1))
                if bad.any():
                    problem = "too large for a number of 32 bits once it is standardised. Correct it, or set embedding.clip"
                    raise self.fail(feature.column, problem, bad)
        return out

    def _standardised(self, feature: DenseFeature | StatisticFeature, out: NDArray[np.float32]) -> None:
        """out: (rows, width)"""
        if isinstance(feature, DenseFeature) and feature.width > 1:
            with np.errstate(over="ignore"):
                out[:] = (self.wide(feature) - np.asarray(feature.mean)) / np.asarray(feature.std)
            return
        if isinstance(feature, DenseFeature):
            self.refuse_nulls(feature.column)
        values, absent = self.numbers(feature.column)
        [mean], [deviation] = np.ravel(feature.mean), np.ravel(feature.std)
        standardise(values, float(mean), float(deviation), out[:, 0])
        if absent is not None:
            out[absent] = 0  # the mean, once standardised

    def wide(self, feature: DenseFeature) -> NDArray[np.float64]:
        """(rows, width) finite numbers."""
        self.refuse_nulls(feature.column)
        offsets, chunks = self._flat(feature.column)
        lengths = np.diff(offsets)
        if (lengths != feature.width).any():
            raise self.fail(feature.column, f"lists of {feature.width} numbers are needed", lengths != feature.width)
        flat = joined_floats(chunks, np.float64)
        values = flat.reshape(-1, feature.width)
        bad = np.asarray(~np.isfinite(values).all(axis=1))
        if bad.any():
            raise self.fail(feature.column, "NaN, null or infinite. Fill it in the pipeline", bad)
        return values

    def vectors(self, item: PretrainedInput) -> Vectors:
        if item.frozen is not None:
            position_chunks = self._keyed(item.column, self._joined(item.column), item.frozen.positions, None)
            positions = np.concatenate([np.zeros(0, np.int64), *position_chunks])
            return Vectors(positions, positions < 0)
        absent = nulls(self.chunks(item.column))
        offsets, chunks = self._flat(item.column)
        lengths = np.where(absent, item.width, np.diff(offsets))
        if (lengths != item.width).any():
            raise self.fail(item.column, f"lists of {item.width} numbers, or null, are needed", lengths != item.width)
        values = np.zeros((self.rows, item.width), np.float32)
        with np.errstate(over="ignore"):
            flat = joined_floats(chunks, np.float32)
        values[~absent] = flat.reshape(-1, item.width)
        bad = np.asarray(~np.isfinite(values).all(axis=1))
        if bad.any():
            raise self.fail(item.column, "NaN, null or infinite within a vector. Write null for the whole vector", bad)
        return Vectors(values, absent)

    def weights(self, name: str) -> NDArray[np.float32]:
        """(rows,) label weights."""
        chunks = self.chunks(name)
        self._refuse_nulls(name, chunks)
        values = joined_floats(chunks, np.float32)
        bad = ~(np.isfinite(values) & (values >= 0))
        if bad.any():
            raise self.fail(name, "a label weight is negative or not finite. Use 0 where there is no label", bad)
        return values


def read_uses(store: Store, file: Found, uses: Uses, rows: int, asked_by: str, more: bool = False) -> Iterator[ColumnReader]:
    """Reads a file in batches of at most `rows` rows, after a check of its columns against their uses. Partition columns come
    from the names of its folders. asked_by: see `check_columns`; more: read also columns without a use. Raises DataError."""
    shown, opened = store.show(file.path), open_parquet(store, file.path)
    if not opened.metadata.num_rows:
        return  # columns of an empty file are not checked
    columns = opened.schema_arrow
    values = partition_values(store, file, columns, uses)
    check_columns(shown, columns, {c: kinds for c, kinds in uses.items() if c not in values}, asked_by)
    first = 0
    try:
        for batch in opened.iter_batches(rows, columns=None if more else [c for c in uses if c not in values]):
            table = pa.Table.from_batches([batch])
            for column, value in values.items():
                table = table.append_column(column, pa.repeat(value, len(table)))
            yield ColumnReader([RawRows(table, shown, RowGroup(0, 0, len(table), first), counted_in="the file")])
            first += len(table)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{shown}: cannot be read, it may be damaged ({reason}). Write it again.") from None


def nulls(chunks: Sequence[pa.Array]) -> NDArray[np.bool_]:
    """(rows,): marks nulls."""
    return np.concatenate([np.zeros(0, np.bool_), *(missing(chunk) for chunk in chunks)])


def _outside(ids: NDArray, rows: int) -> bool:
    """Whether an integer is negative or at least `rows`, in one pass: a negative one, read as unsigned, is above all others."""
    if ids.dtype.kind == "i":
        rows = min(rows, 1 << (8 * ids.itemsize - 1))
        ids = ids.view(f"u{ids.itemsize}")
    return len(ids) > 0 and int(ids.max()) >= rows


def _kept(item: IdInput, rows: NDArray) -> NDArray:
    """Table rows, with 0 for rows beyond the size to which the run cuts the table."""
    return np.where(rows < item.table.rows, rows, 0) if item.table.rows < item.declared_rows else rows


def _rows_with(bad: NDArray[np.bool_], offsets: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(values of all lists,) -> (rows,): marks rows whose lists hold a bad value."""
    marked = np.zeros(len(offsets) - 1, bool)
    marked[np.searchsorted(offsets, np.flatnonzero(bad), side="right") - 1] = True
    return marked
