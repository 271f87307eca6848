"""Merges all partitions' results: vocabularies, scales, boundaries, the schema, and the files of the splits."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from home_dist.files.hashes import file_sha256
from home_dist.ids.keys import KeyType
from home_dist.prepare.asof import Ints
from home_dist.prepare.boundaries import Buckets, Counted, fit_counted, rounding_step
from home_dist.prepare.days import Days, choose_days
from home_dist.prepare.engine.mirror import here, opened
from home_dist.prepare.engine.spill import read_rows
from home_dist.prepare.generic import means, names
from home_dist.prepare.generic.encode import STORED_FILE, Fitted, split_file
from home_dist.prepare.generic.history import AGE_BOUNDS_MS
from home_dist.prepare.generic.label_section import LabelSection
from home_dist.prepare.generic.label_summary import Summary
from home_dist.prepare.generic.log_files import Chunk
from home_dist.prepare.generic.log_plan import Plan
from home_dist.prepare.generic.log_sections import IdSection
from home_dist.prepare.generic.log_spec import LogSpec
from home_dist.prepare.generic.names import duration_columns
from home_dist.prepare.generic.partition import CELLS_FILE, LABELS_FILE
from home_dist.prepare.generic.scan import DAYS, HOURS, UNMATCHED
from home_dist.prepare.generic.split_sections import DaySplit, FileSplit
from home_dist.prepare.generic.state import Base
from home_dist.prepare.write import write_file
from home_dist.schema import (
    EventField,
    IdFeature,
    LabelValues,
    Pooling,
    Schema,
    SequenceSpec,
    StatisticFeature,
    TableSpec,
    TaskSpec,
)
from home_dist.schema.values import GrownFrom, Origin

PART = "part.parquet"
Statistics = dict[str, tuple[Counted | None, StatisticFeature | None]]
"""By name: values of the training part, None where there are none to count; and the feature, None if it is not stored."""
_ANCESTORS = 64  # earlier vocabularies that a schema names
_LEVEL = 3  # of zstd; level 9 takes four times as long to write


def unmatched(scanned: Sequence[Path]) -> dict[str, int]:
    """By side table: number of the log's rows whose key it does not hold."""
    every = pa.concat_tables([pq.read_table(here(f / UNMATCHED)) for f in scanned])
    sums = every.group_by("side").aggregate([("rows", "sum")]).sort_by("side")
    return dict(zip(sums.column("side").to_pylist(), sums.column("rows_sum").to_pylist(), strict=True))


def days_of(plan: Plan, day: Ints) -> Days:
    """The parts that the description asks for. day: days of the log, in any order."""
    parts, clock = plan.spec.split, plan.clock
    match parts:
        case DaySplit():
            return choose_days(day, parts.train_days, parts.validation_days, parts.test_days, clock, "split.{}_days = {}")
        case FileSplit():
            train = max(1, int(day.max()) + 1 - parts.validation - parts.test) if parts.train is None else parts.train
            return choose_days(day, train, parts.validation, parts.test, clock, "split.{} = {}", "files")
    return one_part(plan, day)


def one_part(plan: Plan, day: Ints) -> Days:
    """All days are training days: something else tells the parts."""
    end = int(day.max(initial=0)) + 1
    return Days(int(day.min()), end, end, end, plan.clock)


def rows_before(days: Days, chunks: Sequence[Chunk], scanned: Sequence[Path]) -> list[dict[str, Any]]:
    """An entry per file with rows before the training days: their number, first and last day. Most rows come first."""
    by_file: dict[str, dict[str, Any]] = {}
    for chunk, folder in zip(chunks, scanned, strict=True):
        day_rows = pq.read_table(here(folder / DAYS))
        day, rows = day_rows.column("day").to_numpy(), day_rows.column("rows").to_numpy()
        early = day < days.train
        if early.any():
            entry = by_file.setdefault(chunk.file.named, {"file": chunk.file.named, "rows": 0, "first": [], "last": []})
            entry["rows"] += int(rows[early].sum())
            entry["first"].append(int(day[early].min()))
            entry["last"].append(int(day[early].max()))
    name_of = days.clock.day_name
    entries = [{**f, "first": name_of(min(f["first"])), "last": name_of(max(f["last"]))} for f in by_file.values()]
    return sorted(entries, key=lambda f: (-f["rows"], f["file"]))


