"""The entries of a described log: ids, numbers, statistics of the past, histories."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from home_dist.config.section import Count, Section
from home_dist.prepare.boundaries import Buckets
from home_dist.prepare.formats.format_section import FormatSection
from home_dist.prepare.generic.events_section import EventsSection

NAME = r"^[A-Za-z_][A-Za-z0-9_]*$"
Name = Annotated[str, Field(pattern=NAME)]
Boundaries = Annotated[tuple[float, ...], Field(min_length=1)]


class SideSection(Section):
    """A table with one row per value of a key column of the log. Its columns are joined to the log's."""

    files: str
    """Path or pattern, from the description's folder, or a URL. Folders such as country=NL are columns, as those of the log
    are, but for those that the log has too."""
    key: str
    """A column that the log has too."""
    format: FormatSection = FormatSection()
    """How its files are written."""


class IdSection(Section):
    column: Name
    """Column of the log or of a side table: whole numbers or texts, one or a list."""
    min_count: Count = 2
    """Values seen less often in the training part share row 0 with missing ones."""
    separator: str | None = Field(default=None, min_length=1)
    """For texts that hold several values. Columns of lists need none."""
    rows: int | None = Field(default=None, ge=2)
    """Rows of its table, with room for values of later days; by default as many as there are values, and one. The rarest
    values that find no room are left out."""
    most_new: Count | None = None
    """Upper bound of the values that a preparation after the first (`--like`) adds; the most frequent ones come first."""


class NumberSection(Section):
    """A number of the log, stored as a multiple of a power of two between 1/12 and 1/6 of the training part's deviation."""

    column: Name
    """Column of the log or of a side table."""
    log: bool = False
    """Take log(1 + x); negative values then count as missing."""
    buckets: Buckets | None = None
    """How its range is cut into buckets. By default quantiles; `buckets` of the description says how many."""
    boundaries: Boundaries | None = None
    """Bucket boundaries, in place of fitted ones. With `log`, boundaries of the logarithm."""

    @model_validator(mode="after")
    def _one_cut(self) -> "NumberSection":
        if self.buckets is not None and self.boundaries is not None:
            raise ValueError(f"number {self.column!r}: give buckets or boundaries, not both")
        if self.boundaries is not None:
            _check_rising(f"number {self.column!r}: boundaries", self.boundaries)
        return self


class PastSection(Section):
    """Counts and rates of labels among the earlier impressions with the same keys."""

    by: tuple[str, ...] = Field(min_length=1)
    """Columns of the log or of side tables."""
    name: Name | None = None
    """Prefix of its statistics' names; by default the columns' names, joined by _."""
    rates: tuple[str, ...] = ()
    """Names of labels."""
    days: float | None = Field(default=None, gt=0)
    """Counts only this many last days; by default all."""
    strength: float = Field(default=20.0, gt=0)
    """Smoothing: a rate starts as if this many impressions had happened at the overall rate."""
    until: Literal["impression", "morning"] = "impression"
    """Counts events before the impression, or before its local day. "morning" is better for a user's rare labels: counted to
    the second, they would rank all that follows a like above it."""
    boundaries: dict[str, Boundaries] = Field(default_factory=dict)
    """Bucket boundaries in place of fitted ones: of "count" (of log(1 + count)), and of rates by their label (of log-odds)."""

    @model_validator(mode="after")
    def _boundaries_of_its_statistics(self) -> "PastSection":
        for name, cuts in self.boundaries.items():
            if name != "count" and name not in self.rates:
                known = ", ".join(["count", *self.rates])
                raise ValueError(f"past by {', '.join(self.by)}: boundaries: {name!r} is none of its statistics: {known}")
            _check_rising(f"past by {', '.join(self.by)}: boundaries: {name!r}", cuts)
        return self

    @property
    def prefix(self) -> str:
        """Prefix of its statistics' names, with the number of days if set."""
        name = self.name or "_".join(self.by)
        return name if self.days is None else f"{name}_{self.days:g}d".replace(".", "p")

    @property
    def statistics(self) -> tuple[str, ...]:
        """Names of its statistics: of the count, then of the rates."""
        return tuple(f"{self.prefix}_{name}" for name in ("count", *self.rates))


class HistorySection(Section):
    """Events that were shown to the same user strictly before the impression."""

    name: Name = "history"
    """Of the sequence; `[[sequence]]` of a run names it."""
    fields: tuple[str, ...] = Field(min_length=1)
    """Single-valued [[id]] columns, by which each event is compared with the impression."""
    outcomes: tuple[str, ...] = Field(default=(), max_length=6)
    """Labels; one more field tells which of them an event had."""
    only: str | None = None
    """A label; only events that had it enter the history."""
    most: Count = 50
    """Maximum number of events; the newest ones are kept."""
    age: bool = True
    """One more field tells how long ago an event was. False by default in a log without times."""
    events: EventsSection | None = None
    """Other events than the log's own impressions, in place of them. Values of `fields` that are in no vocabulary of the [[id]]
    columns count as rare: vocabularies are fitted on the log alone."""

    @model_validator(mode="after")
    def _of_its_events(self) -> "HistorySection":
        if self.events is None:
            return self
        for key in ("outcomes", "only"):
            if getattr(self, key):
                raise ValueError(f"history {self.name!r}: {key} names labels of impressions; name columns in events.outcomes")
        for name in self.events.columns:
            if name not in self.fields:
                raise ValueError(
                    f"history {self.name!r}: events.columns: {name!r} is none of its fields: {', '.join(self.fields)}"
                )
        return self

    @property
    def given(self) -> EventsSection:
        if self.events is None:
            raise TypeError(f"history {self.name!r} is of the log's impressions")
        return self.events

    @property
    def reads_table(self) -> bool:
        """Whether its events stand in another table."""
        return self.events is not None and self.events.files is not None

    @property
    def reads_lists(self) -> bool:
        """Whether its events stand in the log's own rows."""
        return self.events is not None and self.events.files is None

    @property
    def has_age(self) -> bool:
        return self.age and (self.events is None or self.events.time is not None)

    @property
    def told(self) -> tuple[str, ...]:
        """Labels, or columns of other events, that the field `outcome` tells."""
        return self.outcomes if self.events is None else self.events.outcomes


def _check_rising(where: str, cuts: tuple[float, ...]) -> None:
    if any(not a < b for a, b in zip(cuts, cuts[1:], strict=False)):
        raise ValueError(f"{where} must increase strictly")
