"""Numbered impressions of the generated log -> Arrow tables with a column for every kind of feature."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from home_dist.prepare.synthetic.world import CATEGORIES, TASKS, Ints, World
from home_dist.prepare.write import list_array

WATCH_SECONDS = "watch_seconds"
SCORES = 4
AGES = 5  # buckets of a history's field
_ITEM_STEP, _ITEM_START = 1_000_003, 17
_CITIES = 200
_TAGS = 3000
_EVENTS = 500_000  # events of histories that are in memory at a time


def item_ids(items: Ints) -> Ints:
    """Item numbers -> ids like a service's: large, with gaps, in the same order."""
    return items * _ITEM_STEP + _ITEM_START


def frozen_vectors(world: World, items: Ints, width: int) -> NDArray[np.float32]:
    """(n, width): latent vectors through a fixed linear map, plus noise."""
    return (world.item_latent(items) @ world.frozen_map[:, :width] + 0.3 * world.normal(60, items, width)).astype(np.float32)


def tables(world: World, first: int, count: int, vector_width: int, watch_times: bool = False) -> Iterator[pa.Table]:
    """Impressions first .. first + count - 1, in tables whose histories together have a bounded number of events. watch_times:
    with the column WATCH_SECONDS.

    An impression depends only on its number.
    """
    numbers = np.arange(first, first + count)
    users = np.where(numbers == 0, 0, world.zipf(world.uniform(70, numbers), world.users))
    # In a Zipf law the lowest numbers are the most frequent. Users are renumbered, so that user 0, who has the longest history,
    # is not the most frequent one.
    users = np.where(numbers == 0, 0, (users * 2_654_435_761 + 1) % world.users)
    ends = np.cumsum(world.history_lengths(users))
    start = 0
    while start < count:
        before = int(ends[start - 1]) if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + _EVENTS, side="right")))
        yield _table(world, numbers[start:stop], users[start:stop], vector_width, watch_times)
        start = stop


