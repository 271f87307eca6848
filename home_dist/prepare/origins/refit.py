"""What an origin must fit anew: vocabularies, by the counts of its own training days, and the draft of its schema.

A table whose columns hold rows of a vocabulary (`origin` in the schema) keeps the keys that its training days hold often
enough, the most frequent first, as `prepare` does. The file of the vocabulary counts the base's training days; what it counts
above them is older than the data (histories that end before them), and is added to each origin's counts. The base has no rows
for keys that its own training days did not hold: origins after them read such keys as unknown.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from home_dist.errors import DataError
from home_dist.ids.keys import KeyType
from home_dist.ids.vocabulary import VocabularyFile
from home_dist.prepare.boundaries import Buckets, choose_boundaries
from home_dist.prepare.fit.draft import Draft, DraftDense, DraftFeature, DraftStatistic, DraftTable, DraftTask, DraftVocabulary
from home_dist.prepare.sketch import Sketch
from home_dist.prepare.written_vocabulary import PublishedVocabulary
from home_dist.schema import (
    DenseFeature,
    Feature,
    IdFeature,
    PretrainedFeature,
    Schema,
    StatisticFeature,
    TableSpec,
    TaskSpec,
)
from home_dist.schema.values import Origin, VocabularyValues

_RARE = 20
"""Bound of a least count that is told by a vocabulary's rarest key: small vocabularies have no rare keys."""
_COUNTS = (20, 10, 50, 100, 5, 4, 8, 16, 32, 64, 256)
"""Numbers of quantile buckets to try, `prepare`'s default first."""


@dataclass(frozen=True)
class BaseVocabulary:
    """A vocabulary of the base data: keys (n,), their rows (n,) and counts (n,), and the least count of a key."""

    kind: KeyType
    keys: pa.Array
    rows: NDArray[np.int64]
    counts: NDArray[np.int64]

    @staticmethod
    def open(folder: Path, table: str, origin: Origin) -> "BaseVocabulary":
        path = folder / origin.file
        whole = VocabularyFile.open(path, table, origin.type, origin.sha256).whole(1, origin.keys + 1)
        return BaseVocabulary(origin.type, whole.keys, whole.rows, _counts(path, table))

    @property
    def min_count(self) -> int:
        return min(_RARE, int(self.counts.min())) if len(self.counts) else 1

    def refitted(
        self, seen: NDArray[np.int64], seen_by_base: NDArray[np.int64]
    ) -> tuple[PublishedVocabulary, NDArray[np.int32]]:
        """(vocabulary, new row of each row of the base). seen: (rows,) how often the origin's training days hold each row;
        seen_by_base: (rows,) how often the base's hold it."""
        older = np.maximum(self.counts - seen_by_base[self.rows], 0)
        table = pa.table({"value": self.keys, "base": self.rows, "count": seen[self.rows] + older})
        kept = table.filter(pc.greater_equal(table["count"], self.min_count))
        kept = kept.sort_by([("count", "descending"), ("value", "ascending")]).combine_chunks()
        rows = np.arange(1, len(kept) + 1)
        new = np.zeros(len(seen), np.int32)
        new[kept["base"].to_numpy()] = rows
        written = pa.table({"value": kept["value"], "row": pa.array(rows, pa.int64()), "count": kept["count"]})
        return PublishedVocabulary(written, self.kind), new


def _counts(path: Path, table: str) -> NDArray[np.int64]:
    if "count" not in pq.read_schema(path).names:
        raise DataError(
            f"{path}: vocabulary of table {table!r} has no column 'count', so that it cannot be fitted anew for other days. "
            "Write it with home-dist prepare."
        )
    return pq.read_table(path, columns=["count"])["count"].to_numpy().astype(np.int64)


def columns_of(schema: Schema, table: str) -> list[str]:
    """Columns of id features, whose values a vocabulary counts."""
    return list(dict.fromkeys(f.column for f in schema.feature if isinstance(f, IdFeature) and f.table == table))


def columns_with_rows(schema: Schema) -> dict[str, str]:
    """column -> table, of columns that hold rows of a vocabulary; those of histories as well."""
    fitted = {t.name for t in schema.table if t.origin is not None}
    columns = {f.column: f.table for f in schema.feature if isinstance(f, IdFeature)}
    columns |= {e.column: e.table for s in schema.sequence for e in s.events}
    return {column: table for column, table in columns.items() if table in fitted}


def count_rows(schema: Schema, tables: Iterable[pa.Table]) -> dict[str, NDArray[np.int64]]:
    """By table with an origin: (rows,) how often the batches of rows hold each of its rows."""
    fitted = {t.name: t.rows for t in schema.table if t.origin is not None}
    counts = {name: np.zeros(rows, np.int64) for name, rows in fitted.items()}
    for batch in tables:
        for name, rows in fitted.items():
            for column in columns_of(schema, name):
                values = batch[column].combine_chunks()
                flat = values.flatten() if pa.types.is_list(values.type) or pa.types.is_large_list(values.type) else values
                counts[name] += np.bincount(_rows(flat.drop_null(), rows, column), minlength=rows)
    return counts


