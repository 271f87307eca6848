"""Checks the names that a description gives to columns, features, tables and files, before any data is read.

Names are made from names in the description; two equal ones would overwrite each other.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Protocol

from home_dist.prepare.generic.label_section import LabelSection
from home_dist.prepare.generic.log_sections import NAME, HistorySection, IdSection, NumberSection, PastSection

_MOST = 200
"""Most characters of a name, which may also name a vocabulary's file."""


class Described(Protocol):
    """The entries of a description from which names are made."""

    @property
    def user(self) -> str | None: ...
    @property
    def time(self) -> str | None: ...
    @property
    def calendar(self) -> bool: ...
    @property
    def label(self) -> tuple[LabelSection, ...]: ...
    @property
    def id(self) -> tuple[IdSection, ...]: ...
    @property
    def number(self) -> tuple[NumberSection, ...]: ...
    @property
    def past(self) -> tuple[PastSection, ...]: ...
    @property
    def history(self) -> tuple[HistorySection, ...]: ...


def statistics(spec: Described) -> Iterator[tuple[str, str]]:
    """The name of each statistic, and the entry that it comes from."""
    for number in spec.number:
        yield number.column, f"[[number]] {number.column!r}"
    for past in spec.past:
        told = ["its count", *(f"its rate of {rate!r}" for rate in past.rates)]
        yield from ((name, f"[[past]] by {', '.join(past.by)}: {of}") for name, of in zip(past.statistics, told, strict=True))


def check(spec: Described) -> None:
    """Raises ValueError, which tells the entries: for two of one name, and for a name with too many or wrong characters."""
    for past in spec.past:
        if not re.fullmatch(NAME, past.prefix):
            raise ValueError(
                f"past by {', '.join(past.by)}: its statistics would be called {past.prefix + '_count'!r}, but a feature's "
                "name is of letters a to z, digits and _, and begins with none of the digits. Give the entry a `name`"
            )
    for kind, names in (("feature", _features(spec)), ("table", _tables(spec)), ("column", _columns(spec))):
        taken: dict[str, str] = {}
        for name, where in names:
            if len(name) > _MOST:
                raise ValueError(f"{where}: the {kind} {name[:40]}... has {len(name)} characters; at most {_MOST} can be")
            if name in taken:
                raise ValueError(
                    f"{where} and {taken[name]} would both be the {kind} {name!r} of the prepared data. Rename one of them"
                )
            taken[name] = where


def _features(spec: Described) -> Iterator[tuple[str, str]]:
    yield from _ids(spec)
    yield from statistics(spec)


def _ids(spec: Described) -> Iterator[tuple[str, str]]:
    if spec.calendar:
        yield from ((name, "the calendar (see `calendar`)") for name in ("hour", "weekday"))
    yield from ((i.column, f"[[id]] {i.column!r}") for i in spec.id)


def history_columns(history: HistorySection) -> dict[str, str]:
    """By part of its events: the column that holds it."""
    return {part: f"{history.name}_{part}" for part in (*history.fields, *_made_parts(history))}


def _made_parts(history: HistorySection) -> list[str]:
    """Parts of events that are no fields."""
    return [*(["age"] if history.has_age else []), *(["outcome"] if history.told else [])]


def _named_history_columns(spec: Described, of_ids: bool) -> Iterator[tuple[str, str]]:
    for history in spec.history:
        where = f"[[history]] {history.name!r}"
        yield from ((f"{history.name}_{part}", f"{where}: its {part}") for part in _made_parts(history))
        if of_ids:
            yield from ((f"{history.name}_{field}", f"{where}: its field {field!r}") for field in history.fields)


def _tables(spec: Described) -> Iterator[tuple[str, str]]:
    """Tables of features and histories. A statistic's buckets are rows of a table that has its name."""
    yield from _features(spec)
    yield from _named_history_columns(spec, of_ids=False)


def _columns(spec: Described) -> Iterator[tuple[str, str]]:
    if spec.user is not None:
        yield "group", "the column of users"
    if spec.time is not None:
        yield "time_ms", "the column of times"
    yield from _ids(spec)
    yield from _named_history_columns(spec, of_ids=True)
    yield from ((f"stat_{name}", where) for name, where in statistics(spec))
    for label in spec.label:
        yield f"label_{label.name}", f"[[label]] {label.name!r}"
        yield f"known_{label.name}", f"whether [[label]] {label.name!r} is known"
    yield from ((name, "the duration of a [[label]]") for name in dict.fromkeys(duration_columns(spec.label).values()))


def duration_columns(labels: Iterable[LabelSection]) -> dict[str, str]:
    """By label with a duration: the column that holds it. Labels that read and scale one column alike share it."""
    owners: dict[tuple[str, float], str] = {}
    columns = {}
    for label in labels:
        if label.duration is not None:
            columns[label.name] = owners.setdefault((label.duration, label.duration_factor), f"duration_{label.name}")
    return columns
