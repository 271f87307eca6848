"""Adds id columns, histories and labels of all impressions, with their tables and features of the schema."""

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from home_dist.prepare.asof import Ints
from home_dist.prepare.data_folder import Prepared
from home_dist.prepare.days import DAY_MS
from home_dist.prepare.kuairand.history import AGES, OUTCOMES, SHARES, histories
from home_dist.prepare.kuairand.log import GROUPS, Log
from home_dist.prepare.kuairand.side import Side
from home_dist.prepare.kuairand.stored import StoredEvents
from home_dist.prepare.label_report import NumberLabel
from home_dist.prepare.write import list_array
from home_dist.schema import EventField, SequenceSpec, TableSpec, TaskSpec

HISTORY = "watched"
WATCH_SECONDS, DURATION = "watch_seconds", "duration_seconds"


def add_ids(
    prepared: Prepared, log: Log, side: Side, stored: StoredEvents, training: NDArray[np.bool_], utc_offset_ms: int
) -> None:
    """Adds users and videos with their side tables, and time and place (tab) of the impression."""
    prepared.add_id("user", log.user, training, min_count=2)
    prepared.add_id("video", log.video, training, min_count=2, extra=stored.video)
    if (side.author >= 0).any():
        prepared.add_id("author", side.author, training, min_count=2, extra=side.videos.authors_of(stored.video))
    if (side.music >= 0).any():
        prepared.add_id("music", side.music, training, min_count=2)
    if len(side.tags):
        prepared.add_list("tags", "tag", side.tags, side.tag_offsets, training, min_count=5)
    prepared.add_number("tab", np.clip(log.tab, 0, 31), 32)
    local = log.time + utc_offset_ms
    prepared.add_number("hour", local // (DAY_MS // 24) % 24, 24)
    prepared.add_number("weekday", (local // DAY_MS + 3) % 7, 7)  # 1970-01-01 was a Thursday; 0 is Monday
    for name, texts in side.categories.items():
        prepared.add_id(name, texts, training, min_count=5)


def add_history(prepared: Prepared, log: Log, side: Side, stored: StoredEvents, most: int) -> SequenceSpec:
    """Adds columns watched_*, of at most `most` events. Their videos and authors share the impression's tables."""
    past = histories(log, stored, most)
    events = [EventField(column=f"{HISTORY}_video", table="video", target="video")]
    values = {"video": prepared.vocabularies["video"].encode(past.video)}
    if "author" in prepared.vocabularies:
        events.append(EventField(column=f"{HISTORY}_author", table="author", target="author"))
        values["author"] = prepared.vocabularies["author"].encode(side.videos.authors_of(past.video))
    for name, column_values, rows in (
        ("share", past.share, SHARES),
        ("outcome", past.outcome, OUTCOMES),
        ("age", past.age, AGES),
    ):
        table = f"{HISTORY}_{name}"
        prepared.tables[table] = TableSpec(name=table, rows=rows)
        events.append(EventField(column=table, table=table))
        values[name] = column_values
    prepared.columns.update({f"{HISTORY}_{n}": list_array(v, past.offsets) for n, v in values.items()})
    return SequenceSpec(name=HISTORY, events=tuple(events))


def add_watch_seconds(prepared: Prepared, log: Log, split: NDArray[np.int8], day: Ints) -> tuple[TaskSpec, NumberLabel]:
    """Adds the watch time and the video's duration, in seconds, with the weight of labels that need the duration; returns the
    task, and what the report says of it. split, day: (N,).

    Watch times are not cut. None in KuaiRand-Pure is absurd: the longest is 898 s, of videos of up to 1178 s, and one in 10,000
    is above 557 s.
    """
    seconds = (log.play_ms / 1000).astype(np.float32)
    known = log.watch_known > 0
    durations = np.where(known, log.duration_ms / 1000, np.nan).astype(np.float32)
    seconds[~known] = 0
    prepared.columns[f"label_{WATCH_SECONDS}"] = pa.array(seconds)
    prepared.columns[DURATION] = pa.array(durations, from_pandas=True)
    label = NumberLabel(has_duration=True)
    label.add_all(seconds.astype(np.float64), known, durations.astype(np.float64), split.astype(np.int64), day)
    task = TaskSpec(
        name=WATCH_SECONDS,
        group="watch",
        column=f"label_{WATCH_SECONDS}",
        kind="regression",
        unit="s",
        duration=DURATION,
        weight_column="watch_known",
        values=label.facts.values(),
        means="play_time_ms * 0.001, beside the duration duration_ms * 0.001, known where duration_ms > 0",
    )
    return task, label


def add_labels(prepared: Prepared, log: Log, training: NDArray[np.bool_]) -> tuple[TaskSpec, ...]:
    """Adds columns label_*, and watch_known, the weight of labels that need the video's duration."""
    prepared.columns["watch_known"] = pa.array(log.watch_known)
    tasks = []
    for group, names in GROUPS.items():
        for name in names:
            label = log.happened[name]
            prepared.columns[f"label_{name}"] = pa.array(label)
            weighted = group == "watch"
            counted = training & (log.watch_known > 0) if weighted else training
            rate = float(label[counted].mean()) if counted.any() else 0.0
            tasks.append(
                TaskSpec(
                    name=name,
                    group=group,
                    column=f"label_{name}",
                    weight_column="watch_known" if weighted else None,
                    base_rate=round(rate, 6) if 0 < round(rate, 6) < 1 else None,
                )
            )
    return tuple(tasks)
