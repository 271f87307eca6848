"""Which events of a key a [[past]] entry counts: until when, since when, and after which pause none."""

from collections.abc import Iterable

import numpy as np

from home_dist.prepare.asof import Ints
from home_dist.prepare.days import DAY_MS
from home_dist.prepare.generic.log_sections import PastSection
from home_dist.prepare.generic.log_spec import LogSpec


def until(past: PastSection, time: Ints, spec: LogSpec) -> Ints:
    """(N,) the moment before which events count, in ms since 1970."""
    if past.until == "impression":
        return time
    return spec.clock.starts(spec.clock.days(time))


def window_of(past: PastSection) -> int | None:
    """Milliseconds before that moment; None: all."""
    return None if past.days is None else int(past.days * DAY_MS)


def told_apart_from(pasts: Iterable[PastSection], end_ms: int, spec: LogSpec) -> int:
    """The moment from which on events have to be told apart, so that these entries can be counted at any moment of a log's last
    day that is later than its events, and afterwards. end_ms: the end of that day."""
    windows = [window_of(p) or 0 for p in pasts if p.days is not None or p.until == "morning"]
    morning = int(spec.clock.starts(spec.clock.days(np.array([end_ms - 1])))[0])
    return morning - max(windows) if windows else end_ms


def pause_of(spec: LogSpec) -> int | None:
    """Milliseconds without an event after which a key's earlier events are forgotten; None: never."""
    return None if spec.forget_days is None else int(spec.forget_days * DAY_MS)
