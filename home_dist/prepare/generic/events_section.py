"""`events` of a [[history]]: events that are not the log's own impressions."""

from typing import Literal

from pydantic import Field, model_validator

from home_dist.config.section import Section
from home_dist.prepare.formats.format_section import FormatSection


class EventsSection(Section):
    """Events of another table, with a row per event or per user, or of a column of the log that holds lists of structs. Only
    events strictly before the impression enter its history."""

    files: str | None = None
    """Path or pattern of the other table, from the description's folder, or a URL; folders are columns as those of the log
    are. Without it, `column` is one of the log."""
    format: FormatSection = FormatSection()
    """How these files are written."""
    user: str | None = None
    """The other table's column of users, whose values are those of the log's `user`."""
    column: str | None = None
    """A list of structs, one per event. Without it, each row of the other table is an event."""
    time: str | None = None
    """Column, or field of the structs, as the log's `time`. Lists of the log need none: then they hold, in order, only what was
    before the impression, and events have no age. An event of which only the date is known counts from the end of that day
    on."""
    time_unit: Literal["s", "ms", "us"] | None = None
    """Of whole numbers; by default the log's."""
    columns: dict[str, str] = Field(default_factory=dict)
    """By field of the history: its column, or field of the structs, where that has another name."""
    outcomes: tuple[str, ...] = Field(default=(), max_length=6)
    """Columns, or fields of the structs, of 0 and 1: one more field of the history tells which of them an event had."""

    @model_validator(mode="after")
    def _whole(self) -> "EventsSection":
        if self.files is None and self.column is None:
            raise ValueError('give files = "..." for events of another table, or column = "..." for lists in the log')
        if self.files is not None and (self.user is None or self.time is None):
            raise ValueError(f"files: {'user' if self.user is None else 'time'} is missing: name its column in these files")
        if self.files is None and self.user is not None:
            raise ValueError("user has no effect without files: the log's lists are those of the row's user")
        if self.files is None and self.format != FormatSection():
            raise ValueError("format has no effect without files: the log's lists are written as the log is")
        if self.time is None and self.time_unit is not None:
            raise ValueError("time_unit has no effect without time: leave it out")
        return self

    def source_of(self, field: str) -> str:
        """Column, or field of the structs, that holds a field of the history."""
        return self.columns.get(field, field)

    def needed(self, fields: tuple[str, ...]) -> list[str]:
        """Columns, or fields of the structs, that are read."""
        times = [] if self.time is None else [self.time]
        return list(dict.fromkeys([*times, *(self.source_of(f) for f in fields), *self.outcomes]))
