"""Statistics of user, video and situation from events strictly before an impression (asof.py); NaN where nothing was known.

Counts are stored as log1p, rates as smoothed log-odds. Names consist of key and behaviour: `video_like` is the rate of likes
among the video's earlier impressions.
"""

from collections.abc import Iterator

import numpy as np

from home_dist.ids.keys import codes
from home_dist.prepare.asof import AsOf, Ints
from home_dist.prepare.days import DAY_MS
from home_dist.prepare.kuairand.log import GROUPS, Log
from home_dist.prepare.kuairand.side import Side
from home_dist.prepare.kuairand.stored import StoredEvents
from home_dist.prepare.rates import Floats, base_rates, log_odds
from home_dist.prepare.written_vocabulary import published_keys

Columns = dict[str, Floats]

_WATCH = ("effective_view", "long_view", "complete_view")
_ALL = ("click", *GROUPS["interaction"], *_WATCH)

_KEYS: dict[str, tuple[tuple[str, ...], tuple[str, ...], float]] = {
    # name: keys it combines, behaviours, strength of the smoothing in impressions
    "user": (("user",), _ALL, 5.0),
    "video": (("video",), _ALL, 20.0),
    "tab": (("tab",), ("click", "like", "long_view"), 20.0),
    "author": (("author",), ("like", "profile_enter"), 20.0),
    "music": (("music",), ("long_view",), 20.0),
    "tag": (("tag",), ("click", "like", "profile_enter", "long_view"), 20.0),
    "user_tab": (("user", "tab"), ("click", "like", "long_view"), 5.0),
    "user_tag": (("user", "tag"), ("click",), 5.0),
    "user_length": (("user", "length"), ("long_view", "complete_view"), 5.0),
    "video_tab": (("video", "tab"), ("click", "long_view", "complete_view"), 10.0),
}
_DAY: dict[str, tuple[str, ...]] = {"user": ("click",), "video": ("like", "long_view")}
"""Keys whose last 24 hours are also counted separately, for these behaviours."""

LENGTH_MS = (7_000, 15_000, 30_000, 60_000, 120_000)
"""Bounds between classes of video length."""


def past_statistics(log: Log, side: Side, stored: StoredEvents, day_start: Ints) -> Columns:
    """(N,) each: counted from earlier rows of the log and from stored events. day_start: (N,), start of the local day, ms.

    A user's rates of interactions are counted up to the start of the day, as by a daily job. Most users who comment do so once.
    Counted to the second, their rate would jump with that comment; all that they see afterwards would rank above it. That
    would reverse the order within the user (a GAUC of 0.4).
    """
    keys = {
        "user": log.user,
        "video": log.video,
        "tab": log.tab,
        "author": side.author,
        "music": side.music,
        "tag": side.first_tag,
        "length": np.where(log.duration_ms > 0, np.searchsorted(LENGTH_MS, log.duration_ms), -1),
    }
    everyone = AsOf(np.zeros(len(log), np.int64), log.time, np.zeros(len(log), np.int64), log.time)
    bases = {b: base_rates(*seen(log, everyone, b)) for b in _ALL}
    columns: Columns = {}
    for name, (parts, behaviours, strength) in _KEYS.items():
        if any((keys[p] < 0).all() for p in parts):
            continue  # the key's side table is missing
        key = codes(*(published_keys(keys[p]) for p in parts))
        before = AsOf(key, log.time, key, log.time)
        windows = {name: (before, behaviours)}
        daily = AsOf(key, log.time, key, day_start) if "user" in parts else None
        if name in _DAY:
            windows[f"{name}_day"] = (before.since(DAY_MS), _DAY[name])
        for prefix, (events, rated) in windows.items():
            if len(parts) == 1:
                columns[f"{prefix}_count"] = np.log1p(events.count())
            for behaviour in rated:
                known = daily if daily is not None and behaviour in GROUPS["interaction"] else events
                columns[f"{prefix}_{behaviour}"] = log_odds(*seen(log, known, behaviour), bases[behaviour], strength)
    columns.update(_of_watching(log))
    columns.update(_of_session(log))
    columns.update(_of_stored(log, stored, bases))
    return columns


