"""Gathers a partition of users: its rows in order, with counts from its own log and from the partitions by key; and the sums
from which vocabularies, scales and the report are made.

Rows are ordered by the hash of the user, then by time, then as in the log.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from home_dist.ids.hashing import Hashes, hash_integers, mix
from home_dist.ids.keys import codes
from home_dist.ids.vocabulary import counted
from home_dist.prepare.asof import Ints
from home_dist.prepare.days import SPLITS, Days
from home_dist.prepare.engine.spill import one_batch, read_part, write_batches
from home_dist.prepare.generic.condensed import condensed, key_columns, sums_of, with_earlier, write_left
from home_dist.prepare.generic.log_plan import Plan, cells_of, flags, user_hashes
from home_dist.prepare.generic.past import count_past, past_statistics
from home_dist.prepare.generic.repeated import copies_of_users, told_copies

ROWS, CELLS_FILE, LABELS_FILE, SEEN_FILE = "rows.arrow", "cells.parquet", "labels.parquet", "seen.parquet"
REPEATED_FILE = "repeated.parquet"


def own_file(number: int) -> str:
    """File of what is left of the key set at index `number` of plan.own."""
    return f"own-{number}.parquet"


def values_file(number: int) -> str:
    """File of value counts of the [[id]] at index `number` of the description."""
    return f"values-{number}.parquet"


def gather(
    plan: Plan,
    days: Days,
    part: int,
    users: Sequence[Path],
    back: Sequence[Sequence[Path]],
    earlier: Sequence[Sequence[Path]],
    folder: Path,
) -> None:
    """users: files of rows by user partition, one per chunk; back: files that each way of counting by key returned; earlier: by
    key set of plan.own, what the preparation before left of it."""
    spec = plan.spec
    table = read_part(users, part)
    row, time = table.column("row").to_numpy(), table.column("time").to_numpy()
    hashed = user_hashes(table.column("user").combine_chunks(), row, time)
    user = codes(table.column("user").combine_chunks())
    order = np.lexsort((time, user, hashed))  # stable: rows of one time keep the log's order
    # Returned counts are matched by row number; rows whose keys are missing have none.
    returned: dict[str, NDArray] = {}
    for files in back:
        returned |= _aligned(read_part(files, part), row)
    table = table.take(pa.array(order))
    returned = {name: values[order] for name, values in returned.items()}
    time, user, hashed = time[order], user[order], hashed[order]
    copies = copies_of_users(table, user)
    pq.write_table(told_copies(copies, user, time), folder / REPEATED_FILE)
    if spec.repeated == "merge" and copies.any():
        table = table.filter(pa.array(~copies))
        returned = {name: values[~copies] for name, values in returned.items()}
        time, user, hashed = time[~copies], user[~copies], hashed[~copies]

    numbers = {n.column: table.column(f"number_{n.column}").to_numpy() for n in spec.number}
    for number, by in enumerate(plan.own):
        returned |= _count_own(plan, by, table, earlier[number], part, days.end_ms, folder / own_file(number))
    numbers |= past_statistics(spec.past, returned)

    day = plan.clock.days(time)
    split = table.column("split").to_numpy().copy() if plan.own_parts else days.split_of(day)
    split[(split == 0) & _held_out(plan, hashed, day)] = 1
    training = split == 0
    kept = [n for n in table.column_names if n.split("_")[0] not in ("number", "key")]
    columns = {n: table.column(n) for n in kept} | {f"stat_{n}": pa.array(v, from_pandas=True) for n, v in numbers.items()}
    whole = pa.table(columns | {"split": pa.array(split)})
    write_batches(folder / ROWS, [one_batch(whole)], whole.schema)

    pq.write_table(_cells(cells_of(hashed[training]), {n: v[training] for n, v in numbers.items()}), folder / CELLS_FILE)
    pq.write_table(_label_sums(plan, table, day, split), folder / LABELS_FILE)
    pq.write_table(_seen(numbers, user, split), folder / SEEN_FILE)
    chosen = pa.array(np.flatnonzero(training))
    for number, section in enumerate(spec.id):
        values = table.column(f"id_{section.column}").combine_chunks().take(chosen)
        pq.write_table(counted(values.flatten() if pa.types.is_list(values.type) else values), folder / values_file(number))


def _aligned(back: pa.Table, row: Ints) -> dict[str, NDArray]:
    """Returned columns, (N,) in the order of row (N,), which increases; 0 for rows that were not returned."""
    at = np.searchsorted(row, back.column("row").to_numpy())
    aligned = {}
    for name in back.column_names:
        if name != "row":
            values = back.column(name).to_numpy()
            aligned[name] = np.zeros(len(row), values.dtype)
            aligned[name][at] = values
    return aligned


def _count_own(
    plan: Plan, by: tuple[str, ...], table: pa.Table, earlier: Sequence[Path], part: int, end_ms: int, out: Path
) -> dict[str, Ints]:
    """Counts of the [[past]] entries of a key set with the user in it, (N,) each; writes what the next preparation needs of
    them. table: the partition's rows."""
    pasts = [p for p in plan.spec.past if p.by == by]
    columns = {n: table.column(n) for n in ("row", "time", *sums_of(pasts))}
    columns["part"] = pa.array(np.zeros(len(table), np.int32))
    for place, name in enumerate(by):
        columns[f"key_{place}"] = table.column("user" if name == plan.spec.user else f"key_{name}")
    events = with_earlier(pa.table(columns), pasts, earlier, part)
    key, time = codes(*key_columns(events, by)), events.column("time").to_numpy()
    write_left(condensed(pasts, events, key, end_ms, plan.spec), out)
    new = slice(len(events) - len(table), None)
    return {n: v[new] for past in pasts for n, v in count_past(past, key, time, plan.spec, events).items()}


