"""`home-dist score`: runs an exported program over Parquet files, or over a raw log."""

import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from home_dist.data.files import open_parquet
from home_dist.errors import ConfigError, DataError
from home_dist.export.columns import parquet_files
from home_dist.export.program import Program, open_program
from home_dist.export.source import written_whole
from home_dist.files.listing import Found
from home_dist.files.stores import Store
from home_dist.files.whole import refuse_existing
from home_dist.prepare.generic import LogOptions, prepare_log
from home_dist.prepare.generic.scan import KEPT
from home_dist.prepare.progress import Say


def score_files(
    folder: Path, data: str, out: Path, keep: list[str], rows: int, compiled: bool, schema: str | None = None
) -> int:
    """Writes one file of scores per data file, with rows in the same order. schema: of the data; by default the nearest one in
    a folder around it. Returns the number of rows. Raises UserError."""
    store, files = parquet_files(data)
    _check_kept(store, files, keep)
    refuse_existing(out, ConfigError)
    program = open_program(folder, compiled).reading(data, schema)
    _check_names(program, keep)
    count = 0

    def write(target: Path) -> None:
        nonlocal count
        count = _write_scores(program, store, files, target, {name: name for name in keep}, rows)

    written_whole(out, write)
    return count


def score_log(
    folder: Path, description: Path, out: Path, keep: list[str], rows: int, compiled: bool, say: Say, options: LogOptions
) -> int:
    """Prepares the described log with the numbers and the state of an exported program, as `home-dist prepare --like` does, and
    writes files of scores, in the order of the prepared rows: users by their hashes, each one's rows in order of time.

    keep: columns of the log, or of its side tables, to write beside the scores, as they are there. Returns the number of rows.
    Raises UserError.
    """
    refuse_existing(out, ConfigError)
    program = open_program(folder, compiled)
    _check_names(program, keep)
    count = 0

    def write(target: Path) -> None:
        nonlocal count
        prepared = target / "_prepared"
        wanted = replace(options, like=folder, for_scores=True, leave_state=False, keep=tuple(dict.fromkeys(keep)))
        prepare_log(description, prepared, say, wanted)
        store, files = parquet_files(str(prepared / "train"))
        reading = program.reading(str(prepared))
        count = _write_scores(reading, store, files, target, {f"{KEPT}{name}": name for name in keep}, rows)
        shutil.rmtree(prepared)

    written_whole(out, write)
    return count


def _check_names(program: Program, keep: list[str]) -> None:
    clash = sorted(set(keep) & set(program.names))
    if clash:
        raise DataError(f"--keep {clash[0]}: a prediction has this name, and stands in that column")


def _write_scores(program: Program, store: Store, files: list[Found], target: Path, keep: dict[str, str], rows: int) -> int:
    """keep: by column of the files, its name beside the scores. Returns the number of rows."""
    count = 0
    for file in files:
        path = target / file.name
        path.parent.mkdir(parents=True, exist_ok=True)
        writer: pq.ParquetWriter | None = None
        for table, scores in program.scores(store, [file], rows):
            columns = {name: _kept(table, column, file) for column, name in keep.items()}
            columns |= {name: pa.array(scores[:, k]) for k, name in enumerate(program.names)}
            chunk = pa.table(columns)
            writer = writer or pq.ParquetWriter(path, chunk.schema)
            writer.write_table(chunk)
            count += len(scores)
        if writer is not None:
            writer.close()
    return count


def _kept(table: pa.Table, name: str, file: Found) -> pa.ChunkedArray | pa.Array:
    """A column of the file, or of the names of its folders."""
    return table.column(name) if name in table.column_names else pa.array([file.partition[name]] * len(table), pa.string())


def _check_kept(store: Store, files: list[Found], keep: list[str]) -> None:
    """Raises DataError for a column to keep that a file lacks: from footers, before the program is loaded. Partition columns
    may be kept, too."""
    for file in files if keep else []:
        opened = open_parquet(store, file.path)
        columns = {*opened.schema_arrow.names, *file.partition}
        missing = sorted(set(keep) - columns)
        if missing and opened.metadata.num_rows:
            close = ", ".join(sorted(columns)[:20])
            raise DataError(f"{store.show(file.path)}: --keep {missing[0]}: no such column; the file has: {close}")
