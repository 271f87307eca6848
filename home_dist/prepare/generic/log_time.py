"""The time of logs without times: the order of their files, or none."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from home_dist.prepare.asof import Ints
from home_dist.prepare.days import ALL_ROWS
from home_dist.prepare.generic.log_files import File
from home_dist.prepare.generic.log_spec import LogSpec
from home_dist.prepare.local_clock import Clock


@dataclass(frozen=True)
class FileClock:
    """A row's moment is its number in the whole log; files are days."""

    begins: Ints
    """(files + 1,) number of rows before each file."""

    def days(self, time_ms: Ints) -> Ints:
        return np.searchsorted(self.begins, time_ms, side="right") - 1

    def starts(self, days: Ints) -> Ints:
        return self.begins[np.clip(days, 0, len(self.begins) - 1)]

    def day_name(self, day: int) -> str:
        return f"file {day + 1:,}"


@dataclass(frozen=True)
class NoClock:
    """All rows are of one moment."""

    def days(self, time_ms: Ints) -> Ints:
        return np.zeros_like(time_ms)

    def starts(self, days: Ints) -> Ints:
        return np.clip(days, 0, 1)

    def day_name(self, day: int) -> str:
        return ALL_ROWS


def order_note(names: Sequence[str]) -> str | None:
    """A line about files whose names are in another order than the numbers in them; names: in the order of the log."""
    by_number = sorted(names, key=lambda n: [int(p) if p.isdigit() else p for p in re.split(r"(\d+)", n)])
    place = next((n for n, (mine, other) in enumerate(zip(names, by_number, strict=True)) if mine != other), None)
    if place is None:
        return None
    return (
        f'WARNING: order = "files" takes {names[place]} before {by_number[place]}: names are texts. Write numbers '
        "with leading zeros if they are the order"
    )


def clock_of(spec: LogSpec, files: Sequence[File]) -> Clock:
    """files: all of the log."""
    if spec.time is not None:
        return spec.clock
    if spec.order is None:
        return NoClock()
    return FileClock(np.concatenate([[0], np.cumsum([f.rows for f in files])]))
