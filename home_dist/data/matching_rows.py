"""Maps the rows of a table in one run's data to the rows in another's that stand for the same key."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from home_dist.config import RunConfig
from home_dist.data.side_files import side_file
from home_dist.errors import DataError
from home_dist.files.hashes import file_sha256
from home_dist.ids.rows import INDEXED, open_rows
from home_dist.ids.vocabulary import VocabularyFile
from home_dist.schema import Schema, Table, TableSpec
from home_dist.schema.values import HashValues, Origin, VocabularyValues

Map = NDArray[np.int64]
"""(rows in this run,): for each row, the other run's row that stands for the same key; -1 for none."""


@dataclass(frozen=True)
class RunSide:
    """A configuration, as the user gave it, the schema of its data, and their vocabularies."""

    config: RunConfig
    schema: Schema
    recorded: dict[str, str]
    """SHA-256 of tables' vocabularies when the run began; empty for a new run, and for a run that did not record them."""

    def spec(self, table: str) -> TableSpec:
        return next(t for t in self.schema.table if t.name == table)

    def values(self, table: str) -> VocabularyValues | HashValues | None:
        return self.spec(table).values

    def declared(self, table: str) -> int:
        return self.schema.table_rows()[table]

    def place(self, table: str) -> str:
        """Path of the table's vocabulary, relative to the schema: the schema's, or else the one that pipelines write."""
        values, origin = self.values(table), self.spec(table).origin
        if origin is not None:
            return origin.file
        return values.file if isinstance(values, VocabularyValues) else f"vocabularies/{table}.parquet"


class Unknown(Exception):
    """Rows of two runs cannot be matched; the message says why."""


def vocabulary_hashes(config: RunConfig, schema: Schema) -> dict[str, str]:
    """SHA-256 by table, of vocabularies beside the schema without a checksum in the schema."""
    side = RunSide(config, schema, {})
    paths = {t.name: side_file(config, side.place(t.name)) for t in schema.table if not tells_its_vocabulary(t)}
    return {name: file_sha256(path) for name, path in paths.items() if path is not None}


def refuse_other_vocabularies(config: RunConfig, schema: Schema, recorded: dict[str, str]) -> None:
    """Raises DataError if a table's vocabulary is another one than when the run began, by its recorded SHA-256."""
    side = RunSide(config, schema, recorded)
    for table in schema.table:
        if table.name not in recorded:
            continue
        path = side_file(config, side.place(table.name))
        now = table.origin.sha256 if table.origin is not None else None if path is None else file_sha256(path)
        if now != recorded[table.name]:
            raise DataError(
                f"{path or side.place(table.name)}: is not the vocabulary of table {table.name!r} that the run was trained "
                f"with: its rows are of other keys. Restore it, or go on in a new run.dir with home-dist train ... --from."
            )


def tells_its_vocabulary(table: TableSpec) -> bool:
    """Whether the schema itself tells which vocabulary the table has, or that it has none."""
    values = table.values
    if isinstance(values, VocabularyValues):
        return values.sha256 is not None
    return values is not None or table.origin is not None or table.means is not None


