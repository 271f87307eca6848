"""A log described in TOML: which columns are keys, times, labels, features and histories."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from home_dist.config.section import Section
from home_dist.config.toml_file import read_model
from home_dist.prepare.boundaries import Buckets
from home_dist.prepare.generic import names
from home_dist.prepare.generic.names import NAME, past_name

Count = Annotated[int, Field(ge=1)]
Name = Annotated[str, Field(pattern=NAME)]


class SplitSection(Section):
    train_days: Count
    validation_days: Count
    test_days: Count
    """The log's last days, by its local calendar."""


class SideSection(Section):
    """A table with one row per value of a column of the log: its columns are joined to the log's."""

    files: str
    """Path or pattern, from the description's folder."""
    key: str
    """A column that the log has too."""


class LabelSection(Section):
    """A binary task. Positive where the column is true or 1; or, with at_least, where it is at least that much."""

    name: Name
    group: Name
    column: str
    at_least: float | None = None
    known: str | None = None
    """A column: where it is null or not above 0, the label is not known."""


class IdSection(Section):
    column: Name
    min_count: Count = 2
    """Values seen less often in the training part share row 0 with missing ones."""
    separator: str | None = Field(default=None, min_length=1)
    """For texts that hold several values. Columns of lists need none."""


class NumberSection(Section):
    """A number of the log. It is stored rounded to a power of two between 1/12 and 1/6 of the training part's deviation."""

    column: Name
    log: bool = False
    """Take log(1 + x); negative values then count as missing."""
    buckets: Buckets | None = None
    """How its range is cut; by default into as many quantiles as `buckets` of the description says."""
    boundaries: tuple[float, ...] | None = Field(default=None, min_length=1)
    """Given ones instead, after the logarithm if it is taken."""

    @model_validator(mode="after")
    def _one_cut(self) -> "NumberSection":
        if self.buckets is not None and self.boundaries is not None:
            raise ValueError(f"number {self.column!r}: give buckets or boundaries, not both")
        if self.boundaries is not None and any(not a < b for a, b in zip(self.boundaries, self.boundaries[1:], strict=False)):
            raise ValueError(f"number {self.column!r}: boundaries must increase strictly")
        return self


class PastSection(Section):
    """Counts and rates of labels among the earlier impressions with the same keys."""

    by: tuple[str, ...] = Field(min_length=1)
    """Columns of the log or of side tables."""
    name: Name | None = None
    """What its statistics' names begin with; by default the columns' names, joined by _."""
    rates: tuple[str, ...] = ()
    """Names of labels."""
    days: float | None = Field(default=None, gt=0)
    """Only the last so many days; by default all."""
    strength: float = Field(default=20.0, gt=0)
    """Impressions at the overall rate that a rate starts from."""
    until: Literal["impression", "morning"] = "impression"
    """Counts what lies before the impression, or before its local day: better for rare labels of a user, see README."""


class HistorySection(Section):
    """What the same user was shown strictly before."""

    name: Name = "history"
    fields: tuple[str, ...] = Field(min_length=1)
    """Columns of [[id]] with one value; each event is compared with the impression by them."""
    outcomes: tuple[str, ...] = Field(default=(), max_length=6)
    """Labels: which of them an event had is a field of its own."""
    only: str | None = None
    """A label: only events that had it."""
    most: Count = 50
    """The newest events."""


class LogSpec(Section):
    log: str
    """Path or pattern of the log's files (.parquet, .csv, .csv.gz), from the description's folder."""
    user: str
    time: str
    """Column of whole numbers since 1970, or of timestamps."""
    time_unit: Literal["s", "ms", "us"] = "ms"
    utc_offset_hours: float = Field(default=0.0, ge=-14, le=14)
    """Of the calendar by which days, hours and weekdays are told."""
    times_without_zone: Literal["local", "utc"] = "local"
    """What timestamps without a zone are: of this calendar, as a clock on the wall shows it, or UTC. Those with a zone, and
    whole numbers, are moments."""
    types: dict[str, Literal["text", "integer"]] = Field(default_factory=dict)
    """How columns of keys are read, in the log and side tables alike, where what their values look like would not do: ids such
    as 12e4 or 007 in CSV are texts."""
    buckets: int = Field(default=20, ge=2)
    train_files: Count = 4
    repeated: Literal["keep", "merge"] = "keep"
    """What becomes of rows of one user that are alike in all that is read of them: each counts, or the first alone."""
    calendar: bool = True
    """Hour and weekday as features."""
    split: SplitSection
    side: tuple[SideSection, ...] = ()
    label: tuple[LabelSection, ...] = Field(min_length=1)
    id: tuple[IdSection, ...] = Field(min_length=1)
    number: tuple[NumberSection, ...] = ()
    past: tuple[PastSection, ...] = ()
    history: tuple[HistorySection, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> "LogSpec":
        labels, single = [x.name for x in self.label], [i.column for i in self.id if i.separator is None]
        for what, given in (
            ("label", labels),
            ("id", [i.column for i in self.id]),
            ("history", [h.name for h in self.history]),
        ):
            repeated = sorted({n for n in given if given.count(n) > 1})
            if repeated:
                raise ValueError(f"{what} {repeated[0]!r} is declared twice")
        pasts = [past_name(p) for p in self.past]
        for name in pasts:
            if pasts.count(name) > 1:
                raise ValueError(f"past {name!r} is declared twice; put all rates into one entry, or give another `days`")
        asked = [(f"past by {', '.join(p.by)}: rates", r) for p in self.past for r in p.rates]
        asked += [(f"history {h.name!r}: outcomes", o) for h in self.history for o in h.outcomes]
        asked += [(f"history {h.name!r}: only", h.only) for h in self.history if h.only is not None]
        for where, name in asked:
            if name not in labels:
                raise ValueError(f"{where}: {name!r} is no label; there are: {', '.join(labels)}")
        for history in self.history:
            for column in history.fields:
                if column not in single:
                    there = ", ".join(single)
                    raise ValueError(
                        f"history {history.name!r}: fields: {column!r} is no [[id]] of one value; there are: {there}"
                    )
        names.check(self)
        return self


def load_spec(path: Path) -> LogSpec:
    """Raises ConfigError, one line per problem."""
    return read_model(path, LogSpec, "Give a TOML file that describes your log; README shows one.")
