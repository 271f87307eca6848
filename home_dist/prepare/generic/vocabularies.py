"""Vocabularies of [[id]]s: fitted on the training part, or grown from an earlier preparation's.

A grown vocabulary keeps the rows of its keys; new keys stand behind them, the most frequent first. Values that are too rare are
counted from one preparation to the next, until they are frequent enough or forgotten.

Keys are cut by their hash into parts (key_parts.py), of which one is in memory at a time.
"""

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from home_dist.files.whole import whole_file
from home_dist.ids.keys import KeyType, as_keys
from home_dist.ids.vocabulary import batches, merged
from home_dist.prepare.engine.mirror import here
from home_dist.prepare.fitted_keys import COUNTED, FrequentKeys, parts_for, rows_at_a_time, write_row_groups
from home_dist.prepare.generic.log_sections import IdSection
from home_dist.prepare.key_parts import KeyParts, SortedRuns
from home_dist.prepare.written_vocabulary import write_vocabulary


@dataclass(frozen=True)
class Grown:
    """What has become of a vocabulary. new: keys added; without_room: values, frequent enough, for which no row was left."""

    new: int
    without_room: int


@dataclass(frozen=True)
class KeyCounts:
    """Counts of an [[id]]'s keys in this preparation's training part, cut into parts."""

    kind: KeyType
    unsigned: bool
    """Whether its keys are unsigned integers of 64 bits."""
    counts: KeyParts
    rare: KeyParts | None
    """Values counted by earlier preparations, and not in their vocabulary: value, count and the last day that saw them."""
    folder: Path
    """For what is made of them."""
    memory: int
    """Bytes."""

    @staticmethod
    def of(
        files: Sequence[Path], kind: KeyType, unsigned: bool, before: Sequence[Path], folder: Path, memory: int
    ) -> "KeyCounts":
        """files: counts by partition of users; before: the earlier preparation's file of rare values and its vocabulary, as far
        as there are."""
        shutil.rmtree(folder, ignore_errors=True)
        files = [here(file) for file in files]
        parts = parts_for(sum(pq.read_metadata(path).num_rows for path in (*files, *before)), memory)
        counts = KeyParts(folder / "counts", parts, COUNTED[kind])
        for file in files:
            for table in _tables(file):
                counts.add(table)
        return KeyCounts(kind, unsigned, counts, None, folder, memory)

    def with_rare(self, rare: Path | None) -> "KeyCounts":
        if rare is None:
            return self
        parts = KeyParts(self.folder / "earlier", self.counts.count, COUNTED[self.kind].append(pa.field("day", pa.int64())))
        for table in _tables(rare):
            parts.add(table)
        return replace(self, rare=parts)

    def keys_of(self, vocabulary: Path, name: str) -> KeyParts:
        """The keys of a vocabulary, cut like the counts."""
        parts = KeyParts(self.folder / name, self.counts.count, COUNTED[self.kind].remove(1))
        for table in _tables(vocabulary, ["value"]):
            keys = [as_keys(chunk, self.kind) for chunk in table.column("value").chunks]
            parts.add(pa.table({"value": pa.chunked_array(keys)}))
        return parts

    def frequent(self, min_count: int) -> FrequentKeys:
        return FrequentKeys(self.folder / "frequent", min_count, self.unsigned, self.memory)

    def rare_part(self, number: int) -> list[pa.Table]:
        return [] if self.rare is None else [self.rare.part(number)]


def _tables(path: Path, columns: list[str] | None = None) -> Iterator[pa.Table]:
    for batch in batches(path, columns):
        yield pa.Table.from_batches([batch])


def fit_vocabulary(section: IdSection, counted: KeyCounts, out: Path) -> None:
    """Writes the vocabulary of an [[id]] to `out`. Row 0 stands for missing and rarer values."""
    kept = counted.frequent(section.min_count)
    for number in range(counted.counts.count):
        kept.add(merged([counted.counts.part(number)], counted.kind))
    most = kept.keys if section.rows is None else max(0, min(kept.keys, section.rows - 1))
    write_vocabulary(kept.tables(1, most), most, counted.kind, out)


def grow_vocabulary(section: IdSection, before: Path, counted: KeyCounts, out: Path) -> Grown:
    """Writes vocabulary `before` with the new keys behind its own to `out`."""
    known, kept = counted.keys_of(before, "known"), counted.frequent(section.min_count)
    for number in range(counted.counts.count):
        rare = [table.select(["value", "count"]) for table in counted.rare_part(number)]
        sums = merged([counted.counts.part(number), *rare], counted.kind)
        kept.add(sums.filter(pc.invert(pc.is_in(sums.column("value"), value_set=known.part(number).column("value")))))
    keys = pq.read_metadata(before).num_rows
    room = kept.keys if section.rows is None else max(0, section.rows - 1 - keys)
    new = min(kept.keys, room, section.most_new or room)
    if not new:
        shutil.copyfile(before, out)
    else:
        unsigned = kept.has_large or pa.types.is_uint64(pq.read_schema(before).field("value").type)
        earlier = (table.select(["value", "row", "count"]) for table in _tables(before))
        tables = chain(earlier, kept.tables(1 + keys, new))
        write_vocabulary((_unsigned(t) for t in tables) if unsigned else tables, keys + new, counted.kind, out)
    return Grown(new, kept.keys - new if room < kept.keys else 0)


def _unsigned(table: pa.Table) -> pa.Table:
    values = [c if pa.types.is_uint64(c.type) else c.view(pa.uint64()) for c in table.column("value").chunks]
    return table.set_column(0, "value", pa.chunked_array(values, pa.uint64()))


def write_rare(vocabulary: Path, counted: KeyCounts, day: int, forget_days: float | None, out: Path) -> None:
    """Writes the counted values that the vocabulary lacks: value, count, and the last day of the preparation that saw it last.

    day: the last one of this preparation.
    """
    known = counted.keys_of(vocabulary, "in-vocabulary")
    schema = COUNTED[counted.kind].append(pa.field("day", pa.int64()))
    left = SortedRuns(counted.folder / "rare", [("value", "ascending")], rows_at_a_time(counted.memory))
    for number in range(counted.counts.count):
        counts = counted.counts.part(number)
        seen = counts.append_column("day", pa.array(np.full(len(counts), day)))
        every = pa.concat_tables([*counted.rare_part(number), seen]).group_by("value")
        every = every.aggregate([("count", "sum"), ("day", "max")])
        every = every.rename_columns({"count_sum": "count", "day_max": "day"}).select(["value", "count", "day"])
        kept = pc.invert(pc.is_in(every.column("value"), value_set=known.part(number).column("value")))
        if forget_days is not None:
            kept = pc.and_(kept, pc.greater_equal(every.column("day"), day - forget_days))
        left.add(every.filter(kept))
    with whole_file(out) as file:
        write_row_groups(file, left.tables(), schema.empty_table(), compression="zstd")
