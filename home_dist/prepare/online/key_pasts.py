"""Counts of keys before any moment after a preparation, from what it left of their past (`condensed`), held in memory."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from home_dist.ids.keys import missing
from home_dist.prepare.asof import Ints, running_sum
from home_dist.prepare.generic.condensed import COUNT, key_columns, sums_of
from home_dist.prepare.generic.log_plan import flags, key_hashes, moments
from home_dist.prepare.generic.log_sections import PastSection
from home_dist.prepare.generic.log_spec import LogSpec
from home_dist.prepare.generic.windows import pause_of, until, window_of
from home_dist.prepare.online.sorted_events import SortedEvents


class KeyPasts:
    """The events of a key set. Keys are known by hashes of 64 bits; a number's is its own.

    Memory: 16 bytes per key, and per event 16, and 16 for each rate; 8 more if keys are forgotten. Events that no window
    reaches any more are one per key.
    """

    def __init__(self, pasts: Sequence[PastSection], files: Sequence[Path], spec: LogSpec):
        """pasts: entries of one key set; files: what is left of it."""
        self._pasts, self._spec, self.by = pasts, spec, pasts[0].by
        names = (COUNT, *sums_of(pasts))
        parts = [self._read(file, names) for file in files]
        hashes, times, *sums = (np.concatenate(values) for values in zip(*parts, strict=True))
        del parts
        self._events = SortedEvents(hashes, times, pause_of(spec))
        self._running = {name: running_sum(values[self._events.order]) for name, values in zip(names, sums, strict=True)}
        self._events.forget_order()

    def _read(self, file: Path, names: Sequence[str]) -> tuple[NDArray, ...]:
        """Of one file: texts of all may be more than an Arrow array holds."""
        table = pq.read_table(file, memory_map=True)
        return key_hashes(key_columns(table, self.by)), moments(table), *(flags(table, name) for name in names)

    def before(self, keys: Sequence[pa.Array], time: Ints) -> dict[str, Ints]:
        """keys: (Q,) each, of the columns `by`; time: (Q,), in ms since 1970. Returns what `count_past` does, (Q,) each."""
        hashes, known = key_hashes(keys), ~np.any([missing(k) for k in keys], axis=0)
        counts: dict[str, Ints] = {}
        for past in self._pasts:
            first, last = self._events.before(hashes, known, until(past, time, self._spec), window_of(past))
            told = {f"{past.prefix}.count": COUNT}
            told |= {f"{past.prefix}.{s}.{rate}": f"{s}_{rate}" for rate in past.rates for s in ("happened", "known")}
            counts |= {name: self._running[of][last] - self._running[of][first] for name, of in told.items()}
        return counts
