"""Vocabularies of [[id]]s: fitted on the training part, or grown from an earlier preparation's.

A grown vocabulary keeps the rows of its keys; new keys stand behind them, the most frequent first. Values that are too rare are
counted from one preparation to the next, until they are frequent enough or forgotten.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from home_dist.ids.keys import KeyType, as_keys
from home_dist.ids.vocabulary import merged, most_frequent
from home_dist.prepare.engine.mirror import here
from home_dist.prepare.generic.log_sections import IdSection
from home_dist.prepare.written_vocabulary import write_vocabulary


@dataclass(frozen=True)
class Grown:
    """What has become of a vocabulary. new: keys added; without_room: values, frequent enough, for which no row was left."""

    new: int
    without_room: int


def fit_vocabulary(section: IdSection, counts: pa.Table, unsigned: bool, out: Path) -> None:
    """Writes the vocabulary of an [[id]] to `out`. Row 0 stands for missing and rarer values. counts: as `merged` returns
    them."""
    write_vocabulary(most_frequent(counts, section.min_count, max_rows=section.rows, unsigned=unsigned), out)


def grow_vocabulary(
    section: IdSection, before: Path, rare: Path | None, counts: pa.Table, kind: KeyType, unsigned: bool, out: Path
) -> Grown:
    """Writes vocabulary `before` with the new keys behind its own to `out`. rare: values counted by earlier preparations."""
    table = pq.read_table(before)
    known = as_keys(table.column("value").combine_chunks(), kind)
    earlier = [] if rare is None else [pq.read_table(rare, columns=["value", "count"])]
    sums = merged([counts, *earlier], kind)
    sums = sums.filter(pc.invert(pc.is_in(sums.column("value"), value_set=known.cast(sums.schema.field("value").type))))
    frequent = len(most_frequent(sums, section.min_count))
    room = frequent if section.rows is None else max(0, section.rows - 1 - len(table))
    most = min(room, section.most_new or room)
    first = 1 + len(table)
    new = most_frequent(sums, section.min_count, first, first + most, unsigned)
    if not len(new):
        out.write_bytes(before.read_bytes())
    else:
        parts = [table.select(["value", "row", "count"]), new]
        if any(pa.types.is_uint64(part.schema.field("value").type) for part in parts):
            parts = [_unsigned(part) for part in parts]
        row = pa.array(np.concatenate([part.column("row").to_numpy() for part in parts]).astype(np.int64))
        whole = {n: pa.chunked_array([c for part in parts for c in part.column(n).chunks]) for n in ("value", "count")}
        write_vocabulary(pa.table({"value": whole["value"], "row": row, "count": whole["count"]}), out)
    return Grown(len(new), frequent - len(new) if room < frequent else 0)


def _unsigned(table: pa.Table) -> pa.Table:
    values = [c if pa.types.is_uint64(c.type) else c.view(pa.uint64()) for c in table.column("value").chunks]
    return table.set_column(0, "value", pa.chunked_array(values, pa.uint64()))


def write_rare(
    vocabulary: Path, counts: pa.Table, day: int, rare: Path | None, kind: KeyType, forget_days: float | None, out: Path
) -> None:
    """Writes the counted values that the vocabulary lacks: value, count, and the last day of the preparation that saw it last.

    counts: of this preparation, whose last day is `day`; rare: file of the one before.
    """
    seen = counts.append_column("day", pa.array(np.full(len(counts), day)))
    parts = [seen] if rare is None else [pq.read_table(rare), seen]
    every = pa.concat_tables(parts).group_by("value").aggregate([("count", "sum"), ("day", "max")])
    every = every.rename_columns({"count_sum": "count", "day_max": "day"}).select(["value", "count", "day"])
    keys = as_keys(pq.read_table(vocabulary, columns=["value"]).column("value").combine_chunks(), kind)
    kept = pc.invert(pc.is_in(every.column("value"), value_set=keys.cast(every.schema.field("value").type)))
    if forget_days is not None:
        kept = pc.and_(kept, pc.greater_equal(every.column("day"), day - forget_days))
    pq.write_table(every.filter(kept).sort_by("value"), out, compression="zstd")


def counts_of(files: Sequence[Path], kind: KeyType) -> pa.Table:
    return merged([pq.read_table(here(file)) for file in files], kind)
