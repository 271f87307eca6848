"""Local time of a log: a fixed offset from UTC, or a time zone of the IANA database with its changes of the clock.

The database is the system's, or, where there is none, that of the package tzdata. A change of the clock is found by asking
`zoneinfo` for the offset of each UTC day and halving the days between which it differs. Between the changes arrays are computed
with the offsets alone.
"""

import difflib
import zoneinfo
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Protocol

import numpy as np

from home_dist.prepare.asof import Ints

HOUR_MS = 3600 * 1000
DAY_MS = 24 * HOUR_MS
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_YEARS = (1900, 2101)
"""Years whose changes of the clock are known. Before them the first offset holds, after them the last one."""


class Clock(Protocol):
    """Cuts the time of a log into days."""

    def days(self, time_ms: Ints) -> Ints: ...
    def starts(self, days: Ints) -> Ints: ...
    def day_name(self, day: int) -> str: ...


@dataclass(frozen=True)
class LocalClock:
    utc_offset_ms: int = 0
    """How far the clock is ahead of UTC, without a zone."""
    zone: str | None = None
    """Name in the IANA database, such as Europe/Berlin."""

    @staticmethod
    def at(utc_offset_hours: float) -> "LocalClock":
        return LocalClock(int(utc_offset_hours * HOUR_MS))

    @property
    def name(self) -> str:
        return self.zone or f"UTC{self.utc_offset_ms / HOUR_MS:+g} h"

    def local_ms(self, time_ms: Ints) -> Ints:
        """(N,) what the clock shows at moments (N,), in ms since 1970-01-01 00:00 of the clock."""
        if self.zone is None:
            return time_ms + self.utc_offset_ms
        changes = _changes(self.zone)
        return time_ms + changes.offsets[np.searchsorted(changes.begins[1:], time_ms, side="right")]

    def moments(self, local_ms: Ints) -> Ints:
        """(N,) the first moment at which the clock shows the time (N,) or a later one. A time that the clock shows twice is the
        first of both; one that it leaps over is the moment of the leap."""
        if self.zone is None:
            return local_ms - self.utc_offset_ms
        changes = _changes(self.zone)
        stretch = np.searchsorted(changes.shown_until[:-1], local_ms, side="right")
        return np.maximum(local_ms - changes.offsets[stretch], changes.begins[stretch])

    def starts(self, days: Ints) -> Ints:
        """(N,) the first moments of local days (N,). A day begins when the clock first shows its date, and lasts until the next
        one begins: 23 to 25 hours in most zones, and none where a zone has left out a date."""
        return self.moments(days * DAY_MS)

    def days(self, time_ms: Ints) -> Ints:
        """(N,) local days of moments (N,), since 1970-01-01."""
        days = self.local_ms(time_ms) // DAY_MS
        if self.zone is None:
            return days
        # A clock that is set back over midnight shows the date before again.
        return days + (self.starts(days + 1) <= time_ms)

    def day_name(self, day: int) -> str:
        return str(np.datetime64(day, "D"))

    def calendar(self, time_ms: Ints) -> dict[str, Ints]:
        """(N,) each: hour of the day, as the clock shows it, and weekday (0 is Monday)."""
        return {"hour": self.local_ms(time_ms) // HOUR_MS % 24, "weekday": (self.days(time_ms) + 3) % 7}  # day 0: a Thursday


@dataclass(frozen=True)
class _ClockChanges:
    """(C,) each."""

    begins: Ints
    """Moments from which an offset holds; the first one is as early as can be."""
    offsets: Ints
    shown_until: Ints
    """The latest time, exclusive, that the clock has shown before the next change; the last one is as late as can be."""


@lru_cache(maxsize=16)
def _changes(name: str) -> _ClockChanges:
    zone = zoneinfo.ZoneInfo(name)

    def offset(second: int) -> int:
        told = (_EPOCH + timedelta(seconds=second)).astimezone(zone).utcoffset()
        return 0 if told is None else round(told.total_seconds() * 1000)

    first, last = (int((datetime(year, 1, 1, tzinfo=UTC) - _EPOCH).total_seconds()) for year in _YEARS)
    begins, offsets = [np.iinfo(np.int64).min // 2], [offset(first)]
    for day in range(first, last, 24 * 3600):
        low, high = day, day + 24 * 3600
        if offset(high) == offsets[-1]:
            continue
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if offset(middle) == offsets[-1] else (low, middle)
        begins.append(high * 1000)
        offsets.append(offset(high))
    begun, held = np.array(begins), np.array(offsets)
    shown = np.append(begun[1:] + held[:-1], np.iinfo(np.int64).max // 2)
    return _ClockChanges(begun, held, np.maximum.accumulate(shown))


def check_zone(name: str) -> None:
    """Raises ValueError for a name that is not in the IANA database."""
    try:
        zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        known = sorted(zoneinfo.available_timezones())
        if not known:
            raise ValueError(f"{name!r} cannot be looked up: this machine has no IANA time zones. pip install tzdata") from None
        folded = {zone.casefold(): zone for zone in known}
        near = [folded[n] for n in difflib.get_close_matches(name.casefold(), folded, 3, 0.7)] or ["Europe/Berlin"]
        raise ValueError(f"{name!r} is no time zone of the IANA database, such as {', '.join(near)}") from None