def _held_out(plan: Plan, hashed: Hashes, day: Ints) -> NDArray[np.bool_]:
    """(N,) whether rows are of users who are held out on their day. hashed: of users, (N,)."""
    chosen = mix(hashed ^ hash_integers(day, 2)) >> np.uint64(32)
    return chosen < np.uint64(plan.hold_out * 2**32)


def _cells(cell: Ints, numbers: dict[str, NDArray[np.float64]]) -> pa.Table:
    """Per cell and statistic: how many values are known, their mean, and their sum of squared distances from it."""
    parts = []
    for name, values in numbers.items():
        is_known = ~np.isnan(values)
        known = values[is_known]
        cells, inverse, counts = np.unique(cell[is_known], return_inverse=True, return_counts=True)
        mean = np.bincount(inverse, weights=known, minlength=len(cells)) / np.maximum(counts, 1)
        squares = np.bincount(inverse, weights=(known - mean[inverse]) ** 2, minlength=len(cells)).astype(np.float64)
        names = pa.array([name] * len(cells), pa.string())
        parts.append(pa.table({"number": names, "cell": cells, "count": counts, "mean": mean, "squares": squares}))
    kinds = {"number": pa.string(), "cell": pa.int64(), "count": pa.int64(), "mean": pa.float64(), "squares": pa.float64()}
    return pa.concat_tables([pa.schema(kinds).empty_table(), *parts])


def _label_sums(plan: Plan, table: pa.Table, day: Ints, split: NDArray[np.int8]) -> pa.Table:
    """A row per day and split: number of rows; how many of them know each label, and in how many each binary one happened."""
    places = day * (len(SPLITS) + 1) + split
    distinct, first, inverse, counts = np.unique(places, return_index=True, return_inverse=True, return_counts=True)
    columns = {"day": day[first], "split": split[first], "rows": counts}
    for section in plan.spec.label:
        for state in ("happened", "known") if section.kind == "binary" else ("known",):
            name = f"{state}_{section.name}"
            columns[name] = np.bincount(inverse, weights=flags(table, name), minlength=len(distinct)).astype(np.int64)
    return pa.table(columns)


def _seen(numbers: dict[str, NDArray[np.float64]], user: Ints, split: NDArray[np.int8]) -> pa.Table:
    """A row per split: number of rows, of users, and of rows that have each statistic."""

    def by_split(rows: NDArray[np.bool_]) -> Ints:
        return np.bincount(split[rows & (split >= 0)], minlength=len(SPLITS))

    users = [len(np.unique(user[(split == index) & (user >= 0)])) for index in range(len(SPLITS))]
    columns = {"rows": by_split(split >= 0), "users": np.asarray(users)}
    return pa.table(columns | {f"stat_{name}": by_split(~np.isnan(values)) for name, values in numbers.items()})
