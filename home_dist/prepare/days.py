"""Splits by local day: first the training days, then those of validation, then those of the test, up to the last day."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from home_dist.errors import DataError
from home_dist.prepare.asof import Ints

SPLITS = ("train", "validation", "test")
DAY_MS = 24 * 3600 * 1000


@dataclass(frozen=True)
class Days:
    """Numbers of days since 1970 in local time; each part ends where the next begins."""

    train: int
    validation: int
    test: int
    end: int
    utc_offset_ms: int

    def start_ms(self, days: Ints) -> Ints:
        """(N,) the first moment of local days (N,)."""
        return days * DAY_MS - self.utc_offset_ms

    def span(self, position: int) -> list[str]:
        """First and last day of the part at a position in SPLITS."""
        bounds = (self.train, self.validation, self.test, self.end)
        return [day_name(bounds[position]), day_name(bounds[position + 1] - 1)]

    def split_of(self, days: Ints) -> NDArray[np.int8]:
        """(N,) -1: before the training part, 0, 1, 2: position in SPLITS."""
        return (np.searchsorted([self.train, self.validation, self.test], days, side="right") - 1).astype(np.int8)


def local_days(time_ms: Ints, utc_offset_hours: float) -> Ints:
    """(N,) days since 1970-01-01 on a local calendar."""
    return (time_ms + int(utc_offset_hours * 3600 * 1000)) // DAY_MS


def choose_days(
    days: Ints, train: int, validation: int, test: int, utc_offset_hours: float, asked: str = "--{}-days {}"
) -> Days:
    """The parts of the given numbers of days that end with the last day (N,) that has rows.

    asked: how the user says a part's number of days. Raises DataError when a part would hold no rows.
    """
    end = int(days.max()) + 1
    chosen = Days(
        train=end - test - validation - train,
        validation=end - test - validation,
        test=end - test,
        end=end,
        utc_offset_ms=int(utc_offset_hours * 3600 * 1000),
    )
    there = set(np.unique(chosen.split_of(days)).tolist())
    for position, (name, wanted) in enumerate(zip(SPLITS, (train, validation, test), strict=True)):
        if wanted < 1 or position not in there:
            first, last = day_name(int(days.min())), day_name(end - 1)
            raise DataError(
                f"{asked.format(name, wanted)}: the {name} part would hold no rows; the log's days are {first} to {last}. "
                "Choose fewer days for the other parts, or at least one for this."
            )
    return chosen


def day_name(day: int) -> str:
    return str(np.datetime64(day, "D"))
