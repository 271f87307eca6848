"""A prepared data set whose rows' days are known, and the origins that its days allow."""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from home_dist.config import RunConfig
from home_dist.errors import ConfigError, DataError
from home_dist.files.listing import Found, find_files
from home_dist.files.stores import open_store
from home_dist.prepare.days import SPLITS, day_name, timestamp_ms
from home_dist.prepare.local_clock import LocalClock
from home_dist.schema import Schema, load_schema

_RANGE = re.compile(r"([\d-]+)(?::([\d-]+))?")
_OFFSETS = range(-12, 15)
_EARLIEST_MS = 10**11
"""In 1973. Times below it are seconds, most likely."""


@dataclass(frozen=True)
class RollingOrigin:
    """Trains on days 1 to `number`, chooses on the next day, tests on the one after it."""

    number: int
    """Of the last training day; the first day of the data has number 1."""
    day: int
    """The last training day, in days since 1970 on the local calendar."""

    @property
    def name(self) -> str:
        return f"origin-{self.number:02d}"

    def split_of(self, days: NDArray[np.int64]) -> NDArray[np.int8]:
        """(n,) position in SPLITS of days (n,); -1 after the test day."""
        split = np.clip(days - self.day, 0, 3).astype(np.int8)
        return np.where(split > 2, -1, split).astype(np.int8)


@dataclass(frozen=True)
class DatedData:
    schema_path: Path
    schema: Schema
    files: tuple[tuple[str, Path], ...]
    """(split, file), in the order of SPLITS and names."""
    utc_offset_hours: float
    rows: dict[int, int]
    """By local day."""
    fitted_until: int
    """The last day of the training part, on which vocabularies and statistics were fitted."""

    @property
    def folder(self) -> Path:
        """Of the schema, with vocabularies and frozen tables beside it."""
        return self.schema_path.parent

    def days_of(self, times: pa.ChunkedArray) -> NDArray[np.int64]:
        """(n,) local days of the time column's values."""
        return LocalClock.at(self.utc_offset_hours).days(milliseconds(times))

    @property
    def first(self) -> int:
        return min(self.rows)

    @property
    def last(self) -> int:
        return max(self.rows)

    def origins(self, asked: str) -> list[RollingOrigin]:
        """asked: as "8:12" or "2022-05-02:2022-05-06", first and last origin, or one of them. Raises ConfigError, also for an
        origin whose days hold no rows."""
        match = _RANGE.fullmatch(asked.strip())
        if match is None:
            raise ConfigError(
                f"--rolling {asked}: write the first and the last origin, as 8:12 (numbers of days) or 2022-05-02:2022-05-06"
            )
        begin, end = (self._day(part, asked) for part in (match[1], match[2] or match[1]))
        if end < begin:
            raise ConfigError(f"--rolling {asked}: the last origin comes before the first one")
        span = f"the data's days are {day_name(self.first)} (1) to {day_name(self.last)} ({self.last - self.first + 1})"
        for day in (begin, end):
            if not self.first <= day <= self.last - 2:
                raise ConfigError(
                    f"--rolling {asked}: origin {day - self.first + 1} needs training days up to it and two days after it; "
                    f"{span}, so that origins are 1 to {self.last - self.first - 1}"
                )
        for day in range(begin, end + 1):
            for part, needed in (("validation", day + 1), ("test", day + 2)):
                if needed not in self.rows:
                    raise ConfigError(
                        f"--rolling {asked}: origin {day - self.first + 1} has no {part} rows: {day_name(needed)} is empty; "
                        f"{span}"
                    )
        return [RollingOrigin(day - self.first + 1, day) for day in range(begin, end + 1)]

    def _day(self, text: str, asked: str) -> int:
        if text.isdigit():
            return self.first + int(text) - 1
        try:
            return int(np.datetime64(text, "D").astype(np.int64))
        except ValueError:
            raise ConfigError(
                f"--rolling {asked}: {text} is neither the number of a day nor a date such as 2022-05-02"
            ) from None