def hours_before(scanned: Sequence[Path], before: Mapping[str, tuple[int, int]]) -> pa.Table:
    """A row per hour of the log, in order of time: sums of labels over all earlier hours, and before the log: `before` has, by
    label, in how many rows it happened and was known."""
    hours = pa.concat_tables([pq.read_table(here(f / HOURS)) for f in scanned])
    summed = [n for n in hours.column_names if n != "hour"]
    sums = hours.group_by("hour").aggregate([(n, "sum") for n in summed]).sort_by("hour")
    columns = {"hour": sums.column("hour")}
    for name in summed:
        values = sums.column(f"{name}_sum").to_numpy()
        columns[name] = pa.array(np.cumsum(values) - values)
    for label, counts in before.items():
        for state, count in zip(("happened", "known"), counts, strict=True):
            if f"{state}_{label}" in columns:
                columns[f"{state}_{label}"] = pc.add(columns[f"{state}_{label}"], count)
    return pa.table(columns)


def everyone(plan: Plan, gathered: Sequence[Path], before: Mapping[str, tuple[int, int]]) -> dict[str, tuple[int, int]]:
    """By binary label: in how many rows it happened, and was known, those before this log included."""
    days = label_days(gathered)

    def total(name: str) -> int:
        return int(pc.sum(days.column(name)).as_py() or 0)

    binary = [x.name for x in plan.spec.label if x.kind == "binary"]
    sums = {name: (total(f"happened_{name}"), total(f"known_{name}")) for name in binary}
    return {name: (a + before.get(name, (0, 0))[0], b + before.get(name, (0, 0))[1]) for name, (a, b) in sums.items()}


def statistic_names(spec: LogSpec) -> list[str]:
    """Names of all statistics, in the order of the description."""
    return [name for name, _ in names.statistics(spec)]


def fit_steps(gathered: Sequence[Path], asked: Sequence[str]) -> dict[str, float]:
    """By statistic: its rounding step, from its deviation. Cells are merged in their order, by Chan's update."""
    cells = pa.concat_tables([pq.read_table(here(f / CELLS_FILE)) for f in gathered])
    steps = {}
    for name in asked:
        moments = cells.filter(pc.equal(cells.column("number"), name)).sort_by("cell")
        count, mean, squares = 0, 0.0, 0.0
        rows = zip(*(moments.column(c).to_pylist() for c in ("count", "mean", "squares")), strict=True)
        for cell_count, cell_mean, cell_squares in rows:
            total = count + cell_count
            squares += cell_squares + (cell_mean - mean) ** 2 * count * cell_count / total
            mean += (cell_mean - mean) * cell_count / total
            count = total
        steps[name] = rounding_step(math.sqrt(squares / count) if count else 0.0)
    return steps


def statistics(plan: Plan, encoded: Sequence[Path], asked: Sequence[str], base: Base | None, anew: Sequence[str]) -> Statistics:
    """By statistic: its values in the training part, counted, and its feature.

    Without a base, those that vary have a feature. With one, the base's have, of which only those in `anew` are fitted again.
    """
    known = {} if base is None else {f.name: f for f in base.schema.feature if isinstance(f, StatisticFeature)}
    told, cuts = means.of_statistics(plan.spec), _cuts(plan.spec)
    stored = pa.concat_tables([pq.read_table(here(f / STORED_FILE)) for f in encoded])
    sums = stored.group_by(["number", "value"]).aggregate([("count", "sum")])
    fitted: Statistics = {}
    for name in asked:
        counts = sums.filter(pc.equal(sums.column("number"), name)).sort_by("value")
        seen, feature = None, known.get(name)
        if len(counts) > (0 if name in known else 1):
            seen = Counted(counts.column("value").to_numpy().astype(np.float64), counts.column("count_sum").to_numpy())
            if base is None or name in anew:
                feature = fit_counted(name, f"stat_{name}", seen, plan.spec.buckets, cuts.get(name)) or feature
        fitted[name] = (seen, feature and feature.model_copy(update={"means": told[name]}))
    return fitted