def _rows(values: pa.Array, rows: int, column: str) -> NDArray[np.int64]:
    """(n,) rows of a table, none of them null. Raises DataError for one that the table lacks."""
    found = values.to_numpy(zero_copy_only=False).astype(np.int64)
    if len(found) and not (found.min() >= 0 and found.max() < rows):
        worst = int(found.max() if found.max() >= rows else found.min())
        raise DataError(f"column {column!r}: {worst} is no row of its table, which has {rows:,}. Prepare the data again.")
    return found


def encoded(column: pa.ChunkedArray, new: NDArray[np.int32], name: str) -> pa.Array:
    """A column of the base's rows, or of lists of them, as the origin's rows. name: of the column, for messages."""
    values = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if pa.types.is_list(values.type) or pa.types.is_large_list(values.type):
        offsets = pc.subtract(values.offsets, values.offsets[0]).cast(pa.int32())
        flat = values.values.slice(values.offsets[0].as_py(), offsets[-1].as_py())
        mask = values.is_null() if values.null_count else None
        return pa.ListArray.from_arrays(offsets, encoded(flat, new, name), mask=mask).cast(values.type)
    return pa.array(new[_rows(values.fill_null(0), len(new), name)], values.type)


def draft_of(
    schema: Schema, folder: Path, sketches: dict[str, Sketch], rows: dict[str, int], until_later: bool
) -> tuple[Draft, list[str]]:
    """The draft by which an origin's schema is fitted, and notes on what stays as it is although it may have been fitted later.

    sketches: of the base's training rows, by statistic; rows: of refitted tables; until_later: whether the base was fitted on
    days after the origin.
    """
    notes: list[str] = []
    features = [_feature(feature, sketches, notes) for feature in schema.feature]
    draft = Draft(
        group_column=schema.group_column,
        time_column=schema.time_column,
        table=tuple(_table(t, folder, rows) for t in schema.table),
        feature=tuple(features),
        sequence=schema.sequence,
        task=tuple(map(_task, schema.task)),
    )
    return draft, notes if until_later else []


def _table(table: TableSpec, folder: Path, rows: dict[str, int]) -> DraftTable:
    if isinstance(table.values, VocabularyValues):
        counts = _counts(folder / table.values.file, table.name)
        least = min(_RARE, int(counts.min())) if len(counts) else 1
        values = DraftVocabulary(type=table.values.type, min_count=least, unknown_rows=table.values.unknown_rows)
        return DraftTable(name=table.name, values=values)
    return DraftTable(name=table.name, rows=rows.get(table.name, table.rows), values=table.values)


def _feature(feature: Feature, sketches: dict[str, Sketch], notes: list[str]) -> DraftFeature:
    if isinstance(feature, StatisticFeature):
        buckets = bucket_rule(feature.boundaries, sketches[feature.name])
        if buckets is not None:
            return DraftStatistic(name=feature.name, column=feature.column, buckets=buckets)
        if feature.boundaries:
            notes.append(f"statistic {feature.name}: no rule of prepare gives its boundaries, so that they stay as they are")
        return DraftStatistic(name=feature.name, column=feature.column, boundaries=feature.boundaries)
    if isinstance(feature, DenseFeature):
        plain = {feature.mean} == {0.0} and {feature.std} == {1.0}
        return DraftDense(name=feature.name, column=feature.column, width=feature.width, standardise=not plain)
    if isinstance(feature, PretrainedFeature):
        notes.append(
            f"feature {feature.name}: pre-trained vectors stay as they are; train them on days before the first origin"
        )
    return feature


def bucket_rule(boundaries: tuple[float, ...], seen: Sketch) -> Buckets | None:
    """The rule by which `prepare` cuts these values at these boundaries; None where no rule does. Quantiles are compared by
    rank, as sketches of them err a little."""
    if not boundaries or not seen.count or seen.low == seen.high:
        return None
    cuts, (values, counts) = np.array(boundaries), seen.weighted()
    up_to = np.append(0, np.cumsum(counts)) / counts.sum()
    below, within = (up_to[np.searchsorted(values, cuts, side=side)] for side in ("left", "right"))
    for count in dict.fromkeys((*_COUNTS, len(cuts) + 1)):
        steps = np.arange(1, count) / count
        slack = 0.1 / count
        near = (steps[None] > below[:, None] - slack) & (steps[None] < within[:, None] + slack)
        if count > len(cuts) and near.any(1).all() and near.any(0).mean() > 0.5:
            return Buckets(by="quantile", count=count)
    for rule in (Buckets(by="equal_width", count=len(cuts) + 1), *_logarithmic(len(cuts))):
        tried = choose_boundaries(rule, seen)
        if len(tried) == len(cuts) and np.allclose(tried, cuts, rtol=1e-3, atol=1e-3 * (seen.high - seen.low) / len(cuts)):
            return rule
    return None


def _logarithmic(cuts: int) -> Iterator[Buckets]:
    yield from (Buckets(by="logarithmic", count=count) for count in (cuts + 1, cuts) if count >= 2)


def _task(task: TaskSpec) -> DraftTask:
    facts = task.values
    of_numbers = facts is not None and task.kind not in ("binary", "multiclass")
    return DraftTask(
        **task.model_dump(exclude={"base_rate", "values"}),
        thresholds=len(facts.thresholds) if of_numbers and facts and facts.thresholds else None,
        duration_groups=len(facts.duration_boundaries) + 1 if of_numbers and facts and facts.duration_boundaries else None,
    )
