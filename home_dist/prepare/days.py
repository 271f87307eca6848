"""Splits by local day: training days, then validation days, then test days, up to the log's last day."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from home_dist.errors import DataError
from home_dist.prepare.asof import Ints
from home_dist.prepare.local_clock import DAY_MS as DAY_MS
from home_dist.prepare.local_clock import HOUR_MS as HOUR_MS
from home_dist.prepare.local_clock import Clock

ALL_ROWS = "all rows"
"""Name of the day of a log without times and without an order."""
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Days:
    """First day of each part and the end of the last, in days since 1970 in local time."""

    train: int
    validation: int
    test: int
    end: int
    clock: Clock

    @property
    def end_ms(self) -> int:
        """The moment after the last day."""
        return int(self.clock.starts(np.array([self.end]))[0])

    def span(self, position: int) -> list[str]:
        """First and last day of the part at a position in SPLITS."""
        bounds = (self.train, self.validation, self.test, self.end)
        return [self.clock.day_name(bounds[position]), self.clock.day_name(bounds[position + 1] - 1)]

    def split_of(self, days: Ints) -> NDArray[np.int8]:
        """(N,) position in SPLITS of days (N,); -1 before the training part."""
        return (np.searchsorted([self.train, self.validation, self.test], days, side="right") - 1).astype(np.int8)


def timestamp_ms(timestamps: pa.Array | pa.ChunkedArray) -> Ints:
    """(n,) milliseconds since 1970, of timestamps without nulls; finer ones are cut."""
    return np.asarray(timestamps.cast(pa.timestamp("ms", timestamps.type.tz), safe=False).cast(pa.int64()))


def choose_days(
    days: Ints,
    train: int,
    validation: int,
    test: int,
    clock: Clock,
    asked: str = "--{}-days {}",
    unit: str = "days",
) -> Days:
    """Parts of the given numbers of days. The test part ends with the last of `days` (N,), the day of each row.

    asked, unit: how the user sets a part's number of days and calls them, for messages. Raises DataError when a part would hold
    no rows.
    """
    end = int(days.max()) + 1
    chosen = Days(
        train=end - test - validation - train,
        validation=end - test - validation,
        test=end - test,
        end=end,
        clock=clock,
    )
    filled = set(np.unique(chosen.split_of(days)).tolist())
    for position, (name, count) in enumerate(zip(SPLITS, (train, validation, test), strict=True)):
        if count < 1 or position not in filled:
            first, last = clock.day_name(int(days.min())), clock.day_name(end - 1)
            raise DataError(
                f"{asked.format(name, count)}: the {name} part would hold no rows; the log's {unit} are {first} to {last}. "
                f"Choose fewer {unit} for the other parts, or at least one for this."
            )
    return chosen


def day_name(day: int) -> str:
    return str(np.datetime64(day, "D"))
