"""Repeated rows: rows of one user that are alike in all columns that are read. A log was written twice, or a client sent again.

The report always counts them. With `repeated = "merge"` only the first in the log stays, wherever events are counted.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from home_dist.ids.arrow_types import is_text
from home_dist.ids.hashing import Hashes, hash_integers, hash_texts, mix
from home_dist.ids.keys import as_keys, key_numbers, missing
from home_dist.prepare.asof import Ints

CONTENT = "content"
_NULL, _ALONE = np.uint64(0x9E3779B97F4A7C15), 2  # hash of a null; hash seed of rows without a user


def contents(table: pa.Table) -> Hashes:
    """(N,) hashes, equal for rows that are alike in all columns but their number `row`, their part `split`, and those that only
    go through. Rows without a user equal no other."""
    combined = np.zeros(len(table), np.uint64)
    for name in table.column_names:
        if name not in ("row", "split") and not name.startswith("keep_"):
            combined = mix(combined ^ _hashed(table.column(name).combine_chunks()))
    alone = hash_integers(table.column("row").to_numpy(), _ALONE)
    return np.where(missing(table.column("user").combine_chunks()), alone, combined)


def _hashed(column: pa.Array) -> Hashes:
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        return _hashed_lists(column)
    if is_text(column.type):
        hashes = hash_texts(column, 0)
    elif pa.types.is_floating(column.type):
        values = np.asarray(pc.fill_null(column, np.nan)).astype(np.float64) + 0.0  # -0.0 is 0.0
        hashes = hash_integers(np.where(np.isnan(values), np.nan, values).view(np.int64), 0)
    else:
        hashes = hash_integers(key_numbers(as_keys(column, "integer")), 0)
    return np.where(np.asarray(column.is_null()), _NULL, hashes) if column.null_count else hashes


def _hashed_lists(column: pa.Array) -> Hashes:
    """(N,) hashes of lists, from their values and the values' places."""
    bounds = np.asarray(column.offsets).astype(np.int64)
    bounds = bounds - bounds[0]
    lengths = np.diff(bounds)
    place = np.arange(bounds[-1]) - np.repeat(bounds[:-1], lengths)
    with np.errstate(over="ignore"):
        values = mix(_hashed(column.flatten()) ^ hash_integers(place, 1))
        running = np.concatenate([np.zeros(1, np.uint64), np.cumsum(values, dtype=np.uint64)])
        return mix((running[bounds[1:]] - running[bounds[:-1]]) ^ lengths.astype(np.uint64))


def later_copies(row: Ints, time: Ints, content: Hashes) -> NDArray[np.bool_]:
    """(N,) whether a row repeats one that comes before it in the log."""
    order = np.lexsort((row, content, time))
    like = (time[order[1:]] == time[order[:-1]]) & (content[order[1:]] == content[order[:-1]])
    copies = np.zeros(len(row), np.bool_)
    copies[order[1:][like]] = True
    return copies


def without_copies(table: pa.Table) -> pa.Table:
    """The rows without later copies. table: with columns row, time and CONTENT."""
    row, time, content = (table.column(name).to_numpy() for name in ("row", "time", CONTENT))
    return table.filter(pa.array(~later_copies(row, time, content)))


def copies_of_users(table: pa.Table, user: Ints) -> NDArray[np.bool_]:
    """(N,) as `later_copies`, for rows sorted by user (N,) and time: only rows of one user and moment are hashed."""
    time = table.column("time").to_numpy()
    near = (user[1:] == user[:-1]) & (time[1:] == time[:-1]) & (user[1:] >= 0)
    is_compared = np.zeros(len(user), np.bool_)
    is_compared[1:] |= near
    is_compared[:-1] |= near
    chosen, copies = np.flatnonzero(is_compared), np.zeros(len(user), np.bool_)
    if len(chosen):
        compared = table.take(pa.array(chosen))
        copies[chosen] = later_copies(compared.column("row").to_numpy(), time[chosen], contents(compared))
    return copies


def told_copies(copies: NDArray[np.bool_], user: Ints, time: Ints) -> pa.Table:
    """One row: number of copies, number of their users, and the most copies of one user and moment. All arguments (N,)."""
    users, times = user[copies], time[copies]
    most = int(np.unique(np.stack([users, times]), axis=1, return_counts=True)[1].max()) if len(users) else 0
    return pa.table({"rows": [len(users)], "users": [len(np.unique(users))], "most": [most]})