def same_rows(there: RunSide, here: RunSide, before: Table, now: Table) -> tuple[Map, str]:
    """(map from table `before` of the other run to table `now` of this run, method). Raises Unknown if there is no map."""
    old, new = there.values(before.name), here.values(now.name)
    if isinstance(old, HashValues) or isinstance(new, HashValues):
        return _hashed(old, new, before, now)
    specs = there.spec(before.name), here.spec(now.name)
    common = common_keys(specs[0].origin, specs[1].origin)
    if common is not None:
        rows = np.full(now.rows, -1, np.int64)
        reach = min(common + 1, before.rows, now.rows)
        rows[:reach] = np.arange(reach)
        return rows, "by key"
    told = specs[0].means, specs[1].means
    if None not in told and told[0] != told[1]:
        raise Unknown(f"its rows are of {told[0]} there, of {told[1]} here")
    paths = [side_file(side.config, side.place(table.name)) for side, table in ((there, before), (here, now))]
    if paths[0] is None and paths[1] is None and not any(spec.origin for spec in specs):
        rows = np.full(now.rows, -1, np.int64)
        common = min(before.rows, now.rows)
        rows[:common] = np.arange(common)
        return rows, "row by row"
    for path, side, table, owner in zip(paths, (there, here), (before, now), ("the other run's", "this run's"), strict=True):
        if path is None:
            raise Unknown(f"no {side.place(table.name)} beside {owner} schema tells which row is which")
    old_rows = old.unknown_rows if isinstance(old, VocabularyValues) else 0
    new_rows = new.unknown_rows if isinstance(new, VocabularyValues) else 0
    files = [opened(paths[0], there, before, old), opened(paths[1], here, now, new)]
    if files[0].kind != files[1].kind:
        raise Unknown("its vocabularies hold keys of different types")
    rows = np.full(now.rows, -1, np.int64)
    rows[0] = 0  # row of missing keys
    if old_rows == new_rows:  # the same hash spreads unknown keys over the same number of rows
        rows[1 : 1 + new_rows] = np.arange(1, 1 + new_rows)
    try:
        rows_there = open_rows(files[0], old_rows + 1, there.declared(before.name))
        for keys, own in pieces_of(files[1], new_rows + 1, here.declared(now.name)):
            matched = rows_there(keys)
            kept = (own < now.rows) & (matched > 0) & (matched < before.rows)  # either table may have its last rows cut off
            rows[own[kept]] = matched[kept]
    except DataError as error:
        raise Unknown(f"its vocabulary cannot be used: {error}") from None
    return rows, "by key"


def pieces_of(file: VocabularyFile, first_row: int, rows: int) -> Iterator[tuple[pa.Array, NDArray[np.int64]]]:
    """(keys, their rows): a large vocabulary piece by piece."""
    if file.keys < INDEXED:
        vocabulary = file.whole(first_row, rows)
        yield vocabulary.keys, vocabulary.rows
        return
    for keys, own in file.pieces():
        file.check_rows(int(own.min()), int(own.max()), first_row, rows)
        yield keys, own


def common_keys(old: Origin | None, new: Origin | None) -> int | None:
    """How many keys have the same rows in both vocabularies, if one has grown from the other: then no others do. None if the
    schemas do not tell."""
    if old is None or new is None:
        return None
    if old.sha256 == new.sha256:
        return old.keys
    for one, other in ((old, new), (new, old)):
        if any(a.sha256 == one.sha256 for a in other.grown_from):
            return one.keys
    return None


def _hashed(
    old: VocabularyValues | HashValues | None, new: VocabularyValues | HashValues | None, before: Table, now: Table
) -> tuple[Map, str]:
    if not (isinstance(old, HashValues) and isinstance(new, HashValues)):
        raise Unknown("its rows are hashed in one of both runs alone")
    if old.type != new.type:
        raise Unknown(f"it hashes keys of type {old.type} there, {new.type} here")
    if old.seed != new.seed:
        raise Unknown(f"it is hashed with seed {old.seed} there, {new.seed} here")
    if before.rows != now.rows:
        raise Unknown(f"it is hashed to {before.rows:,} rows there, {now.rows:,} here")
    return np.arange(now.rows), "row by row"


def opened(path: Path | None, side: RunSide, table: Table, values: VocabularyValues | HashValues | None) -> VocabularyFile:
    """The vocabulary that made the table's rows. Raises Unknown if the file holds another one."""
    if path is None:
        raise ValueError("the caller checks that the file exists")
    origin = side.spec(table.name).origin
    known = origin or (values if isinstance(values, VocabularyValues) else None)
    kind, sha256 = (None, None) if known is None else (known.type, known.sha256)
    declared, recorded = side.declared(table.name), side.recorded.get(table.name)
    if recorded is not None and file_sha256(path) != recorded:
        raise Unknown(f"{path} is not the vocabulary that it was trained with")
    try:
        file = VocabularyFile.open(path, table.name, kind, sha256)
    except DataError as error:
        raise Unknown(f"its vocabulary cannot be used: {error}") from None
    # Pipelines make a row per key, plus row 0.
    if values is None and origin is None and 1 + file.keys != declared:
        raise Unknown(f"{path} has {file.keys:,} keys for {declared:,} rows: it is another vocabulary")
    return file
