"""`home-dist score`: runs exported programs over Parquet files, or over a raw log."""

import itertools
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
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
from home_dist.prepare.write import write_file

_LEVEL = 3
"""Of zstd: such files are written once, as fast as they are scored."""


@dataclass(frozen=True)
class ScoreColumns:
    """What is written of each row. keep: columns to copy; all_columns: copy all that the files have; prefix: of the names of
    the predictions' columns."""

    keep: tuple[str, ...] = ()
    all_columns: bool = False
    prefix: str = ""


def score_files(
    folders: Sequence[Path], data: str, out: Path, beside: ScoreColumns, rows: int, compiled: bool, schema: str | None = None
) -> int:
    """Writes one file of scores per data file, with rows in the same order. folders: of programs, whose predictions are
    averaged; schema: of the data, by default the nearest one in a folder around it. Returns the number of rows. Raises
    UserError."""
    store, files = parquet_files(data)
    _check_kept(store, files, beside.keep)
    refuse_existing(out, ConfigError)
    programs = [program.reading(data, schema) for program in _opened(folders, compiled)]
    columns = {name: name for name in beside.keep}
    for file in files if beside.all_columns else []:
        names = open_parquet(store, file.path).schema_arrow.names
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise DataError(
                f"{store.show(file.path)}: --all-columns: several columns are called {twice!r}. Rename all but one."
            )
        columns |= {name: name for name in (*names, *file.partition)}
    _check_names(programs[0], [*columns], beside.prefix)
    count = 0

    def write(target: Path) -> None:
        nonlocal count
        count = _write_scores(programs, store, files, target, None if beside.all_columns else columns, beside.prefix, rows)

    written_whole(out, write)
    return count


def score_log(
    folders: Sequence[Path],
    description: Path,
    out: Path,
    beside: ScoreColumns,
    rows: int,
    compiled: bool,
    say: Say,
    options: LogOptions,
) -> int:
    """Prepares the described log with the numbers and the state of an exported program, the first of several, as `home-dist
    prepare --like` does, and writes files of scores, in the order of the prepared rows: users by their hashes, each one's rows
    in order of time.

    beside: its `keep` are columns of the log, or of its side tables, to write beside the scores, as they are there. Returns the
    number of rows. Raises UserError.
    """
    refuse_existing(out, ConfigError)
    programs = _opened(folders, compiled)
    _check_names(programs[0], beside.keep, beside.prefix)
    count = 0

    def write(target: Path) -> None:
        nonlocal count
        prepared = target / "_prepared"
        wanted = replace(options, like=folders[0], for_scores=True, leave_state=False, keep=tuple(dict.fromkeys(beside.keep)))
        prepare_log(description, prepared, say, wanted)
        store, files = parquet_files(str(prepared / "train"))
        reading = [program.reading(str(prepared)) for program in programs]
        columns = {f"{KEPT}{name}": name for name in beside.keep}
        count = _write_scores(reading, store, files, target, columns, beside.prefix, rows)
        shutil.rmtree(prepared)

    written_whole(out, write)
    return count


def _opened(folders: Sequence[Path], compiled: bool) -> list[Program]:
    """Raises UserError for programs that predict different things."""
    programs = [open_program(folder, compiled) for folder in folders]
    for folder, program in zip(folders, programs, strict=True):
        if (program.names, program.about.get("predictions")) != (programs[0].names, programs[0].about.get("predictions")):
            raise ConfigError(
                f"--with {folder}: predicts {', '.join(program.names)}, and {folders[0]} {', '.join(programs[0].names)}, or "
                "not of the same kinds and units. Only predictions of the same things have a mean."
            )
    return programs


def _check_names(program: Program, columns: Sequence[str], prefix: str) -> None:
    clash = sorted(set(columns) & {f"{prefix}{name}" for name in program.names})
    if clash:
        raise DataError(
            f"column {clash[0]!r} of the data: a prediction would have this name. Keep other columns, or set --prefix"
        )


def _write_scores(
    programs: Sequence[Program],
    store: Store,
    files: list[Found],
    target: Path,
    columns: Mapping[str, str] | None,
    prefix: str,
    rows: int,
) -> int:
    """columns: by column of the files, its name beside the scores; None: all, by their own. Returns the number of rows."""
    count = 0
    for file in files:
        chunks = _scored(programs, store, file, columns, prefix, rows)
        first = next(chunks, None)
        if first is None:
            continue
        path = target / file.name
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = itertools.chain([first], chunks)
        if columns is None:  # to be trained on
            write_file(path, whole, first.schema, level=_LEVEL, keep_types=True)
        else:
            with pq.ParquetWriter(path, first.schema) as writer:
                for chunk in whole:
                    writer.write_table(chunk)
        count += pq.read_metadata(path).num_rows
    return count


def _scored(
    programs: Sequence[Program], store: Store, file: Found, columns: Mapping[str, str] | None, prefix: str, rows: int
) -> Iterator[pa.Table]:
    """Columns of a file and the mean of the programs' predictions, a batch at a time."""
    own = {*open_parquet(store, file.path).schema_arrow.names} if columns is None else set()
    for batches in zip(*(program.scores(store, [file], rows) for program in programs), strict=True):
        table = batches[0][0]
        scores = np.stack([found for _, found in batches]).mean(0, dtype=np.float64).astype(np.float32)
        chosen = {name: name for name in table.column_names if name in own} if columns is None else columns
        kept = {name: _kept(table, column, file) for column, name in chosen.items()}
        yield pa.table(kept | {f"{prefix}{name}": pa.array(scores[:, k]) for k, name in enumerate(programs[0].names)})


def _kept(table: pa.Table, name: str, file: Found) -> pa.ChunkedArray | pa.Array:
    """A column of the file, or of the names of its folders."""
    return table.column(name) if name in table.column_names else pa.array([file.partition[name]] * len(table), pa.string())


def _check_kept(store: Store, files: list[Found], keep: Sequence[str]) -> None:
    """Raises DataError for a column to keep that a file lacks: from footers, before the program is loaded. Partition columns
    may be kept, too."""
    for file in files if keep else []:
        opened = open_parquet(store, file.path)
        columns = {*opened.schema_arrow.names, *file.partition}
        missing = sorted(set(keep) - columns)
        if missing and opened.metadata.num_rows:
            close = ", ".join(sorted(columns)[:20])
            raise DataError(f"{store.show(file.path)}: --keep {missing[0]}: no such column; the file has: {close}")
