"""Encodes a partition's rows for storage: ids as rows of tables, histories, rounded numbers; a file per split."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from home_dist.ids.keys import KeyType
from home_dist.ids.rows import RowsOf, open_rows
from home_dist.ids.vocabulary import VocabularyFile
from home_dist.prepare.asof import Ints
from home_dist.prepare.boundaries import round_to
from home_dist.prepare.days import SPLITS, Days
from home_dist.prepare.engine.mirror import here
from home_dist.prepare.engine.spill import one_batch, read_part, write_batches
from home_dist.prepare.generic.condensed import write_left
from home_dist.prepare.generic.history import EncodedHistory, EncodedLists, history_file, kept_events, with_earlier_events
from home_dist.prepare.generic.label_columns import value_column
from home_dist.prepare.generic.log_plan import Plan, groups
from home_dist.prepare.generic.names import duration_columns
from home_dist.prepare.generic.partition import ROWS
from home_dist.prepare.generic.scan import KEPT
from home_dist.prepare.generic.vocabularies import Grown
from home_dist.prepare.write import list_array

STORED_FILE, FOUND_FILE, BASE_FOUND_FILE = "stored.parquet", "found.parquet", "found-by-base.parquet"
_SLICE = 16384  # rows whose histories are in memory at a time


@dataclass(frozen=True)
class Fitted:
    """Values fitted on the training part of all partitions together."""

    days: Days
    vocabularies: tuple[Path, ...]
    """A file per [[id]]: column value, in the order of rows."""
    rare: tuple[Path, ...]
    """A file per [[id]]: values that are not in its vocabulary (`write_rare`)."""
    steps: dict[str, float]
    """By statistic: the step that its values are rounded to."""
    known: dict[str, bool]
    """By label: whether all rows know it."""
    grown: dict[str, Grown]
    """By [[id]] whose vocabulary could grow: by how much it did."""
    base_keys: dict[str, int]
    """By [[id]]: how many values the base's vocabulary holds, in rows 1 to so many; empty without a base."""


def split_file(split: int) -> str:
    return f"{SPLITS[split]}.arrow"


