"""Reads the training part's files once, in batches; then writes vocabularies and schema.toml."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from home_dist.data.column_reader import ColumnReader, read_uses
from home_dist.data.files import Uses, by_column, check_columns, open_parquet, partition_values
from home_dist.errors import ConfigError, DataError, problem_lines
from home_dist.files.listing import Found, find_files
from home_dist.files.stores import Store
from home_dist.prepare.boundaries import choose_boundaries
from home_dist.prepare.extremes import warning_of
from home_dist.prepare.fit.draft import Draft, DraftDense, DraftStatistic, DraftVocabulary, load_draft
from home_dist.prepare.fit.label_fit import LabelFit
from home_dist.prepare.fit.vocabularies import write_vocabulary
from home_dist.prepare.fitted_keys import SpilledCounts
from home_dist.prepare.memory import MEMORY_BYTES
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
    save_schema,
)

_AS_IS = (IdFeature, PretrainedFeature)  # features without fitted values
_BATCH = 65536  # rows that are in memory at a time
_PROCESS, _LEAST = 300 << 20, 32 << 20  # bytes of a process without counts, and that counts may take at least


@dataclass
class _Fit:
    """Accumulators of the pass, by name of table and feature."""

    counts: dict[str, SpilledCounts] = field(default_factory=dict)
    sketches: dict[str, list[Sketch]] = field(default_factory=dict)
    labels: list[LabelFit] = field(default_factory=list)


def fit_data(draft_path: Path, data: Path, say: Say, training: str = "train", memory: int = MEMORY_BYTES) -> Schema:
    """Fits on `data`/`training` and writes `data`/schema.toml and `data`/vocabularies.

    memory: approximate bytes that the process may take. Counts of keys that do not fit wait in a temporary folder within
    `data`; other columns take a few MB each, however many rows there are. Raises ConfigError or DataError; schema.toml is
    written last.
    """
    draft = load_draft(draft_path)
    if (data / "schema.toml").exists():
        raise DataError(f"{data / 'schema.toml'}: is there already. Remove it, and vocabularies/ beside it, to fit anew.")
    store, files = find_files(str(data / training))
    try:
        with TemporaryDirectory(prefix=".fit-", dir=data) as spilled:
            schema = _fitted_schema(draft, draft_path, data, store, files, say, (Path(spilled), memory))
        save_schema(schema, data / "schema.toml")
    except OSError as error:
        raise DataError(f"{data}: cannot be written: {error}. Make room, or correct its permissions.") from None
    return schema


def _fitted_schema(
    draft: Draft, draft_path: Path, data: Path, store: Store, files: list[Found], say: Say, spill: tuple[Path, int]
) -> Schema:
    """spill: a folder for counts that do not fit, and the memory in bytes."""
    uses = _uses(draft)
    fitted = [t for t in draft.table if isinstance(t.values, DraftVocabulary)]
    room = max(_LEAST, spill[1] - _PROCESS)
    counts = {
        t.name: SpilledCounts(t.values.type, spill[0] / str(n), room // len(fitted))
        for n, t in enumerate(fitted)
        if isinstance(t.values, DraftVocabulary)
    }
    fit = _Fit(
        counts=counts,
        sketches={f.name: [Sketch() for _ in range(_width(f))] for f in draft.feature if not isinstance(f, _AS_IS)},
        labels=[LabelFit(t) for t in draft.task],
    )
    rows = [_checked(store, file, _all_uses(draft)) for file in files]
    with Progress.of(say).step("fitting", sum(rows)) as advance:
        for file in files:
            for reader in read_uses(store, file, uses, _BATCH, "draft"):
                _gather(fit, draft, reader)
                advance(reader.rows)
    for warning in _warnings(draft, fit):
        say(warning)
    return _schema(draft, fit, data, draft_path, room)


def _width(feature: DraftStatistic | DraftDense) -> int:
    return feature.width if isinstance(feature, DraftDense) else 1


def _columns_of(draft: Draft, table: str) -> dict[str, bool]:
    """Columns that hold the table's keys, and for each whether it holds lists."""
    features = {f.column: f.pooling != "none" for f in draft.feature if isinstance(f, IdFeature) and f.table == table}
    return features | {e.column: True for s in draft.sequence for e in s.events if e.table == table}


