"""One pass over the training part's files, in batches; then schema.toml and vocabularies beside it."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import ValidationError

from home_dist.errors import ConfigError, DataError, problem_lines
from home_dist.files.listing import find_files
from home_dist.ids.keys import fits_key
from home_dist.ids.vocabulary import Counts
from home_dist.prepare.boundaries import choose_boundaries
from home_dist.prepare.extremes import warning_of
from home_dist.prepare.fit.counts import write_vocabulary
from home_dist.prepare.fit.draft import Draft, DraftDense, DraftStatistic, DraftVocabulary, load_draft
from home_dist.prepare.progress import Progress, Say
from home_dist.prepare.sketch import Sketch
from home_dist.schema import (
    DenseFeature,
    Feature,
    IdFeature,
    PretrainedFeature,
    Schema,
    StatisticFeature,
    TableSpec,
    TaskSpec,
    save_schema,
)

_AS_IS = (IdFeature, PretrainedFeature)  # nothing of them is fitted
_BATCH = 65536  # rows that are in memory at a time


@dataclass
class _Rate:
    positives: float = 0.0
    known: float = 0.0


@dataclass
class _Fit:
    """What one pass gathers, by the name of what it is for."""

    counts: dict[str, Counts] = field(default_factory=dict)
    sketches: dict[str, list[Sketch]] = field(default_factory=dict)
    rates: dict[str, _Rate] = field(default_factory=dict)


def fit_data(draft_path: Path, data: Path, say: Say, training: str = "train") -> Schema:
    """Fits on `data`/`training` and writes `data`/schema.toml and `data`/vocabularies.

    Vocabularies take memory by distinct values, the rest a few MB per column, however many rows there are. Raises ConfigError
    or DataError; schema.toml is written last.
    """
    draft = load_draft(draft_path)
    if (data / "schema.toml").exists():
        raise DataError(f"{data / 'schema.toml'}: is there already. Remove it, and vocabularies/ beside it, to fit anew.")
    paths = [Path(f.path) for f in find_files(str(data / training))[1]]
    fit = _Fit(
        counts={t.name: Counts(t.values.type) for t in draft.table if isinstance(t.values, DraftVocabulary)},
        sketches={f.name: [Sketch() for _ in range(_width(f))] for f in draft.feature if not isinstance(f, _AS_IS)},
        rates={t.name: _Rate() for t in draft.task},
    )
    with Progress.of(say).step("fitting", sum(_rows(path) for path in paths)) as advance:
        for path in paths:
            for batch in _batches(path, draft):
                _gather(fit, draft, batch, path)
                advance(batch.num_rows)
    for feature in draft.feature:
        for seen in fit.sketches.get(feature.name, []):
            if (told := warning_of(feature.column, seen)) is not None:
                say(told)
    try:
        schema = _schema(draft, fit, data, draft_path)
        save_schema(schema, data / "schema.toml")
    except OSError as error:
        raise DataError(f"{data}: cannot be written: {error}. Make room, or correct its permissions.") from None
    return schema


def _width(feature: DraftStatistic | DraftDense) -> int:
    return feature.width if isinstance(feature, DraftDense) else 1


def _columns_of(draft: Draft, table: str) -> list[str]:
    features = [f.column for f in draft.feature if isinstance(f, IdFeature) and f.table == table]
    return list(dict.fromkeys(features + [e.column for s in draft.sequence for e in s.events if e.table == table]))


def _batches(path: Path, draft: Draft) -> Iterable[pa.RecordBatch]:
    try:
        file = pq.ParquetFile(path, page_checksum_verification=True)
    except (pa.ArrowInvalid, OSError) as error:
        raise _unreadable(path, error) from None
    if not file.metadata.num_rows:
        return  # whatever its columns
    wanted = {f.column for f in draft.feature if not isinstance(f, _AS_IS)}
    for table in draft.table:
        if isinstance(table.values, DraftVocabulary):
            for column in _columns_of(draft, table.name):
                wanted.add(column)
                _check_key(path, file.schema_arrow, column, table.values)
    wanted |= {t.column for t in draft.task} | {t.weight_column for t in draft.task if t.weight_column}
    for column in sorted(wanted):
        if column not in file.schema_arrow.names:
            there = ", ".join(file.schema_arrow.names[:40])
            raise DataError(f"{path}: column {column!r} is missing; the file has: {there}. Correct the draft or the data.")
    try:
        yield from file.iter_batches(_BATCH, columns=sorted(wanted))
    except (pa.ArrowInvalid, OSError) as error:
        raise _unreadable(path, error) from None


def _rows(path: Path) -> int:
    try:
        return int(pq.read_metadata(path).num_rows)
    except (pa.ArrowInvalid, OSError) as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: Exception) -> DataError:
    return DataError(f"{path}: cannot be read, it may be truncated ({str(error).splitlines()[0]}). Write it again.")


def _check_key(path: Path, there: pa.Schema, column: str, values: DraftVocabulary) -> None:
    position = there.get_field_index(column)
    if position < 0:
        return  # told with the others
    found = there.field(position).type
    inner = found.value_type if pa.types.is_list(found) or pa.types.is_large_list(found) else found
    if not fits_key(inner, values.type):
        raise DataError(f"{path}: column {column!r} has type {found}, but the draft says {values.type}. Correct one of them.")


def _gather(fit: _Fit, draft: Draft, batch: pa.RecordBatch, path: Path) -> None:
    for name, counts in fit.counts.items():
        for column in _columns_of(draft, name):
            values = batch.column(column)
            counts.add(values.flatten() if pa.types.is_list(values.type) or pa.types.is_large_list(values.type) else values)
    for feature in draft.feature:
        if not isinstance(feature, _AS_IS):
            numbers = _numbers(batch.column(feature.column), feature, path)
            for place, sketch in enumerate(fit.sketches[feature.name]):
                sketch.add(numbers[:, place])
    for task in draft.task:
        labels = np.asarray(batch.column(task.column).cast(pa.float64()))
        weights = (
            np.ones(len(labels)) if task.weight_column is None else np.asarray(batch.column(task.weight_column), np.float64)
        )
        fit.rates[task.name].positives += float((labels * weights).sum())
        fit.rates[task.name].known += float(weights.sum())


def _numbers(column: pa.Array, feature: DraftStatistic | DraftDense, path: Path) -> NDArray[np.float64]:
    """(rows, width), NaN where null."""
    width = _width(feature)
    try:
        flat = column.flatten() if width > 1 else column
        values = np.asarray(pc.fill_null(flat.cast(pa.float64()), np.nan)).reshape(len(column), width)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, AttributeError, ValueError):
        needed = f"lists of {width} numbers" if width > 1 else "numbers"
        raise DataError(
            f"{path}: column {feature.column!r} of type {column.type}: {needed} are needed in every row. Correct it."
        ) from None
    if np.isinf(values).any():
        raise DataError(f"{path}: column {feature.column!r} holds infinite values. Write null where a value is not known.")
    return values


def _schema(draft: Draft, fit: _Fit, data: Path, path: Path) -> Schema:
    tables = []
    for table in draft.table:
        if isinstance(table.values, DraftVocabulary):
            values, keys = write_vocabulary(fit.counts[table.name], table.values, data, table.name)
            tables.append(TableSpec(name=table.name, rows=1 + table.values.unknown_rows + keys, values=values))
        else:
            tables.append(TableSpec(name=table.name, rows=table.rows or 1, values=table.values))
    try:
        features = [f if isinstance(f, _AS_IS) else _fitted(f, fit.sketches[f.name]) for f in draft.feature]
        return Schema(
            group_column=draft.group_column,
            time_column=draft.time_column,
            table=tuple(tables),
            feature=tuple(features),
            sequence=draft.sequence,
            task=tuple(_with_rate(t, fit.rates[t.name]) for t in draft.task),
        )
    except ValidationError as error:
        raise ConfigError("\n".join(f"{path}: {line}" for line in problem_lines(error))) from None


def _fitted(feature: DraftStatistic | DraftDense, seen: list[Sketch]) -> Feature:
    if isinstance(feature, DraftStatistic):
        boundaries = feature.boundaries if feature.boundaries is not None else choose_boundaries(feature.buckets, seen[0])
        mean, std = _scale(seen[0])
        return StatisticFeature(name=feature.name, column=feature.column, boundaries=boundaries, mean=mean, std=std)
    if not feature.standardise:
        return DenseFeature(name=feature.name, column=feature.column, width=feature.width)
    scales = [_scale(s) for s in seen]
    if feature.width == 1:
        return DenseFeature(name=feature.name, column=feature.column, mean=scales[0][0], std=scales[0][1])
    means, stds = (tuple(s[i] for s in scales) for i in (0, 1))
    return DenseFeature(name=feature.name, column=feature.column, width=feature.width, mean=means, std=stds)


def _scale(seen: Sketch) -> tuple[float, float]:
    """Mean and deviation; a column of equal values is left at its scale."""
    return seen.mean, seen.std if seen.std > 0 else 1.0


def _with_rate(task: TaskSpec, rate: _Rate) -> TaskSpec:
    share = rate.positives / rate.known if rate.known else 0.0
    return task if task.base_rate is not None or not 0 < share < 1 else task.model_copy(update={"base_rate": share})
