"""Counts the past of keys that users share, and of everyone, before each impression; returns it to the users' partitions."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from home_dist.ids.keys import codes
from home_dist.prepare.asof import AsOf, Ints
from home_dist.prepare.days import HOUR_MS
from home_dist.prepare.engine.mirror import left_in
from home_dist.prepare.engine.spill import batches_of, read_at_most, read_part, write_parts
from home_dist.prepare.generic.condensed import COUNT, condensed, key_columns, with_earlier, write_left
from home_dist.prepare.generic.log_plan import Plan, flags
from home_dist.prepare.generic.log_sections import PastSection
from home_dist.prepare.generic.log_spec import LogSpec
from home_dist.prepare.generic.past_in_pieces import count_in_pieces
from home_dist.prepare.generic.repeated import without_copies
from home_dist.prepare.generic.scan import HOURS, sums_by
from home_dist.prepare.generic.windows import pause_of, until, window_of
from home_dist.prepare.rates import Floats, base_rates, log_odds

BACK = "back.arrow"
_BACK_OF_SLICE = "back-{:05d}.arrow"
PAST_FILE = "past.parquet"


def count_past(past: PastSection, key: Ints, time: Ints, spec: LogSpec, table: pa.Table) -> dict[str, Ints]:
    """(N,) each: number of earlier events of the key; for each rate, in how many of them the label was known, and happened.

    A row of `table` is one event, or as many as its column COUNT says."""
    events = AsOf(key, time, key, until(past, time, spec))
    window, pause = window_of(past), pause_of(spec)
    events = events if window is None else events.since(window)
    events = events if pause is None else events.forgetting(pause)
    name = past.prefix
    counts = {f"{name}.count": events.sum(flags(table, COUNT)) if COUNT in table.column_names else events.count()}
    for rate in past.rates:
        for state in ("happened", "known"):
            counts[f"{name}.{state}.{rate}"] = events.sum(flags(table, f"{state}_{rate}"))
    return counts


def past_statistics(pasts: Sequence[PastSection], counts: Mapping[str, NDArray]) -> dict[str, Floats]:
    """(N,) each: the statistics of [[past]] entries, NaN where there are none. counts: as `count_past` returns them, and
    base.RATE, the overall rate."""
    told = {}
    for past in pasts:
        name = past.prefix
        told[f"{name}_count"] = np.log1p(counts[f"{name}.count"])
        for rate in past.rates:
            happened, known = counts[f"{name}.happened.{rate}"], counts[f"{name}.known.{rate}"]
            told[f"{name}_{rate}"] = log_odds(happened, known, counts[f"base.{rate}"], past.strength)
    return told


def _in_order(table: pa.Table, key: Ints) -> tuple[pa.Table, Ints, Ints]:
    """Rows sorted by key and time, with both. Neighbouring rows then search the same pages of memory, which is several times as
    fast."""
    time = table.column("time").to_numpy()
    order = np.lexsort((time, key))
    return table.take(pa.array(order)), key[order], time[order]


def back_files(folder: Path) -> list[Path]:
    """Counts that a task returned to the users' partitions."""
    return left_in(folder, "back*.arrow")


def _events(plan: Plan, table: pa.Table) -> pa.Table:
    return without_copies(table) if plan.spec.repeated == "merge" else table


def sum_hours(plan: Plan, part: int, spilled: Sequence[Path], folder: Path) -> None:
    """Sums of labels per hour, as in the scan, but with repeated rows counted once. A partition has all rows of its hours."""
    table = _events(plan, read_part(spilled, part))
    sums = {n: flags(table, n).astype(np.int64) for r in plan.rates for n in (f"happened_{r}", f"known_{r}")}
    pq.write_table(sums_by("hour", table.column("time").to_numpy() // HOUR_MS, sums), folder / HOURS)


def count_keyed(
    plan: Plan, number: int, part: int, spilled: Sequence[Path], earlier: Sequence[Path], end_ms: int, folder: Path
) -> None:
    """Counts all [[past]] entries of key set `number` (of plan.elsewhere), in one partition of its keys; and leaves what the
    next preparation needs of them. earlier: what the preparation before left of the key set; end_ms: end of this log's last
    day."""
    by = plan.elsewhere[number]
    pasts = [p for p in plan.spec.past if p.by == by]
    log = read_at_most(spilled, part, plan.piece_rows - sum(map(len, batches_of(earlier, part))))
    if log is None:
        count_in_pieces(plan, by, part, spilled, earlier, end_ms, folder, _BACK_OF_SLICE, folder / PAST_FILE)
        return
    table = with_earlier(_events(plan, log), pasts, earlier, part)
    del log
    key = codes(*key_columns(table, by))
    table, key, time = _in_order(table, key)
    write_left(condensed(pasts, table, key, end_ms, plan.spec), folder / PAST_FILE)
    counts: dict[str, Ints] = {}
    for past in pasts:
        counts |= count_past(past, key, time, plan.spec, table)
    back = pa.table({"row": table.column("row"), **{n: pa.array(v) for n, v in counts.items()}})
    own = flags(table, "row") >= 0
    back = back.filter(pa.array(own))
    write_parts(folder / BACK, back, table.column("part").to_numpy()[own].astype(np.int64), plan.parts)


def count_everyone(plan: Plan, part: int, spilled: Sequence[Path], hours: pa.Table, folder: Path) -> None:
    """Base rates before each impression, in one partition of hours. hours: for each hour of the whole log, sums of labels over
    all earlier hours."""
    table = _events(plan, read_part(spilled, part))
    place = np.searchsorted(hours.column("hour").to_numpy(), table.column("time").to_numpy() // HOUR_MS)
    table, place, time = _in_order(table, place)
    events = AsOf(place, time, place, time)  # the key is the hour; earlier hours' sums are in `hours`
    back = {"row": table.column("row")}
    for name in plan.rates:
        sums = [
            events.sum(flags(table, f"{state}_{name}")) + hours.column(f"{state}_{name}").to_numpy()[place]
            for state in ("happened", "known")
        ]
        back[f"base.{name}"] = pa.array(base_rates(sums[0], sums[1]))
    write_parts(folder / BACK, pa.table(back), table.column("part").to_numpy().astype(np.int64), plan.parts)
