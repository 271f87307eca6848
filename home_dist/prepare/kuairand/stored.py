"""Stored sequences: each user's last watched videos before the log begins, as events with one common time.

Only the time of the last video is known. All of a user's stored events therefore count from that moment on, and never before.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from home_dist.ids.keys import codes
from home_dist.prepare.asof import Ints
from home_dist.prepare.raw_tables import int_column
from home_dist.prepare.written_vocabulary import published_keys


@dataclass(frozen=True)
class StoredEvents:
    """Events (M,), grouped by user, oldest first; and counts per user (U,) of the time before the log."""

    user: Ints
    video: Ints
    time: Ints
    """The time of the user's last stored event."""
    long_view: NDArray[np.int8]
    like: NDArray[np.int8]
    users: Ints
    users_time: Ints
    users_length: Ints
    """Number of all impressions before the log, stored or not."""
    users_likes: Ints
    """Number of stored likes, which reach back further than the stored impressions."""

    def __len__(self) -> int:
        return len(self.user)


def read_stored(table: pa.Table | None) -> StoredEvents:
    """Events of the table of sequences; none if the table is missing."""
    if table is None:
        none, flags = np.empty(0, np.int64), np.empty(0, np.int8)
        return StoredEvents(none, none, none, flags, flags, none, none, none, none)
    user = int_column(table, "user_id")
    watched, lengths = _flat(table, "watch_seq")
    liked, likes = _flat(table, "like_seq")
    longed, long_views = _flat(table, "long_watch_seq")
    owner = np.repeat(np.arange(len(user)), lengths)
    video_of_user = codes(
        pa.array(np.concatenate([owner, np.repeat(np.arange(len(user)), likes), np.repeat(np.arange(len(user)), long_views)])),
        published_keys(np.concatenate([watched, liked, longed])),
    )
    watched_codes, liked_codes, long_codes = np.split(video_of_user, [len(watched), len(watched) + len(liked)])
    return StoredEvents(
        user=user[owner],
        video=watched,
        time=int_column(table, "last_time_ms")[owner],
        long_view=np.isin(watched_codes, long_codes).astype(np.int8),
        like=np.isin(watched_codes, liked_codes).astype(np.int8),
        users=user,
        users_time=int_column(table, "last_time_ms"),
        users_length=int_column(table, "history_len") if "history_len" in table.column_names else lengths,
        users_likes=likes,
    )


def _flat(table: pa.Table, name: str) -> tuple[Ints, Ints]:
    """Values of a column of lists, one after another, and the lists' lengths."""
    column = table.column(name).combine_chunks()
    return column.flatten().to_numpy(), np.diff(column.offsets.to_numpy().astype(np.int64))
