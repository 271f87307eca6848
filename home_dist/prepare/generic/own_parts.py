"""Parts of rows by the split of a description that does not go by time: at random, or by a column."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from home_dist.errors import DataError
from home_dist.ids.hashing import hash_integers, hash_texts, mix
from home_dist.ids.keys import missing
from home_dist.prepare.asof import Ints
from home_dist.prepare.days import SPLITS
from home_dist.prepare.generic.columns import keys
from home_dist.prepare.generic.log_files import Chunk
from home_dist.prepare.generic.log_plan import FILE_BITS, Plan, key_hashes
from home_dist.prepare.generic.log_spec import LogSpec
from home_dist.prepare.generic.split_sections import ColumnSplit, RandomSplit

_SHOWN = 20
"""Values of the column that a message names."""


def split_columns(spec: LogSpec) -> set[str]:
    """Columns by which rows are split."""
    match spec.split:
        case ColumnSplit():
            return {spec.split.column}
        case RandomSplit():
            return set(spec.split.key)
    return set()


def parts_of_rows(plan: Plan, table: pa.Table, chunk: Chunk, row: Ints) -> NDArray[np.int8]:
    """(N,) position in SPLITS of rows of a chunk; -1 in none. row: (N,) their numbers."""
    split = plan.spec.split
    if isinstance(split, ColumnSplit):
        place = pc.index_in(_texts(table, split), value_set=pa.array(split.texts))
        return np.append(split.parts, -1)[np.asarray(pc.fill_null(place, -1))].astype(np.int8)
    if not isinstance(split, RandomSplit):
        raise TypeError(f"split by {split.by}")
    [file] = hash_texts(pa.array([chunk.place]), 0)
    hashes = mix((row & ((1 << FILE_BITS) - 1)).astype(np.uint64) ^ file)
    if split.key:
        columns = [keys(table.column(name).combine_chunks()) for name in split.key]
        hashes = np.where(np.any([missing(c) for c in columns], axis=0), hashes, key_hashes(columns))
    drawn = hash_integers(hashes, split.seed) >> np.uint64(32)
    bounds = [np.uint64(share * 2**32) for share in (split.test, split.test + split.validation)]
    return np.array([2, 1, 0], np.int8)[np.searchsorted(bounds, drawn, side="right")]


def told_parts(plan: Plan, table: pa.Table, split: NDArray[np.int8]) -> pa.Table:
    """Rows by part, with some values of the column that tells parts."""
    rows = np.bincount(split.astype(np.int64) + 1, minlength=len(SPLITS) + 1)
    values: list[str | None] = []
    if isinstance(plan.spec.split, ColumnSplit):
        values = pc.unique(_texts(table, plan.spec.split)).slice(0, _SHOWN).to_pylist()
    return pa.table({"rows": [rows.tolist()], "values": pa.array([values], pa.list_(pa.string()))})


def check_parts(spec: LogSpec, told: Sequence[pa.Table]) -> None:
    """Raises DataError for a part that would hold no rows. told: of each chunk."""
    every = pa.concat_tables(told)
    rows = np.sum(np.array(every.column("rows").to_pylist()), axis=0)[1:]
    split = spec.split
    for position, name in enumerate(SPLITS):
        asked = name == "train" or bool(getattr(split, name, None))
        if asked and not rows[position]:
            if isinstance(split, ColumnSplit):
                seen = sorted({str(v) for v in every.column("values").combine_chunks().flatten().drop_null().to_pylist()})
                given = ", ".join(repr(text) for text, part in zip(split.texts, split.parts, strict=True) if part == position)
                raise DataError(
                    f"{spec.log}: column {split.column!r} holds {given} in no row: the {name} part would be empty. "
                    f"It holds {', '.join(map(repr, seen[:_SHOWN])) or 'no values'}."
                )
            raise DataError(
                f"{spec.log}: of {int(rows.sum()):,} rows none falls to the {name} part of the split. Give it a larger share."
            )


def _texts(table: pa.Table, split: ColumnSplit) -> pa.Array:
    return table.column(split.column).combine_chunks().cast(pa.string())
