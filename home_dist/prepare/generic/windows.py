"""Which events of a key a [[past]] entry counts: until when, since when, and after which pause none."""

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


def pause_of(spec: LogSpec) -> int | None:
    """Milliseconds without an event after which a key's earlier events are forgotten; None: never."""
    return None if spec.forget_days is None else int(spec.forget_days * DAY_MS)
