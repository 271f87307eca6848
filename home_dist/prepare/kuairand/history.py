"""Each impression's history: what its user watched strictly before it, first the stored sequence, then the log's rows.

A stored event tells the video and whether it was a long view or liked, but not when and how far it was watched. Its share and
age are therefore 0, "unknown".
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from home_dist.prepare.asof import AsOf, Ints
from home_dist.prepare.kuairand.log import Log
from home_dist.prepare.kuairand.stored import StoredEvents

SHARE_BOUNDS = (0.001, 0.1, 0.25, 0.5, 0.75, 1.0, 2.0)
"""Bounds of played time / duration."""
AGE_BOUNDS_MS = tuple(int(h * 3_600_000) for h in (1 / 6, 1, 6, 24, 72, 168))
SHARES, AGES, OUTCOMES = len(SHARE_BOUNDS) + 2, len(AGE_BOUNDS_MS) + 2, 7
"""Rows of the three tables; row 0 stands for "unknown"."""


@dataclass(frozen=True)
class Histories:
    """offsets (N + 1,); the others (offsets[-1],), oldest event first within an impression."""

    offsets: Ints
    video: Ints
    share: NDArray[np.int32]
    outcome: NDArray[np.int32]
    """1 stored, 2 stored long view, 3 stored like; 4 shown, 5 clicked, 6 long view. Interactions of the log itself are left
    out, for the reason in statistics.past_statistics."""
    age: NDArray[np.int32]


def histories(log: Log, stored: StoredEvents, most: int) -> Histories:
    """The newest `most` events of each impression."""
    none = np.zeros(len(stored), np.int32)
    video = np.concatenate([stored.video, log.video])
    share = np.concatenate([none, _shares(log)])
    outcome = np.concatenate([_stored_outcomes(stored), _outcomes(log)])
    time = np.concatenate([stored.time, log.time])
    events = AsOf(np.concatenate([stored.user, log.user]), time, log.user, log.time)
    offsets, index = events.latest(most)
    passed = np.repeat(log.time, np.diff(offsets)) - time[index]
    age = np.searchsorted(AGE_BOUNDS_MS, passed, side="right").astype(np.int32) + 1
    age[index < len(stored)] = 0
    return Histories(offsets, video[index], share[index], outcome[index], age)


def _shares(log: Log) -> NDArray[np.int32]:
    played = log.play_ms / np.maximum(log.duration_ms, 1)
    return np.where(log.duration_ms > 0, np.searchsorted(SHARE_BOUNDS, played, side="right") + 1, 0).astype(np.int32)


def _stored_outcomes(stored: StoredEvents) -> NDArray[np.int32]:
    return np.where(stored.like > 0, 3, np.where(stored.long_view > 0, 2, 1)).astype(np.int32)


def _outcomes(log: Log) -> NDArray[np.int32]:
    best = np.where(log.happened["click"] > 0, 5, 4)
    return np.where(log.happened["long_view"] > 0, 6, best).astype(np.int32)
