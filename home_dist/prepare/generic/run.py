"""All steps in order: a described log -> splits with schema, vocabularies and report."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from home_dist.errors import DataError
from home_dist.prepare.asof import AsOf, Ints, codes
from home_dist.prepare.days import DAY_MS, SPLITS, choose_days, local_days
from home_dist.prepare.generic.source import Columns, read_log
from home_dist.prepare.generic.spec import HistorySection, LabelSection, PastSection, load_spec
from home_dist.prepare.prepared import Prepared
from home_dist.prepare.rates import base_rates, log_odds
from home_dist.prepare.write import list_array, users_together, write_prepared
from home_dist.schema import EventField, Schema, SequenceSpec, TableSpec, TaskSpec

AGE_BOUNDS_MS = tuple(int(h * 3_600_000) for h in (1 / 6, 1, 6, 24, 72, 168, 720))


class Labels:
    """(N,) each, by name: whether it happened, and whether that is known."""

    def __init__(self, sections: tuple[LabelSection, ...], log: Columns):
        self.happened: dict[str, NDArray[np.int8]] = {}
        self.known: dict[str, NDArray[np.int8]] = {}
        for section in sections:
            values = log.numbers(section.column)
            known = ~np.isnan(values)
            if section.known is not None:
                known &= log.numbers(section.known) > 0
            if section.at_least is not None:
                positive = values >= section.at_least
            else:
                bad = known & (values != 0) & (values != 1)
                if bad.any():
                    raise DataError(
                        f"{log.name}: column {section.column!r} of label {section.name!r} holds {values[bad][0]:g}; 0 or 1 is "
                        "needed. For a threshold, set the label's at_least."
                    )
                positive = values == 1
            self.happened[section.name] = (positive & known).astype(np.int8)
            self.known[section.name] = known.astype(np.int8)


def prepare_log(description: Path, out: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Reads the described log and writes `out`; returns the report.

    Raises ConfigError or DataError for bad input, and writes nothing then. The log is held in memory.
    """
    spec = load_spec(description)
    log, time = read_log(spec, description.parent)
    say(f"{spec.log}: {len(log):,} rows, {len(spec.side)} side tables")
    day = local_days(time, spec.utc_offset_hours)
    parts = spec.split
    days = choose_days(day, parts.train_days, parts.validation_days, parts.test_days, spec.utc_offset_hours)
    split = days.split_of(day)
    training = split == 0
    labels = Labels(spec.label, log)
    user = log.codes(spec.user)

    say("counting what was known before each impression")
    numbers = {}
    for number in spec.number:
        values = log.numbers(number.column)
        with np.errstate(invalid="ignore", divide="ignore"):
            numbers[number.column] = np.where(values >= 0, np.log1p(values), np.nan) if number.log else values
    numbers = {n: np.where(np.isfinite(v), v, np.nan) for n, v in numbers.items()}
    cuts = {n.column: cut for n in spec.number if (cut := n.buckets or n.boundaries) is not None}
    for past in spec.past:
        numbers |= _past(past, log, time, days.start_ms(day), labels)

    say("vocabularies and histories")
    prepared = Prepared()
    for section in spec.id:
        if section.separator is not None or log.is_list(section.column):
            keys, bounds = log.lists(section.column, section.separator)
            prepared.add_list(section.column, section.column, keys, bounds, training, section.min_count)
        else:
            prepared.add_id(section.column, log.keys(section.column), training, section.min_count)
    if spec.calendar:
        local = time + days.utc_offset_ms
        prepared.add_number("hour", local // (DAY_MS // 24) % 24, 24)
        prepared.add_number("weekday", (local // DAY_MS + 3) % 7, 7)  # 1970-01-01 was a Thursday; 0 is Monday
    sequences = tuple(_history(h, prepared, log, user, time, labels) for h in spec.history)
    statistics = prepared.add_statistics(numbers, training, spec.buckets, cuts)
    tasks = tuple(_task(section, prepared, labels, training) for section in spec.label)
    schema = Schema(
        group_column="group",
        time_column="time_ms",
        table=tuple(prepared.tables.values()),
        feature=(*prepared.features, *statistics),
        sequence=sequences,
        task=tasks,
    )
    keys = log.keys(spec.user)
    group = keys if keys.dtype.kind == "i" else user  # GAUC groups by whole numbers
    whole = pa.table({"group": pa.array(group), "time_ms": pa.array(time), **prepared.columns})
    splits = {name: whole.take(users_together(user, time, split == index)) for index, name in enumerate(SPLITS)}
    report = {
        "rows_in": len(log),
        "rows_before_the_training_days": int((split < 0).sum()),
        "splits": {
            name: {
                "days": days.span(i),
                "rows": int((split == i).sum()),
                "users": len(np.unique(user[split == i])),
                "positives": {t.name: int(labels.happened[t.name][split == i].sum()) for t in tasks},
                "unknown": {t.name: int((labels.known[t.name][split == i] == 0).sum()) for t in tasks},
            }
            for i, name in enumerate(SPLITS)
        },
        "vocabularies": {name: v.rows for name, v in prepared.vocabularies.items()},
    }
    write_prepared(out, splits, {"train": spec.train_files}, schema, prepared.vocabularies, report)
    return report


def _past(past: PastSection, log: Columns, time: Ints, morning: Ints, labels: Labels) -> dict[str, NDArray[np.float64]]:
    key = codes(*(log.codes(column) for column in past.by))
    until = time if past.until == "impression" else morning
    events = AsOf(key, time, key, until)
    nobody = np.zeros(len(time), np.int64)
    everyone = AsOf(nobody, time, nobody, time)
    prefix = "_".join(past.by)
    if past.days is not None:
        events = events.since(int(past.days * DAY_MS))
        prefix += f"_{past.days:g}d".replace(".", "p")
    found = {f"{prefix}_count": np.log1p(events.count())}
    for name in past.rates:
        happened, known = labels.happened[name], labels.known[name]
        base = base_rates(everyone.sum(happened), everyone.sum(known))
        found[f"{prefix}_{name}"] = log_odds(events.sum(happened), events.sum(known), base, past.strength)
    return found


def _history(section: HistorySection, prepared: Prepared, log: Columns, user: Ints, time: Ints, labels: Labels) -> SequenceSpec:
    owner = user if section.only is None else np.where(labels.happened[section.only] > 0, user, -1)
    offsets, index = AsOf(owner, time, user, time).latest(section.most)
    events = []

    def add(name: str, table: str, values: NDArray[np.int32], target: str | None) -> None:
        column = f"{section.name}_{name}"
        prepared.columns[column] = list_array(values, offsets)
        events.append(EventField(column=column, table=table, target=target))

    for column in section.fields:
        add(column, column, prepared.vocabularies[column].encode(log.keys(column))[index], column)
    passed = np.repeat(time, np.diff(offsets)) - time[index]
    table = f"{section.name}_age"
    prepared.tables[table] = TableSpec(name=table, rows=len(AGE_BOUNDS_MS) + 1)
    add("age", table, np.searchsorted(AGE_BOUNDS_MS, passed, side="right").astype(np.int32), None)
    if section.outcomes:
        # One bit per label: which of them the event had.
        bits = sum(labels.happened[name].astype(np.int32) << place for place, name in enumerate(section.outcomes))
        table = f"{section.name}_outcome"
        prepared.tables[table] = TableSpec(name=table, rows=1 << len(section.outcomes))
        add("outcome", table, np.asarray(bits, np.int32)[index], None)
    return SequenceSpec(name=section.name, events=tuple(events))


def _task(section: LabelSection, prepared: Prepared, labels: Labels, training: NDArray[np.bool_]) -> TaskSpec:
    happened, known = labels.happened[section.name], labels.known[section.name]
    prepared.columns[f"label_{section.name}"] = pa.array(happened)
    weight = None
    if not known.all():
        weight = f"known_{section.name}"
        prepared.columns[weight] = pa.array(known)
    counted = training & (known > 0)
    rate = round(float(happened[counted].mean()), 6) if counted.any() else 0.0
    return TaskSpec(
        name=section.name,
        group=section.group,
        column=f"label_{section.name}",
        weight_column=weight,
        base_rate=rate if 0 < rate < 1 else None,
    )
