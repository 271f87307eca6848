"""Writes the data folder of one origin: its days as splits, with vocabularies, boundaries and rates of its training days.

A folder that is there already is used again if it was made of the same files for the same origin. Rows keep the base's order.
Columns keep its values, which are of each impression's own past; only rows of vocabularies are written anew.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tomli_w
from numpy.typing import NDArray

from home_dist.errors import DataError
from home_dist.files.hashes import file_sha256
from home_dist.files.json_files import read_json, write_json
from home_dist.files.whole import whole_folder
from home_dist.prepare.days import SPLITS, day_name
from home_dist.prepare.fit.data_fit import fit_data
from home_dist.prepare.origins.dated_data import DatedData, RollingOrigin
from home_dist.prepare.origins.refit import BaseVocabulary, columns_with_rows, count_rows, draft_of, encoded
from home_dist.prepare.progress import Say
from home_dist.prepare.sketch import Sketch
from home_dist.prepare.write import part_name, with_origins, write_file
from home_dist.prepare.written_vocabulary import PublishedVocabulary
from home_dist.schema import PretrainedFeature, Schema, StatisticFeature, save_schema

_BATCH = 65536
_MADE_OF = "origin.json"


def write_origin(base: DatedData, origin: RollingOrigin, out: Path, say: Say) -> None:
    """Writes `out`, with splits train, validation and test, and schema.toml. Raises DataError, also for a folder that was made
    of other files."""
    made_of = _made_of(base, origin)
    if (out / _MADE_OF).is_file():
        before = read_json(out / _MADE_OF, f"Remove {out}; the same command writes it anew.", DataError)
        if before != made_of:
            raise DataError(
                f"{out}: was made of other data than {base.folder} holds now, and runs have trained on it. Choose another "
                "run.dir, or remove this one to begin anew."
            )
        return
    with whole_folder(out) as writing:
        rows, notes = _write(base, origin, writing)
        write_json(writing / _MADE_OF, made_of)
    first, last = day_name(base.first), day_name(origin.day)
    say(f"origin {origin.number}: {', '.join(f'{rows[s]:,} rows of {s}' for s in SPLITS)}; trains on {first} to {last}")
    for note in notes:
        say(f"note: origin {origin.number}: {note}")


def _made_of(base: DatedData, origin: RollingOrigin) -> dict[str, Any]:
    files = [[split, str(path), path.stat().st_size, path.stat().st_mtime_ns] for split, path in base.files]
    return {
        "origin": origin.number,
        "last_training_day": day_name(origin.day),
        "utc_offset_hours": base.utc_offset_hours,
        "schema": file_sha256(base.schema_path),
        "files": files,
    }


@dataclass(frozen=True)
class _BaseRows:
    """Rows of the base's files."""

    base: DatedData
    columns: pa.Schema

    @staticmethod
    def of(base: DatedData) -> "_BaseRows":
        return _BaseRows(base, pq.read_schema(base.files[0][1]).remove_metadata())

    def batches(self, path: Path, names: list[str] | None = None) -> Iterator[tuple[pa.Table, NDArray[np.int64]]]:
        """(columns, days) of some rows at a time."""
        time = str(self.base.schema.time_column)
        wanted = self.columns.names if names is None else list(dict.fromkeys([*names, time]))
        try:
            with pq.ParquetFile(path) as file:
                for batch in file.iter_batches(_BATCH, columns=wanted):
                    table = pa.Table.from_batches([batch]).select(wanted)
                    types = pa.schema([self.columns.field(name) for name in wanted])
                    table = table if table.schema.equals(types) else table.cast(types)
                    yield table, self.base.days_of(table[time])
        except (KeyError, ValueError, pa.ArrowInvalid, OSError) as error:
            raise DataError(
                f"{path}: columns cannot be read as those of the first file ({str(error).splitlines()[0]})"
            ) from None

    def until(self, day: int, names: list[str], split: str | None = None) -> Iterator[pa.Table]:
        for of, path in self.base.files:
            if split in (None, of):
                for table, days in self.batches(path, names):
                    yield table.filter(pa.array(days <= day))