def _uses(draft: Draft) -> Uses:
    """The columns that values are fitted on, and the kinds of values they must hold."""
    uses: list[tuple[str, str]] = []
    for table in draft.table:
        if isinstance(table.values, DraftVocabulary):
            for column, in_lists in _columns_of(draft, table.name).items():
                uses.append((column, f"{table.values.type}s" if in_lists else table.values.type))
    fitted = [f for f in draft.feature if not isinstance(f, _AS_IS)]
    uses += [(f.column, "number" if _width(f) == 1 else "numbers") for f in fitted]
    for task in draft.task:
        uses += [(column, "number") for column in (task.column, task.weight_column, task.duration) if column is not None]
    return by_column(uses)


def _all_uses(draft: Draft) -> Uses:
    """`_uses`, and the columns that only training reads: what training would refuse is refused here."""
    uses = [(column, needed_kind) for column, kinds in _uses(draft).items() for needed_kind in kinds]
    for table in draft.table:
        kind = "integer" if table.values is None else table.values.type
        uses += [(c, f"{kind}s" if in_lists else kind) for c, in_lists in _columns_of(draft, table.name).items()]
    for feature in draft.feature:
        if isinstance(feature, PretrainedFeature):
            uses.append((feature.column, "numbers" if feature.frozen is None else feature.type))
        elif isinstance(feature, IdFeature) and feature.weights is not None:
            uses.append((feature.weights, "numbers"))
    if draft.group_column is not None:
        uses.append((draft.group_column, "key"))
    return by_column(uses)


def _checked(store: Store, file: Found, uses: Uses) -> int:
    """The file's number of rows. Raises DataError for wrong columns."""
    opened = open_parquet(store, file.path)
    if opened.metadata.num_rows:
        columns = opened.schema_arrow
        values = partition_values(store, file, columns, uses)
        check_columns(store.show(file.path), columns, {c: kinds for c, kinds in uses.items() if c not in values}, "draft")
    return int(opened.metadata.num_rows)


def _gather(fit: _Fit, draft: Draft, reader: ColumnReader) -> None:
    for name, counts in fit.counts.items():
        for column, in_lists in _columns_of(draft, name).items():
            reader.keys(column, in_lists, counts.add)
    for feature in draft.feature:
        if not isinstance(feature, _AS_IS):
            numbers = _numbers(reader, feature)
            for place, sketch in enumerate(fit.sketches[feature.name]):
                sketch.add(numbers[:, place])
    for label in fit.labels:
        label.add(reader)


def _numbers(reader: ColumnReader, feature: DraftStatistic | DraftDense) -> NDArray[np.float64]:
    """(rows, width), NaN where null."""
    if _width(feature) > 1:
        return reader.wide(DenseFeature(name=feature.name, column=feature.column, width=_width(feature)))
    values, absent = reader.numbers(feature.column)
    if absent is not None and isinstance(feature, DraftDense):
        reader.refuse_nulls(feature.column)
    return np.where(False if absent is None else absent, np.nan, values)[:, None]


def _schema(draft: Draft, fit: _Fit, data: Path, path: Path, room: int) -> Schema:
    tables = []
    for table in draft.table:
        if isinstance(table.values, DraftVocabulary):
            values, keys = write_vocabulary(fit.counts[table.name], table.values, data, table.name, room)
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
            task=tuple(label.fitted() for label in fit.labels),
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
    """Mean and deviation; the latter is 1 for a column of equal values."""
    return seen.mean, seen.std if seen.std > 0 else 1.0


def _warnings(draft: Draft, fit: _Fit) -> Iterator[str]:
    """Findings that are no errors, but worth a look before training."""
    for feature in draft.feature:
        for seen in fit.sketches.get(feature.name, []):
            if (warning := warning_of(feature.column, seen)) is not None:
                yield warning
    for label in fit.labels:
        yield from label.warnings()
