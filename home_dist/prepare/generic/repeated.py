"""Rows of one user that are alike in all that is read of them: a log that was written twice, or a client that sent again.

They are always counted. With `repeated = "merge"` the first of them in the log stays, wherever events are counted.
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
_NULL, _ALONE = np.uint64(0x9E3779B97F4A7C15), 2  # what stands for a null; the seed of rows that nothing is like


def contents(table: pa.Table) -> Hashes:
    """(N,) equal for rows that are alike in all columns but `row`, their number. Rows without a user are like no other."""
    together = np.zeros(len(table), np.uint64)
    for name in table.column_names:
        if name != "row":
            together = mix(together ^ _hashed(table.column(name).combine_chunks()))
    alone = hash_integers(table.column("row").to_numpy(), _ALONE)
    return np.where(missing(table.column("user").combine_chunks()), alone, together)


def _hashed(column: pa.Array) -> Hashes:
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        return _hashed_lists(column)
    if is_text(column.type):
        found = hash_texts(column, 0)
    elif pa.types.is_floating(column.type):
        values = np.asarray(pc.fill_null(column, np.nan)).astype(np.float64) + 0.0  # -0.0 is 0.0
        found = hash_integers(np.where(np.isnan(values), np.nan, values).view(np.int64), 0)
    else:
        found = hash_integers(key_numbers(as_keys(column, "integer")), 0)
    return np.where(np.asarray(column.is_null()), _NULL, found) if column.null_count else found


def _hashed_lists(column: pa.Array) -> Hashes:
    """By the values and their places."""
    bounds = np.asarray(column.offsets).astype(np.int64)
    bounds = bounds - bounds[0]
    lengths = np.diff(bounds)
    place = np.arange(bounds[-1]) - np.repeat(bounds[:-1], lengths)
    with np.errstate(over="ignore"):
        values = mix(_hashed(column.flatten()) ^ hash_integers(place, 1))
        running = np.concatenate([np.zeros(1, np.uint64), np.cumsum(values, dtype=np.uint64)])
        return mix((running[bounds[1:]] - running[bounds[:-1]]) ^ lengths.astype(np.uint64))


def later_copies(row: Ints, time: Ints, content: Hashes) -> NDArray[np.bool_]:
    """(N,) which rows are like one that comes before them in the log."""
    order = np.lexsort((row, content, time))
    like = (time[order[1:]] == time[order[:-1]]) & (content[order[1:]] == content[order[:-1]])
    copies = np.zeros(len(row), np.bool_)
    copies[order[1:][like]] = True
    return copies


def without_copies(table: pa.Table) -> pa.Table:
    """Events with their contents, each once."""
    row, time, content = (table.column(name).to_numpy() for name in ("row", "time", CONTENT))
    return table.filter(pa.array(~later_copies(row, time, content)))


def copies_of_users(table: pa.Table, user: Ints) -> NDArray[np.bool_]:
    """(N,) as `later_copies`, of rows in the order of their users (N,) and times: only rows of one moment are compared."""
    time = table.column("time").to_numpy()
    near = (user[1:] == user[:-1]) & (time[1:] == time[:-1]) & (user[1:] >= 0)
    together = np.zeros(len(user), np.bool_)
    together[1:] |= near
    together[:-1] |= near
    chosen, copies = np.flatnonzero(together), np.zeros(len(user), np.bool_)
    if len(chosen):
        some = table.take(pa.array(chosen))
        copies[chosen] = later_copies(some.column("row").to_numpy(), time[chosen], contents(some))
    return copies


def told_copies(copies: NDArray[np.bool_], user: Ints, time: Ints) -> pa.Table:
    """One row: how many copies there are, of how many users, and the most of one user and moment. All arguments (N,)."""
    own, at = user[copies], time[copies]
    most = int(np.unique(np.stack([own, at]), axis=1, return_counts=True)[1].max()) if len(own) else 0
    return pa.table({"rows": [len(own)], "users": [len(np.unique(own))], "most": [most]})