def read_dated(config: RunConfig, utc_offset_hours: float | None = None) -> DatedData:
    """Reads the time column of a run's data. utc_offset_hours: of the calendar of days; None takes the whole hours under which
    no day lies in two splits. Raises ConfigError for a run whose data cannot be cut by day, DataError for bad files."""
    data = config.data
    for key, given in (("data.follow", data.follow), ("data.sample", data.sample)):
        if given:
            raise ConfigError(f"{key}: --rolling cuts a finite data folder by day; leave it out")
    for place in (data.path, data.schema_place):
        if not open_store(place)[0].local:
            raise ConfigError(f"{data.shown}: --rolling cuts local folders alone. Copy the data to a disk first.")
    schema = load_schema(config.schema_path())
    if schema.time_column is None:
        raise ConfigError(
            f"{config.schema_path()}: has no time_column, so that rows have no days. Name the column of times there "
            "(milliseconds since 1970, or timestamps)."
        )
    files: list[tuple[str, Path]] = []
    for split in SPLITS:
        if place := getattr(data, split):
            _, listed = find_files(f"{data.path}/{place}")
            files += [(split, _plain(found)) for found in listed]
    moments = [(split, _moments(path, schema.time_column)) for split, path in files]
    bounds = {
        split: np.concatenate([times for other, times in moments if other == split])
        for split in dict.fromkeys(split for split, _ in moments)
    }
    if not sum(map(len, bounds.values())):
        raise DataError(f"{data.path}: holds no rows")
    offset = _offset(bounds, utc_offset_hours)
    clock = LocalClock.at(offset)
    days = clock.days(np.concatenate(list(bounds.values())))
    numbers, counts = np.unique(days, return_counts=True)
    return DatedData(
        schema_path=config.schema_path(),
        schema=schema,
        files=tuple(files),
        utc_offset_hours=offset,
        rows=dict(zip(numbers.tolist(), counts.tolist(), strict=True)),
        fitted_until=int(clock.days(bounds["train"]).max()) if len(bounds["train"]) else int(days.min()) - 1,
    )


def _plain(found: Found) -> Path:
    if found.partition:
        raise ConfigError(
            f"{found.path}: columns in folders' names are not known to --rolling. Write them as columns of the files."
        )
    return Path(found.path)


def _moments(path: Path, column: str) -> NDArray[np.int64]:
    try:
        times = pq.read_table(path, columns=[column])[column]
    except (KeyError, IndexError, pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path}: the time column {column!r} cannot be read ({str(error).splitlines()[0]})") from None
    if times.null_count:
        raise DataError(f"{path}: {times.null_count:,} rows have no {column}, so that their day is unknown")
    moments = milliseconds(times)
    if len(moments) and moments.max() < _EARLIEST_MS:
        raise DataError(f"{path}: {column} is read as milliseconds since 1970, and lies before 1973. Write milliseconds.")
    return moments


def milliseconds(times: pa.ChunkedArray) -> NDArray[np.int64]:
    """(n,) since 1970, of whole numbers (milliseconds) or timestamps. Raises DataError for another type."""
    if pa.types.is_timestamp(times.type):
        return timestamp_ms(times)
    if not pa.types.is_integer(times.type):
        raise DataError(f"the time column has type {times.type}; it must hold milliseconds since 1970 or timestamps")
    return times.to_numpy().astype(np.int64)


def _offset(moments: dict[str, NDArray[np.int64]], given: float | None) -> float:
    if given is not None:
        return given
    spans = [(m.min(), m.max()) for m in moments.values() if len(m)]

    def apart(hours: int) -> bool:
        days = sorted(LocalClock.at(hours).days(np.array(span)).tolist() for span in spans)
        return all(a[1] < b[0] for a, b in zip(days, days[1:], strict=False))

    possible = [hours for hours in _OFFSETS if apart(hours)]
    if 0 in possible or len(spans) < 2:
        return 0.0
    if len(possible) == 1:
        return float(possible[0])
    why = f"hours {possible[0]} to {possible[-1]} fit" if possible else "under none do splits begin with a day"
    raise ConfigError(f"--utc-offset-hours: give the calendar of the log's days, which the splits do not tell: {why}")
