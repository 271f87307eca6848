"""The report of a preparation: rows in and out, labels by split and day, how many rows have a feature, histograms."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from home_dist.prepare.boundaries import Counted
from home_dist.prepare.days import SPLITS, Days
from home_dist.schema import Schema, StatisticFeature

_BINS = 40


@dataclass(frozen=True)
class LeftOut:
    """Rows that are in no split, and columns that files of the log lack."""

    before: Sequence[Mapping[str, Any]]
    """An entry per file with rows before the training days: file, rows, first and last day."""
    absent: Mapping[str, Sequence[str]]
    """By column: the files that do not have it."""


@dataclass(frozen=True)
class Told:
    """What the report of a finished preparation is made of. Sequences hold a table per partition."""

    log: str
    rows: int
    unmatched: Mapping[str, int]
    """By side table: number of the log's rows whose key it does not hold."""
    days: Days
    labels: pa.Table
    """A row per day and split: number of rows; how many of them know each label, and in how many each binary one happened."""
    others: Mapping[str, Mapping[str, Any]]
    """By label that is not binary: its entry (label_report.py)."""
    left: LeftOut
    extremes: Mapping[str, Mapping[str, Any]]
    """By numeric column of the log: its largest values."""
    seen: Sequence[pa.Table]
    """A row per split: number of rows, of users, and of rows that have each statistic."""
    repeated: Sequence[pa.Table]
    """One row: number of rows that repeat an earlier one of their user, of their users, and the most of one user and moment."""
    merged: bool
    """Whether repeated rows were left out."""
    ids: Sequence[pa.Table]
    """A row per split: how many rows have each id; ids out of vocabulary do not count."""
    vocabularies: Mapping[str, int]
    schema: Schema
    statistics: Mapping[str, tuple[Counted, StatisticFeature]]
    steps: Mapping[str, float]
    """By numeric column of the log: the step that its values were rounded to."""
    asked: Sequence[str]
    """All statistics of the description, also those that tell nothing."""


def make_report(told: Told) -> dict[str, Any]:
    kinds = {t.name: t.kind for t in told.schema.task}
    tasks, binary = list(kinds), [name for name, kind in kinds.items() if kind == "binary"]
    seen, ids = _sums(told.seen), _sums(told.ids)
    rows, labels = seen.pop("rows"), told.labels
    users = seen.pop("users")
    coverage = {n: ids[n] for n in ids} | {n.removeprefix("stat_"): v for n, v in seen.items()}

    def of_split(index: int, column: str) -> int:
        chosen = labels.filter(pc.equal(labels.column("split"), index))
        return int(pc.sum(chosen.column(column)).as_py() or 0)

    copies = {n: [int(t.column(n)[0].as_py()) for t in told.repeated] for n in ("rows", "users", "most")}
    repeated = {"rows": sum(copies["rows"]), "users": sum(copies["users"]), "most": max(copies["most"], default=0)}
    before = told.rows - int(rows.sum()) - (repeated["rows"] if told.merged else 0)
    return {
        "log": told.log,
        "rows_in": told.rows,
        "rows_out": int(rows.sum()),
        "rows_before_the_training_days": before if told.left.before else 0,
        "rows_in_no_part": before,
        "files_before_the_training_days": list(told.left.before),
        "files_without_a_column": {name: list(files) for name, files in told.left.absent.items()},
        "extremes": {name: dict(entry) for name, entry in told.extremes.items()},
        "repeated_rows": {**repeated, "merged": told.merged},
        "rows_without_a_row_in": dict(told.unmatched),
        "splits": {
            name: {
                "days": _span(told, i),
                "rows": int(rows[i]),
                "users": int(users[i]),
                "positives": {t: of_split(i, f"happened_{t}") for t in binary},
                "unknown": {t: int(rows[i]) - of_split(i, f"known_{t}") for t in tasks},
            }
            for i, name in enumerate(SPLITS)
            if rows[i]
        },
        "days": [
            {
                "day": told.days.clock.day_name(d["day"]),
                "split": SPLITS[d["split"]] if d["split"] >= 0 else None,
                "rows": d["rows"],
                "happened": {t: d[f"happened_{t}"] for t in binary},
                "known": {t: d[f"known_{t}"] for t in tasks},
            }
            for d in labels.to_pylist()
        ],
        "numbers": {n: dict(entry) for n, entry in told.others.items() if kinds[n] != "multiclass"},
        "classes": {n: dict(entry) for n, entry in told.others.items() if kinds[n] == "multiclass"},
        "coverage": {
            n: {s: round(int(v[i]) / int(rows[i]), 6) for i, s in enumerate(SPLITS) if rows[i]} for n, v in coverage.items()
        },
        "vocabularies": dict(told.vocabularies),
        "rounded_to": {n: {"step": step, "values": len(told.statistics[n][0])} for n, step in told.steps.items()},
        "statistics_that_tell_nothing": [n for n in told.asked if n not in told.statistics],
        "histograms": {n: _histogram(*s) for n, s in told.statistics.items()},
    }


def _span(told: Told, split: int) -> list[str]:
    """First and last day of a split. Users who are held out share the days of the training part."""
    if told.days.validation < told.days.end:
        return told.days.span(split)
    clock = told.days.clock
    return [clock.day_name(told.days.train), clock.day_name(told.days.end - 1)]


def _sums(tables: Sequence[pa.Table]) -> dict[str, np.ndarray]:
    """(splits,) each: sums over partitions."""
    return {n: np.sum([t.column(n).to_numpy() for t in tables], axis=0) for n in tables[0].column_names}


def _histogram(seen: Counted, feature: StatisticFeature) -> dict[str, Any]:
    """Histogram of the training part's stored values."""
    values, counts = seen.weighted()
    # Values are multiples of a step. Bins are whole steps wide; else some would cover more multiples than others.
    step = float(np.diff(values).min()) if len(values) > 1 else 1.0
    wide = step * np.ceil(((seen.high - seen.low) / step + 1) / _BINS)
    edges = np.arange(seen.low - step / 2, seen.high + wide, wide)
    bucket = np.searchsorted(feature.boundaries, values, side="right")
    held = np.histogram(values, bins=edges, weights=counts)[0]
    return {
        "edges": [round(float(e), 6) for e in edges],
        "rows": [int(c) for c in held],
        "mean": feature.mean,
        "std": feature.std,
        "boundaries": list(feature.boundaries),
        "buckets": [int(c) for c in np.bincount(bucket, weights=counts, minlength=len(feature.boundaries) + 1)],
    }
