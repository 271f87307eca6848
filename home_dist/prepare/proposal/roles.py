"""What each column of a log seems to be, by its name, type and values."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from home_dist.ids.arrow_types import is_number, is_text
from home_dist.prepare.generic.log_sections import NAME
from home_dist.prepare.proposal.look import SeenColumn

_USER = r"^(user|uid|member|customer|visitor|account|viewer|buyer|client|person)"
_ITEM = r"^(video|item|product|goods|sku|photo|note|article|post|ad|news|movie|song|track|doc|listing|iid|pid|vid)"
_TIME = r"(time|date|timestamp|moment|_at$|^ts$|_ts$)"
_LABEL = (
    r"(click|like|follow|share|forward|comment|buy|bought|purchase|order|pay|convert|conversion|cart|save|collect|bookmark|"
    r"favou?rite|download|install|subscribe|hate|dislike|skip|complete|long_view|effective|label|target|profile_enter)"
)
_SPENT = (r"(play|watch|listen)", r"dwell", r"(spent|stay|view)")
_TIME_WORD = r"(time|ms|sec|seconds|spent|dwell|stay)"
_CALENDAR = r"(^|_)(date|day|hour|hourmin|minute|weekday|month|year|dt)s?$"
_OF_ITEM = r"(cat|category|type|brand|author|shop|seller|genre|topic|artist|album|city|place)"
_LENGTH = r"(duration|length)"
_KEY = (
    r"(^|_)(id|code|cat|category|type|brand|author|shop|seller|tag|tab|level|city|country|lang|device|os|channel|place|page|"
    r"gender)s?$"
)
_MADE = ("group", "time_ms", "seen_age", "seen_outcome")
_FEW = 100  # distinct whole numbers that seem to name something
_MS = 1000.0  # a median above it seems to be in ms


@dataclass
class Roles:
    time: SeenColumn | None = None
    user: SeenColumn | None = None
    item: SeenColumn | None = None
    labels: list[SeenColumn] = field(default_factory=list)
    watched: SeenColumn | None = None
    length: SeenColumn | None = None
    ids: list[SeenColumn] = field(default_factory=list)
    numbers: list[SeenColumn] = field(default_factory=list)
    left_out: list[tuple[SeenColumn, str]] = field(default_factory=list)
    """With the reason."""


def roles_of(columns: Sequence[SeenColumn]) -> Roles:
    """Each column has one role; what is guessed is for the user to correct."""
    roles, left = Roles(), [c for c in columns if re.fullmatch(NAME, c.name)]
    roles.left_out = [(c, "its name is none that a column can have") for c in columns if c not in left]
    roles.time = _take(left, [c for c in left if c.time_unit is not None and _named(c, _TIME)])
    roles.time = roles.time or _take(left, [c for c in left if c.time_unit is not None])
    keys = [c for c in left if _is_key(c) and not c.is_binary]
    roles.user = _take(left, [c for c in keys if _named(c, _USER)])
    roles.item = _take(left, [c for c in keys if c in left and _named(c, _ITEM) and c.distinct > 1])
    roles.labels = _take_all(left, [c for c in left if c.is_binary and _named(c, _LABEL)])
    if not roles.labels:
        roles.labels = _take_all(left, [c for c in left if c.is_binary])
    numbers = [c for c in left if is_number(c.kind) and not c.is_binary]
    spent = [c for p in _SPENT for c in numbers if _named(c, p) and _named(c, _TIME_WORD) and not _named(c, _LENGTH)]
    roles.watched = _take(left, spent)
    roles.length = None if roles.watched is None else _take(left, [c for c in numbers if c in left and _named(c, _LENGTH)])
    for column in left:
        reason = "it seems to be known only after the impression" if column in spent else _unread(column, roles)
        if reason is not None:
            roles.left_out.append((column, reason))
        elif column.is_list_of_keys or is_text(column.kind) or _names_something(column):
            roles.ids.append(column)
        else:
            roles.numbers.append(column)
    return roles


def _unread(column: SeenColumn, roles: Roles) -> str | None:
    if not len(column.known):
        return "it has no values"
    if column.is_nested and not column.is_list_of_keys:
        return f"{column.kind} is no feature" + ("; it may be a history" if column.is_list_of_events else "; flatten it")
    if not (column.is_nested or is_text(column.kind) or is_number(column.kind) or _is_moment(column)):
        return f"{column.kind} is not read"
    if not column.is_nested and column.distinct == 1:
        return "it has one value"
    told = ("count", *(label.name for label in roles.labels))
    if column.name in (*_MADE, *(f"{key.name}_{t}" for key in (roles.user, roles.item) if key for t in told)):
        return "a preparation makes a column or a feature of this name; rename it"
    if _is_moment(column):
        return "it is another time"
    if _named(column, _CALENDAR):
        return "hour and weekday are made of the time"
    return None


def _is_moment(column: SeenColumn) -> bool:
    return pa.types.is_timestamp(column.kind) or pa.types.is_date(column.kind) or pa.types.is_time(column.kind)


def _names_something(column: SeenColumn) -> bool:
    if pa.types.is_boolean(column.kind):
        return True
    return pa.types.is_integer(column.kind) and (_named(column, _KEY) or column.distinct <= _FEW)


def _is_key(column: SeenColumn) -> bool:
    return is_text(column.kind) or pa.types.is_integer(column.kind)


def _named(column: SeenColumn, pattern: str) -> bool:
    return re.search(pattern, column.name.lower()) is not None


def _take(left: list[SeenColumn], candidates: Sequence[SeenColumn]) -> SeenColumn | None:
    return next(iter(_take_all(left, candidates[:1])), None)


def _take_all(left: list[SeenColumn], candidates: Sequence[SeenColumn]) -> list[SeenColumn]:
    for column in candidates:
        left.remove(column)
    return list(candidates)


def is_skewed(column: SeenColumn) -> bool:
    """Whether a logarithm seems to serve: never negative, and the largest value far above the median."""
    values = column.numbers
    return bool(values.min() >= 0 and values.max() > 20 * max(float(np.median(values)), 1.0))


def scale_of(column: SeenColumn) -> float:
    """From a time that was spent to seconds."""
    name = column.name.lower()
    in_ms = name.endswith("ms") or float(np.median(column.numbers)) > _MS
    return 0.001 if in_ms and not re.search(r"(_s|sec|secs|seconds)$", name) else 1.0


def event_fields(roles: Roles) -> list[SeenColumn]:
    """Ids of one value that events of a history may have: the item, and what seems to be a fact of it."""
    if roles.item is None:
        return []
    facts = [c for c in roles.ids if _named(c, _OF_ITEM) and not c.is_nested and c.separator is None]
    return [roles.item, *facts[:1]]
