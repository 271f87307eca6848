"""What a preparation tells of itself: rows in and out, labels by split and day, how many rows have a feature, histograms."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from home_dist.prepare.boundaries import Counted
from home_dist.prepare.days import SPLITS, Days, day_name
from home_dist.schema import Schema, StatisticFeature

_BINS = 40


@dataclass(frozen=True)
class LeftOut:
    """What files of the log do not give."""

    before: Sequence[Mapping[str, Any]]
    """Of each file with rows before the training days: file, rows, first and last day."""
    absent: Mapping[str, Sequence[str]]
    """By column: the files that do not have it."""


@dataclass(frozen=True)
class Told:
    """Of a finished preparation; tables have a row per split for each partition."""

    log: str
    rows: int
    unmatched: Mapping[str, int]
    """By side table: rows of the log whose key it does not hold."""
    days: Days
    labels: pa.Table
    """A row per day: split, rows, and of each label how many are known and happened."""
    left: LeftOut
    extremes: Mapping[str, Mapping[str, Any]]
    """By number of the log: its largest values."""
    seen: Sequence[pa.Table]
    """Rows, users, and how many rows have each statistic."""
    repeated: Sequence[pa.Table]
    """Rows that are like an earlier one of their user, their users, and the most of one user and moment."""
    merged: bool
    """Whether these were left out."""
    ids: Sequence[pa.Table]
    """How many rows have each id, out-of-vocabulary ones not counted."""
    vocabularies: Mapping[str, int]
    schema: Schema
    statistics: Mapping[str, tuple[Counted, StatisticFeature]]
    steps: Mapping[str, float]
    """What each number of the log was rounded to."""
    asked: Sequence[str]
    """Statistics of the description, those that tell nothing included."""


def make_report(found: Told) -> dict[str, Any]:
    tasks = [t.name for t in found.schema.task]
    seen, ids = _sums(found.seen), _sums(found.ids)
    rows, labels = seen.pop("rows"), found.labels
    users = seen.pop("users")
    coverage = {n: ids[n] for n in ids} | {n.removeprefix("stat_"): v for n, v in seen.items()}

    def of_split(index: int, column: str) -> int:
        chosen = labels.filter(pc.equal(labels.column("split"), index))
        return int(pc.sum(chosen.column(column)).as_py() or 0)

    copies = {n: [int(t.column(n)[0].as_py()) for t in found.repeated] for n in ("rows", "users", "most")}
    repeated = {"rows": sum(copies["rows"]), "users": sum(copies["users"]), "most": max(copies["most"], default=0)}
    before = found.rows - int(rows.sum()) - (repeated["rows"] if found.merged else 0)
    return {
        "log": found.log,
        "rows_in": found.rows,
        "rows_out": int(rows.sum()),
        "rows_before_the_training_days": before,
        "files_before_the_training_days": list(found.left.before),
        "files_without_a_column": {name: list(files) for name, files in found.left.absent.items()},
        "extremes": {name: dict(told) for name, told in found.extremes.items()},
        "repeated_rows": {**repeated, "merged": found.merged},
        "rows_without_a_row_in": dict(found.unmatched),
        "splits": {
            name: {
                "days": found.days.span(i),
                "rows": int(rows[i]),
                "users": int(users[i]),
                "positives": {t: of_split(i, f"happened_{t}") for t in tasks},
                "unknown": {t: int(rows[i]) - of_split(i, f"known_{t}") for t in tasks},
            }
            for i, name in enumerate(SPLITS)
        },
        "days": [
            {
                "day": day_name(d["day"]),
                "split": SPLITS[d["split"]] if d["split"] >= 0 else None,
                "rows": d["rows"],
                "happened": {t: d[f"happened_{t}"] for t in tasks},
                "known": {t: d[f"known_{t}"] for t in tasks},
            }
            for d in labels.to_pylist()
        ],
        "coverage": {n: {s: round(int(v[i]) / int(rows[i]), 6) for i, s in enumerate(SPLITS)} for n, v in coverage.items()},
        "vocabularies": dict(found.vocabularies),
        "rounded_to": {n: {"step": step, "values": len(found.statistics[n][0])} for n, step in found.steps.items()},
        "statistics_that_tell_nothing": [n for n in found.asked if n not in found.statistics],
        "histograms": {n: _histogram(*s) for n, s in found.statistics.items()},
    }


def _sums(tables: Sequence[pa.Table]) -> dict[str, np.ndarray]:
    """(splits,) each: partitions added up."""
    return {n: np.sum([t.column(n).to_numpy() for t in tables], axis=0) for n in tables[0].column_names}


def _histogram(seen: Counted, feature: StatisticFeature) -> dict[str, Any]:
    """Of the training part, as stored."""
    values, counts = seen.weighted()
    # Values are multiples of a step: bins are whole numbers of steps wide, or some would hold more of them than others.
    step = float(np.diff(values).min())
    wide = step * np.ceil(((seen.high - seen.low) / step + 1) / _BINS)
    edges = np.arange(seen.low - step / 2, seen.high + wide, wide)
    held = np.histogram(values, bins=edges, weights=counts)[0]
    return {
        "edges": [round(float(e), 6) for e in edges],
        "rows": [int(c) for c in held],
        "mean": feature.mean,
        "std": feature.std,
        "boundaries": list(feature.boundaries),
    }
