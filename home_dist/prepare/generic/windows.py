"""Which events of a key a [[past]] entry counts: until when, since when, and after which pause none."""

from collections.abc import Iterable

from home_dist.prepare.asof import Ints
from home_dist.prepare.days import DAY_MS, local_days
from home_dist.prepare.generic.log_sections import PastSection
from home_dist.prepare.generic.log_spec import LogSpec


def until(past: PastSection, time: Ints, spec: LogSpec) -> Ints:
    """(N,) the moment before which events count, in ms since 1970."""
    if past.until == "impression":
        return time
    return local_days(time, spec.utc_offset_hours) * DAY_MS - spec.offset_ms


def window_of(past: PastSection) -> int | None:
    """Milliseconds before that moment; None: all."""
    return None if past.days is None else int(past.days * DAY_MS)


def reach_of(pasts: Iterable[PastSection]) -> int:
    """Milliseconds before the end of a log's last day in which events have to be told apart, so that these entries can be
    counted at any moment of that day that is later than its events, and afterwards."""
    told_apart = (p for p in pasts if p.days is not None or p.until == "morning")
    return max(((window_of(p) or 0) + DAY_MS for p in told_apart), default=0)


def pause_of(spec: LogSpec) -> int | None:
    """Milliseconds without an event after which a key's earlier events are forgotten; None: never."""
    return None if spec.forget_days is None else int(spec.forget_days * DAY_MS)