def unfitted(statistics: Statistics, base: Base, anew: Sequence[str]) -> Iterator[str]:
    """A line per statistic that was to be fitted anew but does not vary, and per one that varies now but not in the base, which
    therefore lacks it."""
    for name, (seen, feature) in statistics.items():
        if name in anew and (seen is None or len(seen) < 2):
            yield f"{name} cannot be fitted anew: it has one value or none in these days. It stays as it was"
        elif feature is None and seen is not None:
            yield f"{name} is left out, as it had one value or none in {base.folder}; now it varies: --anew {name} takes it"


def unfitted_labels(summaries: Mapping[str, Summary], base: Base, anew: Sequence[str]) -> Iterator[str]:
    """As `unfitted`, of labels that are not binary."""
    for name, summary in summaries.items():
        is_known = bool(summary["told"]["splits"].get("train", {}).get("known"))
        if name in anew and not summary["fitted"]:
            yield f"label {name} cannot be fitted anew: no row of these days knows it. Its values stay as they were"
        elif summary["values"] is None and is_known:
            yield f"label {name} has no fitted values, as no training row of {base.folder} knew it: --anew {name} fits them"


def growing(spec: LogSpec) -> frozenset[str]:
    """Statistics that grow with the log's age: of a past without a window."""
    return frozenset(name for p in spec.past if p.days is None for name in p.statistics)


def _cuts(spec: LogSpec) -> dict[str, Buckets | tuple[float, ...]]:
    """By statistic: how its range is cut, or where; for those whose description says so."""
    cuts = {n.column: cut for n in spec.number if (cut := n.buckets or n.boundaries) is not None}
    return cuts | {f"{p.prefix}_{name}": boundaries for p in spec.past for name, boundaries in p.boundaries.items()}


def label_days(gathered: Sequence[Path]) -> pa.Table:
    """A row per day and split of the log: number of rows; how many of them know each label, and in how many each binary one
    happened."""
    every = pa.concat_tables([pq.read_table(here(f / LABELS_FILE)) for f in gathered])
    summed = [n for n in every.column_names if n not in ("day", "split")]
    sums = every.group_by(["day", "split"]).aggregate([(n, "sum") for n in summed])
    sums = sums.sort_by([("day", "ascending"), ("split", "ascending")])
    return sums.rename_columns({f"{n}_sum": n for n in summed}).select(["day", "split", *summed])


def schema_of(
    plan: Plan,
    fitted: Fitted,
    kept: Sequence[StatisticFeature],
    days: pa.Table,
    facts: Mapping[str, LabelValues],
    base: Base | None = None,
) -> Schema:
    """kept: features of the statistics that tell something; days: sums of labels by day; facts: by label that is not binary;
    base: whose numbers are taken."""
    spec, durations = plan.spec, duration_columns(plan.spec.label)
    tables, features = [], []

    def add(table: TableSpec, pooling: bool = False) -> None:
        tables.append(table)
        pooled: Pooling = "mean" if pooling else "none"
        features.append(IdFeature(name=table.name, column=table.name, table=table.name, pooling=pooled))

    for section, path in zip(spec.id, fitted.vocabularies, strict=True):
        before = None if base is None else base.tables[section.column]
        many = section.separator is not None or plan.known.is_list(section.column)
        add(_table(section, path, plan.known.id_key(section), before), many)
    if spec.calendar:
        for name, size in (("hour", 24), ("weekday", 7)):
            add(TableSpec(name=name, rows=size, means=means.of_calendar(spec, name)))
    sequences = []
    for history in spec.history:
        events = [EventField(column=f"{history.name}_{f}", table=f, target=f) for f in history.fields]
        derived = {"age": len(AGE_BOUNDS_MS) + 1} if history.has_age else {}
        derived |= {"outcome": 1 << len(history.told)} if history.told else {}
        for field, size in derived.items():
            told = means.of_age(AGE_BOUNDS_MS) if field == "age" else means.of_outcomes(spec, history)
            tables.append(TableSpec(name=f"{history.name}_{field}", rows=size, means=told))
            events.append(EventField(column=f"{history.name}_{field}", table=f"{history.name}_{field}"))
        sequences.append(SequenceSpec(name=history.name, events=tuple(events), means=means.of_history(spec, history)))
    return Schema(
        group_column=None if spec.user is None else "group",
        time_column=None if spec.time is None else "time_ms",
        table=tuple(tables),
        feature=(*features, *kept),
        sequence=tuple(sequences),
        task=tuple(_task(x, fitted, days, base, facts, durations) for x in spec.label),
    )


