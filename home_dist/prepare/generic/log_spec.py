"""A log described in TOML: which columns are keys, times, labels, features and histories."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, field_validator, model_validator

from home_dist.config.section import Count, Section
from home_dist.config.toml_file import read_model
from home_dist.errors import ConfigError
from home_dist.prepare.formats.format_section import FormatSection
from home_dist.prepare.generic import names, needs
from home_dist.prepare.generic.label_section import LabelSection
from home_dist.prepare.generic.log_sections import (
    HistorySection,
    IdSection,
    NumberSection,
    PastSection,
    SideSection,
)
from home_dist.prepare.generic.split_sections import Split
from home_dist.prepare.local_clock import LocalClock, check_zone


class LogSpec(Section):
    log: str
    """Path or pattern of the log's files, from the description's folder, or a URL. Folders such as date=2024-01-31 are columns
    like others, unless the files have a column of that name. Their values are whole numbers, numbers with a point, or dates
    where all are, else texts. __HIVE_DEFAULT_PARTITION__ is a missing value."""
    format: FormatSection = FormatSection()
    """How the log's files are written."""
    user: str | None = None
    """Column of whole numbers or texts. Without one, rows have no histories, and evaluations no GAUC."""
    time: str | None = None
    """Column of whole numbers since 1970, of timestamps or dates, or of ISO 8601 texts. Without one, and without `order`, rows
    have no past, and the split cannot be by days."""
    order: Literal["files"] | None = None
    """For logs without times: files in the order of their names, and rows in the order of their file, are in the order of time.
    No two rows are of one moment."""
    time_unit: Literal["s", "ms", "us"] = "ms"
    """Unit of times that are whole numbers."""
    utc_offset_hours: float | None = Field(default=None, ge=-14, le=14)
    """Offset of the local calendar, which gives days, hours and weekdays; 0 unless `time_zone` is given."""
    time_zone: str | None = None
    """In place of the offset: an IANA time zone, such as "Europe/Berlin". Days, hours and weekdays are those of its clocks: a
    day has 23 or 25 hours where they change. `days` of a [[past]] and `forget_days` are spans of 24 hours. Of times without a
    zone, one that the clocks show twice is the first of both, and one that they leap over is the moment of the leap."""
    times_without_zone: Literal["local", "utc"] = "local"
    """How to read timestamps without a zone: as local time of this calendar, or as UTC. Timestamps with a zone, and whole
    numbers, are moments already."""
    types: dict[str, Literal["text", "integer"]] = Field(default_factory=dict)
    """Types of key columns, in the log and side tables alike, where the type inferred from the values would be wrong: ids such
    as 12e4 or 007 in CSV are texts."""
    buckets: int = Field(default=20, ge=2)
    """Buckets of each statistic, at most."""
    train_files: Count = 4
    """Files that the training split is written to."""
    repeated: Literal["keep", "merge"] = "keep"
    """Rows of one user that are alike in all columns that are read: keep all, or only the first."""
    forget_days: float | None = Field(default=None, gt=0)
    """A key of a [[past]], and a user of a [[history]], begins anew after so many days without an event. It bounds what a
    preparation leaves for the next one. By default nothing is forgotten."""
    calendar: bool = True
    """Hour and weekday as features; by default where there are times."""
    split: Split
    """Which rows train, which choose, which test."""
    side: tuple[SideSection, ...] = ()
    """Tables that are joined to the log."""
    label: tuple[LabelSection, ...] = Field(min_length=1)
    """The tasks."""
    id: tuple[IdSection, ...] = Field(min_length=1)
    """Columns of ids."""
    number: tuple[NumberSection, ...] = ()
    """Columns of numbers."""
    past: tuple[PastSection, ...] = ()
    """Counts and rates of labels before the impression."""
    history: tuple[HistorySection, ...] = ()
    """Events of the same user before the impression."""

    @property
    def moment(self) -> str:
        """The column of times. Raises ConfigError where there is none."""
        if self.time is None:
            raise ConfigError(f'{self.log}: has no times. Give time = "COLUMN" in its description.')
        return self.time

    @property
    def clock(self) -> LocalClock:
        """Of the local calendar."""
        return LocalClock.at(self.utc_offset_hours or 0.0) if self.time_zone is None else LocalClock(zone=self.time_zone)

    @property
    def unzoned(self) -> LocalClock:
        """The clock of timestamps without a zone."""
        return self.clock if self.times_without_zone == "local" else LocalClock()

    def start_ms(self, day: int) -> int:
        """The first moment of a local day."""
        return int(self.clock.starts(np.array([day]))[0])

    @field_validator("time_zone")
    @classmethod
    def _known_zone(cls, name: str | None) -> str | None:
        if name is not None:
            check_zone(name)
        return name

    @model_validator(mode="before")
    @classmethod
    def _with_defaults(cls, given: Any) -> Any:
        return needs.with_defaults(given) if isinstance(given, Mapping) else given

    @model_validator(mode="after")
    def _consistent(self) -> "LogSpec":
        labels, single = [x.name for x in self.label], [i.column for i in self.id if i.separator is None]
        for section, given in (
            ("label", labels),
            ("id", [i.column for i in self.id]),
            ("history", [h.name for h in self.history]),
        ):
            repeated = sorted({n for n in given if given.count(n) > 1})
            if repeated:
                raise ValueError(f"{section} {repeated[0]!r} is declared twice")
        binary = [x.name for x in self.label if x.kind == "binary"]
        pasts = [p.prefix for p in self.past]
        for name in pasts:
            if pasts.count(name) > 1:
                raise ValueError(f"past {name!r} is declared twice; put all rates into one entry, or give another `days`")
        asked = [(f"past by {', '.join(p.by)}: rates", r) for p in self.past for r in p.rates]
        asked += [(f"history {h.name!r}: outcomes", o) for h in self.history for o in h.outcomes]
        asked += [(f"history {h.name!r}: only", h.only) for h in self.history if h.only is not None]
        for where, name in asked:
            if name not in labels:
                raise ValueError(f"{where}: {name!r} is no label; there are: {', '.join(labels)}")
            if name not in binary:
                kind = next(x.kind for x in self.label if x.name == name)
                known = f"there are: {', '.join(binary)}" if binary else "there is none"
                raise ValueError(
                    f"{where}: label {name!r} has kind {kind}, but only binary labels happen or not; {known}. Another "
                    "[[label]] with `at_least` can read the same column"
                )
        for history in self.history:
            for column in history.fields:
                if column not in single:
                    columns = ", ".join(single)
                    raise ValueError(
                        f"history {history.name!r}: fields: {column!r} is no [[id]] of one value; there are: {columns}"
                    )
        needs.check_needs(self)
        names.check(self)
        return self


def load_spec(path: Path) -> LogSpec:
    """Raises ConfigError, one line per problem."""
    try:
        return read_model(path, LogSpec, "Give a TOML file that describes your log; `home-dist prepare init LOG` proposes one.")
    except ConfigError as error:
        # pydantic names the kind of split as if it were a key.
        raise ConfigError(re.sub(r": split\.(days|files|random|column)\.", ": split.", str(error))) from None
