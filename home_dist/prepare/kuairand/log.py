"""The log in order of time, with repeated rows merged and the labels of all tasks."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from home_dist.errors import DataError
from home_dist.prepare.asof import Ints
from home_dist.prepare.kuairand.files import FLAGS
from home_dist.prepare.raw_tables import int_column

GROUPS: dict[str, tuple[str, ...]] = {
    "interaction": ("like", "follow", "comment", "forward", "profile_enter"),
    "watch": ("effective_view", "long_view", "complete_view"),
}
"""The tasks by group."""
EFFECTIVE_MS = 7000


@dataclass(frozen=True)
class Log:
    """One entry per impression, ordered by (time, user, video). All (N,)."""

    user: Ints
    video: Ints
    time: Ints
    """Milliseconds since 1970, UTC."""
    tab: Ints
    duration_ms: Ints
    """0: unknown."""
    play_ms: Ints
    happened: dict[str, NDArray[np.int8]]
    """By behaviour: the tasks, click and hate."""
    watch_known: NDArray[np.int8]
    """1 where the duration, and so the watch tasks' labels, are known."""
    rows_in: int
    whole_row_duplicates: int
    merged_rows: int

    def __len__(self) -> int:
        return len(self.time)


def clean_log(table: pa.Table) -> Log:
    """Merges rows of one (user, video, time): keeps every behaviour that any of them has, and the longest play time.

    Other columns come from the first of these rows in the files. Raises DataError for impossible values.
    """
    columns = {name: int_column(table, name) for name in table.column_names}
    for name in ("user_id", "video_id", "time_ms", "duration_ms", "play_time_ms"):
        if columns[name].min() < 0:
            row = int(np.argmin(columns[name]))
            raise DataError(f"log: column {name!r} holds {columns[name][row]} in row {row + 1}; it must not be negative.")
    for name in FLAGS:
        bad = (columns[name] != 0) & (columns[name] != 1)
        if bad.any():
            row = int(np.argmax(bad))
            raise DataError(f"log: column {name!r} holds {columns[name][row]} in row {row + 1}; 0 or 1 is needed.")
    order = np.lexsort((columns["video_id"], columns["user_id"], columns["time_ms"]))
    columns = {name: values[order] for name, values in columns.items()}
    first = _run_starts([columns["time_ms"], columns["user_id"], columns["video_id"]])
    whole = _whole_row_duplicates(columns, first)
    happened = {name: np.maximum.reduceat(columns[name], first).astype(np.int8) for name in FLAGS}
    play = np.maximum.reduceat(columns["play_time_ms"], first)
    duration = columns["duration_ms"][first]
    known = duration > 0
    behaviours = {name.removeprefix("is_"): values for name, values in happened.items()}
    behaviours["effective_view"] = ((play > EFFECTIVE_MS) | (play >= duration)).astype(np.int8)
    behaviours["complete_view"] = (play >= duration).astype(np.int8)
    for name in GROUPS["watch"]:
        behaviours[name] = np.where(known, behaviours[name], np.int8(0))
    return Log(
        user=columns["user_id"][first],
        video=columns["video_id"][first],
        time=columns["time_ms"][first],
        tab=columns["tab"][first],
        duration_ms=duration,
        play_ms=play,
        happened=behaviours,
        watch_known=known.astype(np.int8),
        rows_in=table.num_rows,
        whole_row_duplicates=whole,
        merged_rows=table.num_rows - len(first) - whole,
    )


def _run_starts(columns: list[Ints]) -> Ints:
    """Indices of rows that differ from the row before; columns (N,) are sorted."""
    new = np.zeros(len(columns[0]), bool)
    new[0] = True
    for column in columns:
        new[1:] |= column[1:] != column[:-1]
    return np.flatnonzero(new)


def _whole_row_duplicates(columns: dict[str, Ints], first: Ints) -> int:
    """Number of rows that equal an earlier one in every column. first: index of the first row of each (time, user, video)."""
    lengths = np.diff(np.append(first, len(columns["time_ms"])))
    repeated = np.flatnonzero(np.repeat(lengths > 1, lengths))
    if not len(repeated):
        return 0
    rows = np.stack([values[repeated] for values in columns.values()], 1)
    return len(rows) - len(np.unique(rows, axis=0))
