"""Merges all partitions' results: vocabularies, scales, boundaries, the schema, and the files of the splits."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from home_dist.ids.vocabulary import merged, most_frequent
from home_dist.prepare.boundaries import Counted, fit_counted, rounding_step
from home_dist.prepare.days import Days, choose_days, day_name
from home_dist.prepare.engine.spill import read_rows
from home_dist.prepare.generic.encode import AGE_BOUNDS_MS, STORED_FILE, Fitted, split_file
from home_dist.prepare.generic.log_files import Chunk
from home_dist.prepare.generic.log_plan import Plan
from home_dist.prepare.generic.partition import CELLS_FILE, LABELS_FILE, values_file
from home_dist.prepare.generic.scan import DAYS, HOURS, UNMATCHED
from home_dist.prepare.write import write_file
from home_dist.prepare.written_vocabulary import write_vocabulary
from home_dist.schema import EventField, IdFeature, Schema, SequenceSpec, StatisticFeature, TableSpec, TaskSpec

PART = "part.parquet"
_LEVEL = 3  # of zstd; level 9 takes four times as long to write


def unmatched(scanned: Sequence[Path]) -> dict[str, int]:
    """By side table: number of the log's rows whose key it does not hold."""
    every = pa.concat_tables([pq.read_table(f / UNMATCHED) for f in scanned])
    sums = every.group_by("side").aggregate([("rows", "sum")]).sort_by("side")
    return dict(zip(sums.column("side").to_pylist(), sums.column("rows_sum").to_pylist(), strict=True))


def days_of(plan: Plan, scanned: Sequence[Path]) -> Days:
    parts, spec = plan.spec.split, plan.spec
    day = np.concatenate([pq.read_table(f / DAYS).column("day").to_numpy() for f in scanned])
    return choose_days(
        day, parts.train_days, parts.validation_days, parts.test_days, spec.utc_offset_hours, "split.{}_days = {}"
    )


def rows_before(days: Days, chunks: Sequence[Chunk], scanned: Sequence[Path]) -> list[dict[str, Any]]:
    """An entry per file with rows before the training days: their number, first and last day. Most rows come first."""
    by_file: dict[str, dict[str, Any]] = {}
    for chunk, folder in zip(chunks, scanned, strict=True):
        day_rows = pq.read_table(folder / DAYS)
        day, rows = day_rows.column("day").to_numpy(), day_rows.column("rows").to_numpy()
        early = day < days.train
        if early.any():
            entry = by_file.setdefault(chunk.file.named, {"file": chunk.file.named, "rows": 0, "first": [], "last": []})
            entry["rows"] += int(rows[early].sum())
            entry["first"].append(int(day[early].min()))
            entry["last"].append(int(day[early].max()))
    entries = [{**f, "first": day_name(min(f["first"])), "last": day_name(max(f["last"]))} for f in by_file.values()]
    return sorted(entries, key=lambda f: (-f["rows"], f["file"]))


def hours_before(scanned: Sequence[Path]) -> pa.Table:
    """A row per hour of the log, in order of time: sums of labels over all earlier hours."""
    hours = pa.concat_tables([pq.read_table(f / HOURS) for f in scanned])
    names = [n for n in hours.column_names if n != "hour"]
    sums = hours.group_by("hour").aggregate([(n, "sum") for n in names]).sort_by("hour")
    columns = {"hour": sums.column("hour")}
    for name in names:
        values = sums.column(f"{name}_sum").to_numpy()
        columns[name] = pa.array(np.cumsum(values) - values)
    return pa.table(columns)


def fit_vocabulary(plan: Plan, gathered: Sequence[Path], number: int, out: Path) -> None:
    """Writes the vocabulary of the [[id]] at index `number` to `out`. Row 0 stands for missing and rarer values."""
    section = plan.spec.id[number]
    counts = merged([pq.read_table(f / values_file(number)) for f in gathered], plan.known.id_key(section))
    write_vocabulary(most_frequent(counts, section.min_count, unsigned=plan.known.is_unsigned(section.column)), out)


def fit_steps(gathered: Sequence[Path], names: Sequence[str]) -> dict[str, float]:
    """By statistic: its rounding step, from its deviation. Cells are merged in their order, by Chan's update."""
    cells = pa.concat_tables([pq.read_table(f / CELLS_FILE) for f in gathered])
    steps = {}
    for name in names:
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


