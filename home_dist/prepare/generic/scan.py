"""The first step: for each chunk of the log, joins side tables, derives labels and sends rows to their users' partitions.

Users share videos and authors, whose past is therefore counted in partitions by key. Base rates, which are over everyone, are
counted in partitions of whole hours. Both kinds get only the keys, times and labels of each row, and return numbers.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from home_dist.ids.keys import missing
from home_dist.prepare.asof import Ints
from home_dist.prepare.days import HOUR_MS
from home_dist.prepare.engine.spill import write_parts
from home_dist.prepare.generic import columns as c
from home_dist.prepare.generic.given_events import lists_of_rows
from home_dist.prepare.generic.label_columns import label_columns
from home_dist.prepare.generic.largest_values import scan_extremes
from home_dist.prepare.generic.log_files import Chunk, join, read_chunk
from home_dist.prepare.generic.log_plan import FILE_BITS, Plan, parts_of_keys, parts_of_users, user_hashes
from home_dist.prepare.generic.own_parts import parts_of_rows, told_parts
from home_dist.prepare.generic.repeated import CONTENT, contents

USERS, TIMES, DAYS, HOURS = "users.arrow", "times.arrow", "days.parquet", "hours.parquet"
ALL_DAYS = "all_days.parquet"
"""Rows by day, those outside of the days to read included."""
UNMATCHED = "unmatched.parquet"
PARTS = "parts.parquet"
"""Rows by part, where the description's split tells each row's."""
KEPT = "keep_"
"""Prefix of columns that go through unchanged."""


def keyed(number: int) -> str:
    return f"keyed-{number}.arrow"


def scan(plan: Plan, chunk: Chunk, folder: Path) -> None:
    table = read_chunk(chunk, plan.log_types)
    spec, unmatched = plan.spec, []
    row = (chunk.file.index << FILE_BITS) + np.arange(chunk.first, chunk.last)
    time = _times(plan, chunk, table)
    pq.write_table(sums_by("day", plan.clock.days(time), {}), folder / ALL_DAYS)
    wanted = np.ones(len(time), np.bool_)
    if plan.first_ms is not None:
        wanted &= time >= plan.first_ms
    if plan.until_ms is not None:
        wanted &= time < plan.until_ms
    if not wanted.all():
        table, row, time = table.filter(pa.array(wanted)), row[wanted], time[wanted]
    place = row & ((1 << FILE_BITS) - 1)
    for side, key in plan.sides:
        with c.named_keys(chunk.file.named, key, place):
            table, unmatched_rows = join(table, side, key)
        unmatched.append(unmatched_rows)

    def keys(name: str) -> pa.Array:
        with c.named_keys(chunk.file.named, name, place):
            return c.keys(table.column(name).combine_chunks())

    labels = label_columns(plan, table, chunk, row)
    users = pa.nulls(len(table), pa.string()) if spec.user is None else keys(spec.user)
    part = parts_of_users(user_hashes(users, row, time), plan.parts)

    columns = {"row": pa.array(row), "time": pa.array(time), "user": users}
    for section in spec.id:
        column = table.column(section.column).combine_chunks()
        many = section.separator is not None or plan.known.is_list(section.column)
        with c.named_keys(chunk.file.named, section.column, place):
            columns[f"id_{section.column}"] = c.lists(column, section.separator) if many else c.keys(column)
    columns |= {f"key_{name}": keys(name) for name in plan.stored_keys}
    numbers = {n.column: c.numbers(table.column(n.column).combine_chunks()) for n in spec.number}
    scan_extremes(numbers, row, folder)
    for number in spec.number:
        columns[f"number_{number.column}"] = pa.array(c.of_number(number, numbers[number.column]))
    columns |= {f"{KEPT}{name}": table.column(name) for name in plan.keep}
    for number_of_history, history in enumerate(spec.history):
        if history.reads_lists:
            columns |= lists_of_rows(spec, number_of_history, table, chunk, place, time)
    whole = pa.table(columns | labels)
    if plan.own_parts:
        split = parts_of_rows(plan, table, chunk, row)
        pq.write_table(told_parts(plan, table, split), folder / PARTS)
        write_parts(folder / USERS, whole.append_column("split", pa.array(split)), part, plan.parts)
    else:
        write_parts(folder / USERS, whole, part, plan.parts)

    event = {"row": pa.array(row), "part": pa.array(part, pa.int32()), "time": pa.array(time)}
    if spec.repeated == "merge":
        event[CONTENT] = pa.array(contents(whole))
    rates = {f"{state}_{name}": labels[f"{state}_{name}"] for name in plan.rates for state in ("happened", "known")}
    if plan.rates:
        write_parts(folder / TIMES, pa.table(event | rates), time // HOUR_MS % plan.parts, plan.parts)
    for number_of_set, by in enumerate(plan.elsewhere):
        parts = [keys(name) for name in by]
        known = ~np.any([missing(k) for k in parts], axis=0)  # a missing key has no past
        events = pa.table(event | {f"key_{i}": k for i, k in enumerate(parts)} | rates).filter(pa.array(known))
        write_parts(folder / keyed(number_of_set), events, parts_of_keys(parts, plan.parts)[known], plan.parts)

    files = pa.array([s.files for s in spec.side], pa.string())
    pq.write_table(pa.table({"side": files, "rows": pa.array(unmatched, pa.int64())}), folder / UNMATCHED)
    day = plan.clock.days(time)
    pq.write_table(sums_by("day", day, {}), folder / DAYS)
    happened = {n: np.asarray(v).astype(np.int64) for n, v in rates.items()}
    pq.write_table(sums_by("hour", time // HOUR_MS, happened), folder / HOURS)


def _times(plan: Plan, chunk: Chunk, table: pa.Table) -> Ints:
    """(N,) when rows were: in ms since 1970; of logs without times, in their order, or all at once."""
    spec = plan.spec
    if spec.time is not None:
        column = table.column(spec.time).combine_chunks()
        return c.times(column, spec.time_unit, chunk.file.named, chunk.first, spec.time, spec.unzoned)
    first = int(plan.clock.starts(np.array([chunk.file.index]))[0])
    return np.arange(first + chunk.first, first + chunk.last) if spec.order else np.zeros(len(table), np.int64)


def sums_by(name: str, groups: Ints, values: dict[str, Ints]) -> pa.Table:
    distinct, inverse, counts = np.unique(groups, return_inverse=True, return_counts=True)
    sums = {n: np.bincount(inverse, weights=v, minlength=len(distinct)).astype(np.int64) for n, v in values.items()}
    return pa.table({name: distinct, "rows": counts, **sums})