def situation_statistics(log: Log, side: Side) -> Columns:
    """(N,) each: attributes of the impression, its video and its user that are known before it is shown."""
    columns = {"duration": np.where(log.duration_ms > 0, np.log(np.maximum(log.duration_ms, 1)), np.nan)}
    if side.upload_ms is not None:
        age = (log.time - side.upload_ms) / DAY_MS
        columns["video_age"] = np.where((side.upload_ms >= 0) & (age >= 0), np.log1p(np.maximum(age, 0)), np.nan)
    for name, values in side.user_numbers.items():
        columns[f"{name}_log"] = np.where(values >= 0, np.log1p(np.maximum(values, 0)), np.nan)
    return columns


def month_statistics(log: Log, side: Side) -> Columns:
    """(N,) each: the videos' counts over the whole month, which look into the future of most impressions."""
    return {f"month_{n}": np.log1p(np.maximum(v, 0)) for n, v in side.month_counts.items()}


def seen(log: Log, events: AsOf, behaviour: str) -> tuple[Ints, Ints]:
    """(Q,) how often a behaviour happened before, and in how many events it could be known: watch labels need a duration."""
    known = events.sum(log.watch_known) if behaviour in _WATCH else events.count()
    return events.sum(log.happened[behaviour]), known


def _of_watching(log: Log) -> Iterator[tuple[str, Floats]]:
    """Per user and per video: mean played share of the duration, capped at 1, and log1p of the mean play time in seconds."""
    share = np.where(log.watch_known > 0, np.minimum(log.play_ms, log.duration_ms) * 1000 // np.maximum(log.duration_ms, 1), 0)
    for name, key in (("user", log.user), ("video", log.video)):
        events = AsOf(key, log.time, key, log.time)
        known = events.sum(log.watch_known)
        with np.errstate(invalid="ignore", divide="ignore"):
            yield f"{name}_played_share", np.where(known > 0, events.sum(share) / (1000 * known), np.nan)
            played = events.sum(np.minimum(log.play_ms, 600_000)) / events.count()
        yield f"{name}_played_time", np.where(events.count() > 0, np.log1p(played / 1000), np.nan)


def _of_session(log: Log) -> Iterator[tuple[str, Floats]]:
    """log1p of the seconds since the user's last impression, and rates of behaviours among the user's last three."""
    events = AsOf(log.user, log.time, log.user, log.time)
    last = events.newest()
    gap = np.where(last >= 0, log.time - log.time[last], 0)
    yield "user_gap", np.where(last >= 0, np.log1p(gap / 1000), np.nan)
    offsets, index = events.latest(3)
    owner = np.repeat(np.arange(len(log)), np.diff(offsets))
    counted = np.diff(offsets)
    for behaviour in ("click", "long_view"):
        hits = np.bincount(owner, log.happened[behaviour][index], minlength=len(log))
        with np.errstate(invalid="ignore", divide="ignore"):
            yield f"user_last3_{behaviour}", np.where(counted > 0, hits / counted, np.nan)


def _of_stored(log: Log, stored: StoredEvents, bases: dict[str, Floats]) -> Iterator[tuple[str, Floats]]:
    """Counts and rates per user and per video, from the sequences that were stored before the log began."""
    if not len(stored):
        return
    of_user = AsOf(stored.users, stored.users_time, log.user, log.time)
    length = of_user.sum(stored.users_length)
    yield "user_stored_count", np.log1p(length)
    likes = np.minimum(of_user.sum(stored.users_likes), length)
    yield "user_stored_like", log_odds(likes, length, bases["like"], 20.0)
    events = AsOf(stored.user, stored.time, log.user, log.time)
    yield "user_stored_long_view", log_odds(events.sum(stored.long_view), events.count(), bases["long_view"], 5.0)
    events = AsOf(stored.video, stored.time, log.video, log.time)
    yield "video_stored_count", np.log1p(events.count())
    for name, flags in (("long_view", stored.long_view), ("like", stored.like)):
        yield f"video_stored_{name}", log_odds(events.sum(flags), events.count(), bases[name], 20.0)