def _table(section: IdSection, vocabulary: Path, kind: KeyType, before: TableSpec | None) -> TableSpec:
    """before: of the preparation whose vocabulary this one has grown from."""
    keys, sha256 = pq.read_metadata(vocabulary).num_rows, file_sha256(vocabulary)
    ancestors: tuple[GrownFrom, ...] = ()
    if before is not None and before.origin is not None:
        ancestors = before.origin.grown_from
        if before.origin.sha256 != sha256:
            ancestors = (*ancestors, GrownFrom(sha256=before.origin.sha256, keys=before.origin.keys))[-_ANCESTORS:]
    file = f"vocabularies/{section.column}.parquet"
    origin = Origin(type=kind, file=file, sha256=sha256, keys=keys, grown_from=ancestors)
    rows = section.rows if section.rows is not None else max(keys + 1, before.rows if before is not None else 0)
    return TableSpec(name=section.column, rows=rows, origin=origin)


def _task(
    section: LabelSection,
    fitted: Fitted,
    days: pa.Table,
    base: Base | None,
    facts: Mapping[str, LabelValues],
    durations: Mapping[str, str],
) -> TaskSpec:
    """durations: by label, the column of its duration."""
    return TaskSpec(
        name=section.name,
        group=section.group,
        column=f"label_{section.name}",
        kind=section.kind,
        unit=section.unit,
        duration=durations.get(section.name),
        classes=len(section.class_values) or None,
        weight_column=None if fitted.known[section.name] else f"known_{section.name}",
        base_rate=_base_rate(section, days, base) if section.kind == "binary" else None,
        values=facts.get(section.name),
        means=means.of_label(section),
    )


def _base_rate(section: LabelSection, days: pa.Table, base: Base | None) -> float | None:
    training = days.filter(pc.equal(days.column("split"), 0))
    happened, known = (pc.sum(training.column(f"{state}_{section.name}")).as_py() for state in ("happened", "known"))
    rate = round(happened / known, 6) if known else 0.0
    if base is not None:
        rate = next((t.base_rate or 0.0 for t in base.schema.task if t.name == section.name), rate)
    return rate if 0 < rate < 1 else None


def stored_columns(encoded: Path, schema: Schema) -> list[str]:
    """The columns to store: all but statistics that tell nothing."""
    used = {f.column for f in schema.feature} | {e.column for s in schema.sequence for e in s.events}
    with opened(encoded / split_file(0)) as source:
        every = pa.ipc.open_file(source).schema.names
    return [n for n in every if not n.startswith("stat_") or n in used]


def write_part(files: Sequence[tuple[Path, int]], columns: Sequence[str], first: int, last: int, folder: Path) -> None:
    """Writes rows first .. last - 1 of a split to folder/part.parquet. files: the partitions' files of the split, in order."""
    with opened(files[0][0]) as source:
        schema = pa.schema([pa.ipc.open_file(source).schema.field(n) for n in columns])
    batches = read_rows(files, first, last)
    write_file(folder / PART, (pa.Table.from_batches([b.select(columns)]) for b in batches), schema, _LEVEL)


def split_files(encoded: Sequence[Path], rows: Sequence[int], split: int) -> list[tuple[Path, int]]:
    return [(folder / split_file(split), count) for folder, count in zip(encoded, rows, strict=True)]
