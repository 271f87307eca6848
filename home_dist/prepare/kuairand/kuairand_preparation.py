"""All steps in order: raw tables -> splits with schema, vocabularies and report."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from home_dist.prepare.data_folder import Prepared
from home_dist.prepare.days import SPLITS, Days, choose_days
from home_dist.prepare.kuairand.columns import add_history, add_ids, add_labels, add_watch_seconds
from home_dist.prepare.kuairand.files import read_source
from home_dist.prepare.kuairand.log import Log, clean_log
from home_dist.prepare.kuairand.side import Side, join_side
from home_dist.prepare.kuairand.statistics import month_statistics, past_statistics, situation_statistics
from home_dist.prepare.kuairand.stored import read_stored
from home_dist.prepare.local_clock import LocalClock
from home_dist.prepare.write import users_together, write_prepared
from home_dist.schema import Schema, TaskSpec

ATTRIBUTION = (
    "KuaiRand: Gao et al., KuaiRand: An Unbiased Sequential Recommendation Dataset with Randomly Exposed Videos, CIKM 2022, "
    "kuairand.com, CC BY-SA 4.0. Changed: joined, encoded and counted as of each impression."
)


@dataclass(frozen=True)
class KuaiRandOptions:
    train_days: int = 10
    validation_days: int = 2
    test_days: int = 2
    history: int = 30
    """Most events of a history."""
    buckets: int = 20
    utc_offset_hours: float = 8.0
    """Offset of the local calendar, that of Beijing, for days, hours and weekdays."""
    month_statistics: bool = False
    """Adds the videos' counts of the whole month, which look into the future."""
    train_files: int = 4
    more: Callable[[Log], dict[str, NDArray[np.float64]]] | None = None
    """Statistics of the caller's own, of what is known before each impression: (N,) each by name, NaN where unknown."""


def prepare_kuairand(raw: Path, out: Path, options: KuaiRandOptions, say: Callable[[str], None]) -> dict[str, Any]:
    """Reads `raw` and writes `out`; returns the report. Raises DataError for bad input, and writes nothing then."""
    source = read_source(raw, options.month_statistics, say)
    log = clean_log(source.log)
    say(f"{log.rows_in:,} rows: {log.whole_row_duplicates:,} whole-row duplicates dropped, {log.merged_rows:,} merged")
    clock = LocalClock.at(options.utc_offset_hours)
    day = clock.days(log.time)
    days = choose_days(day, options.train_days, options.validation_days, options.test_days, clock)
    split = days.split_of(day)
    training = split == 0
    side = join_side(log, source, clock.utc_offset_ms)
    stored = read_stored(source.sequences)

    say("counting what was known before each impression")
    numbers = situation_statistics(log, side) | past_statistics(log, side, stored, clock.starts(day))
    if options.month_statistics:
        say("WARNING: the month's video statistics look into the future; figures with them mean nothing")
        numbers |= month_statistics(log, side)
    if options.more is not None:
        numbers |= options.more(log)
    say("vocabularies and histories")
    prepared = Prepared()
    add_ids(prepared, log, side, stored, training, clock.utc_offset_ms)
    sequence = add_history(prepared, log, side, stored, options.history)
    tasks = add_labels(prepared, log, training)
    watch_task, watched = add_watch_seconds(prepared, log, split, day)
    statistics = prepared.add_statistics(numbers, training, options.buckets)
    schema = Schema(
        group_column="user_id",
        time_column="time_ms",
        table=tuple(prepared.tables.values()),
        feature=(*prepared.features, *statistics),
        sequence=(sequence,),
        task=(*tasks, watch_task),
    )
    whole = pa.table({"user_id": pa.array(log.user), "time_ms": pa.array(log.time), **prepared.columns})
    splits = {name: whole.take(users_together(log.user, log.time, split == index)) for index, name in enumerate(SPLITS)}
    report = _report(log, side, days, split, tasks, prepared, splits) | {
        "numbers": {watch_task.name: watched.told(watch_task.values)},
        "files": list(source.log_files),
    }
    write_prepared(out, splits, {"train": options.train_files}, schema, prepared.vocabularies, report)
    return report


def _report(
    log: Log,
    side: Side,
    days: Days,
    split: NDArray[np.int8],
    tasks: tuple[TaskSpec, ...],
    prepared: Prepared,
    splits: dict[str, pa.Table],
) -> dict[str, Any]:
    per_split = {}
    for index, (name, table) in enumerate(splits.items()):
        rows = split == index
        per_split[name] = {
            "days": days.span(index),
            "rows": table.num_rows,
            "users": len(np.unique(log.user[rows])),
            "videos": len(np.unique(log.video[rows])),
            "positives": {t.name: int(log.happened[t.name][rows].sum()) for t in tasks},
            "watch_unknown": int((log.watch_known[rows] == 0).sum()),
        }
    return {
        "source": ATTRIBUTION,
        "rows_in": log.rows_in,
        "whole_row_duplicates": log.whole_row_duplicates,
        "merged_rows": log.merged_rows,
        "rows_before_the_training_days": int((split < 0).sum()),
        "impressions_without_user_features": side.users_missing,
        "impressions_without_video_features": side.videos_missing,
        "splits": per_split,
        "vocabularies": {name: v.rows for name, v in prepared.vocabularies.items()},
    }
