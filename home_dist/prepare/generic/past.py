"""What was known before each impression of keys that users share, and of everyone; sent back to the users' partitions."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from home_dist.ids.keys import codes
from home_dist.prepare.asof import AsOf, Ints
from home_dist.prepare.days import DAY_MS, local_days
from home_dist.prepare.engine.spill import read_part, write_parts
from home_dist.prepare.generic.log_plan import HOUR_MS, Plan, flags
from home_dist.prepare.generic.log_sections import PastSection
from home_dist.prepare.generic.log_spec import LogSpec
from home_dist.prepare.generic.repeated import without_copies
from home_dist.prepare.generic.scan import HOURS, sums_by
from home_dist.prepare.rates import base_rates

BACK = "back.arrow"


def until(past: PastSection, time: Ints, spec: LogSpec) -> Ints:
    """(N,) the moment before which events count."""
    if past.until == "impression":
        return time
    return local_days(time, spec.utc_offset_hours) * DAY_MS - int(spec.utc_offset_hours * HOUR_MS)


def count_past(past: PastSection, key: Ints, time: Ints, spec: LogSpec, table: pa.Table) -> dict[str, Ints]:
    """(N,) each: how many events of the key came before, and of each rate how many were known and how many happened."""
    events = AsOf(key, time, key, until(past, time, spec))
    if past.days is not None:
        events = events.since(int(past.days * DAY_MS))
    name = past.prefix
    found = {f"{name}.count": events.count()}
    for rate in past.rates:
        for what in ("happened", "known"):
            found[f"{name}.{what}.{rate}"] = events.sum(flags(table, f"{what}_{rate}"))
    return found


def _in_order(table: pa.Table, key: Ints) -> tuple[pa.Table, Ints, Ints]:
    """Rows in order of their keys and times, with both: a search per row is several times as fast when its neighbour's found
    the same pages of memory."""
    time = table.column("time").to_numpy()
    order = np.lexsort((time, key))
    return table.take(pa.array(order)), key[order], time[order]


def _events(plan: Plan, part: int, spilled: Sequence[Path]) -> pa.Table:
    table = read_part(spilled, part)
    return without_copies(table) if plan.spec.repeated == "merge" else table


def sum_hours(plan: Plan, part: int, spilled: Sequence[Path], folder: Path) -> None:
    """What the scan tells of whole hours, where rows that are alike count once: a partition has all rows of its hours."""
    table = _events(plan, part, spilled)
    sums = {n: flags(table, n).astype(np.int64) for r in plan.rates for n in (f"happened_{r}", f"known_{r}")}
    pq.write_table(sums_by("hour", table.column("time").to_numpy() // HOUR_MS, sums), folder / HOURS)


def count_keyed(plan: Plan, number: int, part: int, spilled: Sequence[Path], folder: Path) -> None:
    """All [[past]] entries of the key set of that number, in one partition of its keys."""
    table = _events(plan, part, spilled)
    by = plan.elsewhere[number]
    key = codes(*(table.column(f"key_{i}").combine_chunks() for i in range(len(by))))
    table, key, time = _in_order(table, key)
    found: dict[str, Ints] = {}
    for past in plan.spec.past:
        if past.by == by:
            found |= count_past(past, key, time, plan.spec, table)
    back = pa.table({"row": table.column("row"), **{n: pa.array(v) for n, v in found.items()}})
    write_parts(folder / BACK, back, table.column("part").to_numpy().astype(np.int64), plan.parts)


def count_everyone(plan: Plan, part: int, spilled: Sequence[Path], hours: pa.Table, folder: Path) -> None:
    """Base rates in whole hours. hours: of the whole log, hour and sums of labels in all hours before it."""
    table = _events(plan, part, spilled)
    place = np.searchsorted(hours.column("hour").to_numpy(), table.column("time").to_numpy() // HOUR_MS)
    table, place, time = _in_order(table, place)
    events = AsOf(place, time, place, time)  # an hour is the key: what came before it stands in `hours`
    back = {"row": table.column("row")}
    for name in plan.rates:
        sums = [
            events.sum(flags(table, f"{what}_{name}")) + hours.column(f"{what}_{name}").to_numpy()[place]
            for what in ("happened", "known")
        ]
        back[f"base.{name}"] = pa.array(base_rates(sums[0], sums[1]))
    write_parts(folder / BACK, pa.table(back), table.column("part").to_numpy().astype(np.int64), plan.parts)
