"""What a preparation leaves of the past of keys, so that the next one need not read the log again.

Events that some window ([[past]] days) can still reach from the last day on stay one by one (`told_apart_from`). Older ones
become one event per key, at the time of the last of them, which counts as many. Keys whose pause is longer than `forget_days`
are left out. Whoever counts over these events and later ones gets the same numbers as over all events.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from home_dist.prepare.asof import Ints
from home_dist.prepare.days import DAY_MS
from home_dist.prepare.engine.spill import read_part
from home_dist.prepare.generic.log_plan import flags, moments
from home_dist.prepare.generic.log_sections import PastSection
from home_dist.prepare.generic.log_spec import LogSpec
from home_dist.prepare.generic.windows import told_apart_from

COUNT = "count"
"""Column of the number of events that a row stands for."""
GROUP = 1 << 18
"""Rows of a row group of what is left."""
LEFT: dict[str, Any] = {"compression": "zstd", "write_page_checksum": True}
"""Options of the file."""
NO_ROW = -1
"""Row of the log, for events of an earlier preparation."""


def sums_of(pasts: Sequence[PastSection]) -> list[str]:
    """Columns that are added up for these entries, which have one key set."""
    rates = dict.fromkeys(r for p in pasts for r in p.rates)
    return [f"{state}_{rate}" for rate in rates for state in ("happened", "known")]


def key_columns(table: pa.Table, by: Sequence[str]) -> list[pa.Array]:
    return [table.column(f"key_{place}").combine_chunks() for place in range(len(by))]


def with_earlier(table: pa.Table, pasts: Sequence[PastSection], earlier: Sequence[Path], part: int) -> pa.Table:
    """The condensed events of an earlier preparation, with NO_ROW as row and 0 as part, followed by the rows of `table`, of
    which each is one event. table: with columns row, part, time, key_* and the sums. Without `earlier`: `table` itself."""
    if not earlier:
        return table
    before = read_part(earlier, part)
    names = [n for n in before.column_names if n not in (COUNT, "time")]
    whole = {"row": np.concatenate([np.full(len(before), NO_ROW), flags(table, "row")])}
    whole["part"] = np.concatenate([np.zeros(len(before), np.int32), flags(table, "part")])
    whole["time"] = np.concatenate([flags(before, "time"), flags(table, "time")])
    whole[COUNT] = np.concatenate([flags(before, COUNT), np.ones(len(table), np.int64)])
    columns = {name: pa.array(values) for name, values in whole.items()}
    for name in names:
        later = table.column(name).cast(before.schema.field(name).type)
        columns[name] = pa.chunked_array([*before.column(name).chunks, *later.chunks]).combine_chunks()
    return pa.table(columns)


def condensed(pasts: Sequence[PastSection], table: pa.Table, key: Ints, end_ms: int, spec: LogSpec) -> pa.Table:
    """Columns key_*, time, COUNT and the sums of these entries, by key and time.

    table: events, with columns time, key_* and the sums, and COUNT if some stand for several; key: (N,) codes, negative for
    events that are not counted; end_ms: the moment from which on later rows are.
    """
    time = moments(table)
    order = np.lexsort((time, key))
    order = order[np.searchsorted(key[order], 0) :]
    if spec.forget_days is not None:
        order = order[_remembered(key[order], time[order], end_ms, int(spec.forget_days * DAY_MS))]
    key, time = key[order], time[order]
    count = flags(table, COUNT)[order] if COUNT in table.column_names else np.ones(len(order), np.int64)
    sums = {COUNT: count.astype(np.int64), **{n: flags(table, n)[order].astype(np.int64) for n in sums_of(pasts)}}
    apart = told_apart_from(pasts, end_ms, spec)
    old = np.flatnonzero(time < apart)
    recent = np.flatnonzero(time >= apart)
    if all(p.days is not None for p in pasts):
        old = old[:0]  # no window reaches them
    begins = np.flatnonzero(np.r_[True, key[old][1:] != key[old][:-1]]) if len(old) else old
    ends = np.r_[begins[1:], len(old)] - 1 if len(old) else old
    chosen = np.concatenate([old[ends], recent])
    columns = {n: table.column(n).combine_chunks().take(pa.array(order[chosen])) for n in table.column_names if n[:4] == "key_"}
    columns["time"] = pa.array(time[chosen])
    for name, values in sums.items():
        of_keys = np.add.reduceat(values[old], begins) if len(old) else values[:0]
        columns[name] = pa.array(np.concatenate([of_keys, values[recent]]))
    final = np.lexsort((time[chosen], key[chosen]))
    return pa.table(columns).take(pa.array(final))


def write_left(table: pa.Table, path: Path) -> None:
    """Writes what the next preparation reads: a row group at a time, however large the file is."""
    pq.write_table(table, path, row_group_size=GROUP, **LEFT)


def _remembered(key: Ints, time: Ints, end_ms: int, pause: int) -> NDArray[np.bool_]:
    """(N,) whether events, sorted by key and time, lie after their key's last pause, which has not begun by `end_ms`."""
    if not len(key):
        return np.zeros(0, np.bool_)
    begins = np.r_[True, (key[1:] != key[:-1]) | (np.diff(time) > pause)]
    last = np.flatnonzero(np.r_[key[1:] != key[:-1], True])
    of_key = np.cumsum(np.r_[True, key[1:] != key[:-1]]) - 1
    stretch = np.cumsum(begins)
    return (stretch == stretch[last][of_key]) & (end_ms - time[last] <= pause)[of_key]