def statistics(plan: Plan, encoded: Sequence[Path], names: Sequence[str]) -> dict[str, tuple[Counted, StatisticFeature]]:
    """Statistics that vary within the training part, with their counted values."""
    cuts = {n.column: cut for n in plan.spec.number if (cut := n.buckets or n.boundaries) is not None}
    stored = pa.concat_tables([pq.read_table(f / STORED_FILE) for f in encoded])
    sums = stored.group_by(["number", "value"]).aggregate([("count", "sum")])
    fitted = {}
    for name in names:
        counts = sums.filter(pc.equal(sums.column("number"), name)).sort_by("value")
        if len(counts) > 1:
            seen = Counted(counts.column("value").to_numpy().astype(np.float64), counts.column("count_sum").to_numpy())
            feature = fit_counted(name, f"stat_{name}", seen, plan.spec.buckets, cuts.get(name))
            if feature is not None:
                fitted[name] = (seen, feature)
    return fitted


def label_days(gathered: Sequence[Path]) -> pa.Table:
    """A row per day of the log: split, number of rows; for each label, how many rows know it and in how many it happened."""
    every = pa.concat_tables([pq.read_table(f / LABELS_FILE) for f in gathered])
    names = [n for n in every.column_names if n not in ("day", "split")]
    sums = every.group_by(["day", "split"]).aggregate([(n, "sum") for n in names]).sort_by("day")
    return sums.rename_columns({f"{n}_sum": n for n in names}).select(["day", "split", *names])


def schema_of(plan: Plan, fitted: Fitted, kept: Sequence[StatisticFeature], days: pa.Table) -> Schema:
    """kept: features of the statistics that tell something; days: sums of labels by day."""
    spec = plan.spec
    tables, features = [], []

    def add(name: str, size: int, pooling: bool = False) -> None:
        tables.append(TableSpec(name=name, rows=size))
        features.append(IdFeature(name=name, column=name, table=name, pooling="mean" if pooling else "none"))

    for section, path in zip(spec.id, fitted.vocabularies, strict=True):
        add(
            section.column,
            pq.read_metadata(path).num_rows + 1,
            section.separator is not None or plan.known.is_list(section.column),
        )
    if spec.calendar:
        add("hour", 24)
        add("weekday", 7)
    sequences = []
    for history in spec.history:
        events = [EventField(column=f"{history.name}_{f}", table=f, target=f) for f in history.fields]
        derived = {"age": len(AGE_BOUNDS_MS) + 1} | ({"outcome": 1 << len(history.outcomes)} if history.outcomes else {})
        for field, size in derived.items():
            tables.append(TableSpec(name=f"{history.name}_{field}", rows=size))
            events.append(EventField(column=f"{history.name}_{field}", table=f"{history.name}_{field}"))
        sequences.append(SequenceSpec(name=history.name, events=tuple(events)))
    return Schema(
        group_column="group",
        time_column="time_ms",
        table=tuple(tables),
        feature=(*features, *kept),
        sequence=tuple(sequences),
        task=tuple(_task(x.name, x.group, fitted, days) for x in spec.label),
    )


def _task(name: str, group: str, fitted: Fitted, days: pa.Table) -> TaskSpec:
    training = days.filter(pc.equal(days.column("split"), 0))
    happened, known = (pc.sum(training.column(f"{state}_{name}")).as_py() for state in ("happened", "known"))
    rate = round(happened / known, 6) if known else 0.0
    return TaskSpec(
        name=name,
        group=group,
        column=f"label_{name}",
        weight_column=None if fitted.known[name] else f"known_{name}",
        base_rate=rate if 0 < rate < 1 else None,
    )


def stored_columns(encoded: Path, schema: Schema) -> list[str]:
    """The columns to store: all but statistics that tell nothing."""
    used = {f.column for f in schema.feature} | {e.column for s in schema.sequence for e in s.events}
    with pa.memory_map(str(encoded / split_file(0))) as source:
        names = pa.ipc.open_file(source).schema.names
    return [n for n in names if not n.startswith("stat_") or n in used]


def write_part(files: Sequence[tuple[Path, int]], columns: Sequence[str], first: int, last: int, folder: Path) -> None:
    """Writes rows first .. last - 1 of a split to folder/part.parquet. files: the partitions' files of the split, in order."""
    with pa.memory_map(str(files[0][0])) as source:
        schema = pa.schema([pa.ipc.open_file(source).schema.field(n) for n in columns])
    batches = read_rows(files, first, last)
    write_file(folder / PART, (pa.Table.from_batches([b.select(columns)]) for b in batches), schema, _LEVEL)


def split_files(encoded: Sequence[Path], rows: Sequence[int], split: int) -> list[tuple[Path, int]]:
    return [(folder / split_file(split), count) for folder, count in zip(encoded, rows, strict=True)]