def _write(base: DatedData, origin: RollingOrigin, writing: Path) -> tuple[dict[str, int], list[str]]:
    rows, schema = _BaseRows.of(base), base.schema
    statistics = [f for f in schema.feature if isinstance(f, StatisticFeature)]
    with_rows = columns_with_rows(schema)
    needed = [*with_rows, *(f.column for f in statistics)]
    missing = [name for name in needed if name not in rows.columns.names]
    if missing:
        raise DataError(f"{base.files[0][1]}: has no column {missing[0]!r}, which the schema reads")
    sketches = {f.name: Sketch() for f in statistics}
    for table in rows.until(base.fitted_until, [f.column for f in statistics], "train"):
        for f in statistics:
            sketches[f.name].add(table[f.column].cast(pa.float64()).fill_null(np.nan).to_numpy())
    vocabularies, new = _vocabularies(base, origin, rows, list(with_rows))
    written = {
        split: _write_split(rows, origin, position, writing / split, with_rows, new) for position, split in enumerate(SPLITS)
    }
    for frozen in {f.frozen for f in schema.feature if isinstance(f, PretrainedFeature) and f.frozen}:
        (writing / frozen).symlink_to((base.folder / frozen).resolve())
    table_rows = {name: _table_rows(schema, name, vocabulary) for name, vocabulary in vocabularies.items()}
    draft, notes = draft_of(schema, base.folder, sketches, table_rows, origin.day < base.fitted_until)
    draft_path = writing / "draft.toml"
    draft_path.write_text(tomli_w.dumps(draft.model_dump(exclude_none=True, mode="json")))
    fitted = fit_data(draft_path, writing, lambda _: None)
    (writing / "vocabularies").mkdir(exist_ok=True)
    for name, vocabulary in vocabularies.items():
        vocabulary.save(writing / "vocabularies" / f"{name}.parquet")
    save_schema(with_origins(_with_meanings(fitted, schema), vocabularies, writing), writing / "schema.toml")
    return written, notes


def _vocabularies(
    base: DatedData, origin: RollingOrigin, rows: _BaseRows, columns: list[str]
) -> tuple[dict[str, PublishedVocabulary], dict[str, NDArray[np.int32]]]:
    """By table: its vocabulary, and the new row of each of the base's."""
    seen = count_rows(base.schema, rows.until(origin.day, columns))
    by_base = count_rows(base.schema, rows.until(base.fitted_until, columns, "train"))
    vocabularies, new = {}, {}
    for table in base.schema.table:
        if table.origin is not None:
            opened = BaseVocabulary.open(base.folder, table.name, table.origin)
            vocabularies[table.name], new[table.name] = opened.refitted(seen[table.name], by_base[table.name])
    return vocabularies, new


def _write_split(
    rows: _BaseRows,
    origin: RollingOrigin,
    position: int,
    folder: Path,
    with_rows: Mapping[str, str],
    new: Mapping[str, NDArray[np.int32]],
) -> int:
    """Writes the rows of one split, a file for each of the base's that holds some; returns their number."""
    folder.mkdir()
    total = 0

    def chosen(path: Path) -> Iterator[pa.Table]:
        for table, days in rows.batches(path):
            kept = table.filter(pa.array(origin.split_of(days) == position))
            for column, name in with_rows.items():
                place = kept.column_names.index(column)
                kept = kept.set_column(place, rows.columns.field(column), encoded(kept[column], new[name], column))
            yield kept

    for _, path in rows.base.files:
        held = sum(int((origin.split_of(days) == position).sum()) for _, days in rows.batches(path, []))
        if held:
            write_file(folder / part_name(len(list(folder.iterdir()))), chosen(path), rows.columns, level=1)
            total += held
    return total


def _table_rows(schema: Schema, name: str, vocabulary: PublishedVocabulary) -> int:
    """Rows of a refitted table; room that the base reserved for ids to come stays."""
    [table] = [t for t in schema.table if t.name == name]
    keys = table.origin.keys if table.origin is not None else 0
    return table.rows if table.rows > keys + 1 else vocabulary.rows


def _with_meanings(fitted: Schema, base: Schema) -> Schema:
    """With what the base's schema says of tables and statistics in words."""
    tables = {t.name: t.means for t in base.table}
    statistics = {f.name: f.means for f in base.feature if isinstance(f, StatisticFeature)}
    return fitted.model_copy(
        update={
            "table": tuple(t.model_copy(update={"means": tables[t.name]}) for t in fitted.table),
            "feature": tuple(
                f.model_copy(update={"means": statistics[f.name]}) if isinstance(f, StatisticFeature) else f
                for f in fitted.feature
            ),
        }
    )