def _table(world: World, numbers: Ints, users: Ints, vector_width: int, watch_times: bool) -> pa.Table:
    half = world.uniform(71, numbers) < 0.5
    items = np.where(half, world.events(users, -numbers - 1), world.zipf(world.uniform(72, numbers), world.items))
    cities = (world.uniform(73, users) ** 2 * _CITIES).astype(np.int64)
    columns: dict[str, pa.Array] = {
        "user_number": pa.array(users),
        "time_ms": pa.array(1_700_000_000_000 + numbers * 1000),
        "user": pa.array([f"user_{u}" for u in users.tolist()]),
        "city": _nullable([f"city {c}" for c in cities.tolist()], world, 74, users),
        "item": pa.array(item_ids(items)),
        "author": pa.array(items // 7 * 31 + 5),
        "category": pa.array(world.category(items), pa.int32()),
    }
    columns |= _tags(world, items) | _statistics(world, numbers, users, items) | _vectors(world, users, items, vector_width)
    columns |= _history(world, numbers, users)
    logits = world.logits(users, items)
    chance = 1 / (1 + np.exp(-logits))
    for k, task in enumerate(TASKS):
        columns[task.name] = pa.array((world.uniform(80 + k, numbers) < chance[:, k]).astype(np.int8))
    columns["watch_known"] = pa.array((world.uniform(79, numbers) < 0.95).astype(np.int8))
    if watch_times:
        columns[WATCH_SECONDS] = pa.array(world.watch_seconds(numbers, items, logits[:, 0]).astype(np.float32))
    return pa.table(columns)


def _nullable(values: list, world: World, stream: int, entities: Ints, share: float = 0.05) -> pa.Array:
    return pa.array(values, mask=world.uniform(stream, entities) < share)


def _tags(world: World, items: Ints) -> dict[str, pa.Array]:
    """Up to four texts per item, each with a weight."""
    counts = (world.uniform(90, items) * 5).astype(np.int64)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    of, place = np.repeat(items, counts), np.arange(offsets[-1]) - np.repeat(offsets[:-1], counts)
    tags = world.zipf(world.uniform(91, of, place), _TAGS)
    texts = pa.array([f"tag {t}" for t in tags.tolist()], pa.string())
    weights = pa.array(world.uniform(92, of, place).astype(np.float32))
    bounds = pa.array(offsets, pa.int32())
    return {"tags": pa.ListArray.from_arrays(bounds, texts), "tag_weights": pa.ListArray.from_arrays(bounds, weights)}


def _statistics(world: World, numbers: Ints, users: Ints, items: Ints) -> dict[str, pa.Array]:
    activity = np.round(world.history_lengths(users) * (0.5 + world.uniform(100, numbers)))
    quality = world.item_latent(items)[:, 0] + 0.3 * world.normal(101, numbers, 1)[:, 0]
    return {
        "user_activity": _nullable(activity.tolist(), world, 103, users),
        "item_quality": _nullable(quality.tolist(), world, 104, items, share=0.1),
        "duration": pa.array(world.durations(items)),
        "user_age": _nullable((14 + 60 * world.uniform(106, users)).astype(int).tolist(), world, 107, users, share=0.2),
        "hour": pa.array(24 * world.uniform(108, numbers)),
    }


def _vectors(world: World, users: Ints, items: Ints, width: int) -> dict[str, pa.Array]:
    text = world.item_latent(items) @ world.text_map[:, :width] + 0.3 * world.normal(110, items, width)
    known = world.uniform(112, items) >= 0.1
    values = pa.array(text[known].astype(np.float32).reshape(-1))
    offsets = np.concatenate([[0], np.cumsum(np.where(known, width, 0))])
    bounds = pa.array(offsets.astype(np.int32), mask=np.append(~known, False))  # a null offset makes a null list
    scores = world.user_latent(users) @ world.score_map[:, :SCORES] + 0.5 * world.normal(113, users, SCORES)
    flat = pa.array((100 * scores + 7).astype(np.float32).reshape(-1))
    return {
        "item_text": pa.ListArray.from_arrays(bounds, values),
        "user_scores": pa.FixedSizeListArray.from_arrays(flat, SCORES),
    }


def _history(world: World, numbers: Ints, users: Ints) -> dict[str, pa.Array]:
    """The newest events before the impression, oldest first. Every 1000 impressions, each user's life gets one more event."""
    lengths = world.history_lengths(users)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    newest = numbers // 1000 + world.max_history
    back = np.repeat(offsets[1:], lengths) - np.arange(offsets[-1])  # 1 for the newest
    items = world.events(np.repeat(users, lengths), np.repeat(newest, lengths) - back)
    age = np.minimum(np.log2(back) / 4, AGES - 1).astype(np.int32)
    return {
        "watched_item": list_array(item_ids(items), offsets),
        "watched_category": list_array(world.category(items).astype(np.int32), offsets),
        "watched_age": list_array(age, offsets),
    }


def draft(frozen: str, vector_width: int, watch_times: bool = False) -> str:
    """The schema's draft, which `home-dist prepare fit` reads."""
    tasks = "\n".join(
        f'  {{ name = "{t.name}", group = "{t.group}", column = "{t.name}"'
        + (', weight_column = "watch_known"' if t.group == "watch" else "")
        + " },"
        for t in TASKS
    )
    if watch_times:
        tasks += (
            f'\n  {{ name = "{WATCH_SECONDS}", group = "watch", column = "{WATCH_SECONDS}", kind = "regression", unit = "s", '
            'duration = "duration", weight_column = "watch_known" },'
        )
    return f"""# Fitted on train/ by `home-dist prepare fit`: schema.toml beside this file is the result.
group_column = "user_number"
time_column = "time_ms"
table = [
  {{ name = "user", values = {{ kind = "vocabulary", type = "text", min_count = 2, unknown_rows = 16 }} }},
  {{ name = "city", values = {{ kind = "vocabulary", type = "text", min_count = 5 }} }},
  {{ name = "author", values = {{ kind = "vocabulary", type = "integer", min_count = 2, unknown_rows = 4 }} }},
  {{ name = "item", rows = 65536, values = {{ kind = "hash", type = "integer", seed = 1 }} }},
  {{ name = "tag", rows = 2048, values = {{ kind = "hash", type = "text", seed = 2 }} }},
  {{ name = "category", rows = {CATEGORIES} }},
  {{ name = "event_age", rows = {AGES} }},
]
feature = [
  {{ kind = "id", name = "user", column = "user", table = "user" }},
  {{ kind = "id", name = "city", column = "city", table = "city" }},
  {{ kind = "id", name = "item", column = "item", table = "item" }},
  {{ kind = "id", name = "author", column = "author", table = "author" }},
  {{ kind = "id", name = "category", column = "category", table = "category" }},
  {{ kind = "id", name = "tags", column = "tags", table = "tag", pooling = "weighted", weights = "tag_weights" }},
  {{ kind = "statistic", name = "user_activity", column = "user_activity", buckets = {{ by = "logarithmic", count = 12 }} }},
  {{ kind = "statistic", name = "item_quality", column = "item_quality" }},
  {{ kind = "statistic", name = "duration", column = "duration", buckets = {{ by = "equal_width", count = 10 }} }},
  {{ kind = "statistic", name = "user_age", column = "user_age", boundaries = [18, 25, 35, 50] }},
  {{ kind = "dense", name = "hour", column = "hour" }},
  {{ kind = "dense", name = "user_scores", column = "user_scores", width = {SCORES} }},
  {{ kind = "pretrained", name = "item_text", column = "item_text", width = {vector_width} }},
  {{ kind = "pretrained", name = "item_video", column = "item", width = {vector_width}, frozen = "{frozen}" }},
]
sequence = [
  {{ name = "watched", events = [
    {{ column = "watched_item", table = "item", target = "item" }},
    {{ column = "watched_category", table = "category", target = "category" }},
    {{ column = "watched_age", table = "event_age" }},
  ] }},
]
task = [
{tasks}
]
"""
