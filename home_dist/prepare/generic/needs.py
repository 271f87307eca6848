"""What of a description needs a user, a time, or an order of the rows. Messages name the key that is missing."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from home_dist.errors import ConfigError
from home_dist.prepare.generic.log_options import LogOptions

if TYPE_CHECKING:
    from home_dist.prepare.generic.log_spec import LogSpec

_OR_FILES = 'give time = "COLUMN", or order = "files" if files, by their names, and their rows stand in the order of time'
_OF_TIMES = ("time_unit", "time_zone", "utc_offset_hours", "times_without_zone", "forget_days")


def with_defaults(given: Mapping[str, Any]) -> dict[str, Any]:
    """The description with defaults that depend on other keys. A description says the same with them and without them."""
    tree = dict(given)
    if tree.get("time_zone") is None:
        tree["utc_offset_hours"] = 0.0 if tree.get("utc_offset_hours") is None else tree["utc_offset_hours"]
    elif tree.get("utc_offset_hours") is not None:
        raise ValueError("give time_zone or utc_offset_hours, not both")
    if isinstance(split := tree.get("split"), Mapping):
        tree["split"] = {"by": "days", **split}
    if tree.get("time") is None:
        tree.setdefault("calendar", False)
        if isinstance(histories := tree.get("history"), list):
            tree["history"] = [{"age": False, **h} if isinstance(h, Mapping) else h for h in histories]
    return tree


def check_needs(spec: "LogSpec") -> None:
    """Raises ValueError for a key that needs one that is not given."""
    if spec.order is not None and spec.format.is_table:
        raise ValueError(f'order: the files of a {spec.format.kind} table have no order. Give time = "COLUMN"')
    if spec.time is not None and spec.order is not None:
        raise ValueError(f"order: rows are in the order of time = {spec.time!r}. Give one of both")
    problem = next(_unmet(spec), None)
    if problem is not None:
        raise ValueError(problem)


def _unmet(spec: "LogSpec") -> Iterator[str]:
    split = spec.split
    if split.by == "days" and spec.time is None:
        files = ' or order = "files" and split = { by = "files", ... }' if spec.order is None else ' or split by = "files"'
        yield f'split: days need time = "COLUMN". Without times, say split = {{ by = "random", ... }}, by = "column"{files}'
    if split.by == "files" and spec.order is None:
        yield 'split: by = "files" needs order = "files"'
    if spec.time is None and spec.order is None:
        yield from (f"past by {', '.join(p.by)}: counts earlier rows: {_OR_FILES}" for p in spec.past)
        yield from (f"history {h.name!r}: holds earlier rows: {_OR_FILES}" for h in spec.history if not h.reads_lists)
    if spec.time is None:
        if spec.repeated == "merge":
            yield 'repeated: only rows of one moment are merged, and order alone has no moments: it needs time = "COLUMN"'
        for past in spec.past:
            if past.days is not None or past.until == "morning":
                key = "days" if past.days is not None else "until"
                yield f'past by {", ".join(past.by)}: {key} needs time = "COLUMN"; rows in order alone have no days'
        yield from (f'history {h.name!r}: age needs time = "COLUMN"' for h in spec.history if h.has_age)
        if spec.calendar:
            yield 'calendar: hour and weekday need time = "COLUMN"'
        fields = type(spec).model_fields
        defaults = {name: fields[name].default for name in _OF_TIMES} | {"utc_offset_hours": 0.0}
        yield from (f'{n}: has no effect without time = "COLUMN"' for n in _OF_TIMES if getattr(spec, n) != defaults[n])
    for history in spec.history:
        events = history.events
        if events is not None and events.time is not None and spec.time is None:
            yield f'history {history.name!r}: events.time needs time = "COLUMN", before which events are'
    if spec.user is None:
        yield from (
            f'history {h.name!r}: needs user = "COLUMN", whose events it holds' for h in spec.history if not h.reads_lists
        )
        if spec.repeated == "merge":
            yield 'repeated: rows are merged within users: it needs user = "COLUMN"'


def check_options(spec: "LogSpec", options: LogOptions) -> None:
    """Raises ConfigError for an option that needs a key which the description lacks."""
    for option, given in (("--like", options.like), ("--last-day", options.last_day)):
        if given is not None and spec.time is None:
            raise ConfigError(f'{option}: needs days, but the description has no time. Give time = "COLUMN", or leave it out.')
    if options.hold_out is not None and spec.user is None:
        raise ConfigError('--hold-out: needs users, but the description has no user. Give user = "COLUMN", or leave it out.')