def encode(plan: Plan, fitted: Fitted, part: int, gathered: Path, earlier: Sequence[Sequence[Path]], folder: Path) -> None:
    """earlier: by [[history]], what the preparation before left of it."""
    spec = plan.spec
    table = read_part([gathered / ROWS], 0)
    time, split = table.column("time").to_numpy(), table.column("split").to_numpy()
    columns = {} if spec.user is None else {"group": groups(table.column("user").combine_chunks())}
    columns |= {} if spec.time is None else {"time_ms": pa.array(time)}
    rows_of, encoders = {}, {}
    for section, path in zip(spec.id, fitted.vocabularies, strict=True):
        keys = table.column(f"id_{section.column}").combine_chunks()
        encoders[section.column] = rows_of_vocabulary(path, section.column, plan.known.id_key(section))
        columns[section.column] = rows_of[section.column] = encoded_ids(keys, encoders[section.column])
    if spec.calendar:
        columns |= {n: pa.array(v, pa.int32()) for n, v in spec.clock.calendar(time).items()}
    histories: list[EncodedHistory | EncodedLists] = []
    for number, history in enumerate(spec.history):
        if history.reads_lists:
            histories.append(EncodedLists(history, number, table, encoders))
            continue
        events = with_earlier_events(history, table, earlier[number], part)
        write_left(kept_events(history, events, fitted.days.end_ms, spec.forget_days), folder / history_file(number))
        histories.append(EncodedHistory(history, events, table, encoders, rows_of, spec.forget_days))
    later_columns: dict[str, pa.Array] = {}
    for name, step in fitted.steps.items():
        later_columns[f"stat_{name}"] = pa.array(round_to(step, _floats(table, f"stat_{name}")), from_pandas=True)
    for label in spec.label:
        later_columns[f"label_{label.name}"] = table.column(value_column(label)).combine_chunks()
        if not fitted.known[label.name]:
            later_columns[f"known_{label.name}"] = table.column(f"known_{label.name}").combine_chunks()
    durations = dict.fromkeys(duration_columns(spec.label).values())
    later_columns |= {name: table.column(name).combine_chunks() for name in durations}
    later_columns |= {f"{KEPT}{name}": table.column(f"{KEPT}{name}").combine_chunks() for name in plan.keep}

    before, later = pa.table(columns), pa.table(later_columns)
    del table, columns, later_columns

    def batches(chosen: Ints) -> Iterator[pa.RecordBatch]:
        for first in range(0, max(1, len(chosen)), _SLICE):
            rows = chosen[first : first + _SLICE]
            sliced = before.take(pa.array(rows))
            for encoded in histories:
                for name, values in encoded.of(rows).items():
                    sliced = sliced.append_column(name, values)
            taken = later.take(pa.array(rows))
            for name in later.column_names:
                sliced = sliced.append_column(name, taken.column(name))
            yield one_batch(sliced)

    schema = next(batches(np.zeros(0, np.int64))).schema
    id_counts, base_counts = [], []
    for index in range(len(SPLITS)):
        chosen = np.flatnonzero(split == index)
        write_batches(folder / split_file(index), batches(chosen) if len(chosen) else [], schema)
        taken = {name: before.column(name).combine_chunks().take(pa.array(chosen)) for name in rows_of}
        id_counts.append({name: _known_rows(rows) for name, rows in taken.items()})
        base_counts.append({name: _known_rows(taken[name], keys) for name, keys in fitted.base_keys.items()})
    pq.write_table(pa.Table.from_pylist(id_counts), folder / FOUND_FILE)
    if fitted.base_keys:
        pq.write_table(pa.Table.from_pylist(base_counts), folder / BASE_FOUND_FILE)
    training = pa.array(np.flatnonzero(split == 0))
    pq.write_table(_stored({n: later.column(f"stat_{n}").take(training) for n in fitted.steps}), folder / STORED_FILE)


def _floats(table: pa.Table, name: str) -> NDArray[np.float64]:
    """(N,), NaN where null."""
    return np.asarray(pc.fill_null(table.column(name), np.nan).combine_chunks())


def rows_of_vocabulary(path: Path, column: str, kind: KeyType) -> RowsOf:
    file = VocabularyFile.open(here(path), column, kind)
    return open_rows(file, 1, 1 + file.keys)


def encoded_ids(keys: pa.Array, rows_of: RowsOf) -> pa.Array:
    """(n,) int32 rows, or lists of them."""
    if pa.types.is_list(keys.type):
        return list_array(rows_of(keys.flatten()).astype(np.int32), np.asarray(keys.offsets).astype(np.int64))
    return pa.array(rows_of(keys).astype(np.int32))


def _known_rows(taken: pa.Array, keys: int | None = None) -> int:
    """How many rows have a value that the vocabulary holds, or, with `keys`, that its first `keys` values hold."""
    if not pa.types.is_list(taken.type):
        return int(_is_known(taken, keys).sum())
    bounds = np.asarray(taken.offsets)
    known = np.concatenate([[0], np.cumsum(_is_known(taken.values, keys))])
    return int((known[bounds[1:]] > known[bounds[:-1]]).sum()) if len(taken) else 0


def _is_known(rows: pa.Array, keys: int | None) -> NDArray[np.bool_]:
    values = np.asarray(rows)
    return values > 0 if keys is None else (values > 0) & (values <= keys)


def _stored(columns: dict[str, pa.ChunkedArray]) -> pa.Table:
    """How often each stored value of each statistic occurs in the training part."""
    parts = []
    for name, column in columns.items():
        values, counts = np.unique(column.drop_null().to_numpy(), return_counts=True)
        names = pa.array([name] * len(values), pa.string())
        parts.append(pa.table({"number": names, "value": pa.array(values, pa.float32()), "count": counts}))
    kinds = {"number": pa.string(), "value": pa.float32(), "count": pa.int64()}
    return pa.concat_tables([pa.schema(kinds).empty_table(), *parts])
