"""`home-dist score`: runs an exported program over Parquet files."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from home_dist.data.files import open_parquet
from home_dist.errors import ConfigError, DataError
from home_dist.export.columns import parquet_files
from home_dist.export.program import open_program
from home_dist.export.source import written_whole
from home_dist.files.listing import Found
from home_dist.files.stores import Store
from home_dist.files.whole import refuse_existing


def score_files(folder: Path, data: str, out: Path, keep: list[str], rows: int, compiled: bool) -> int:
    """Writes one file of scores per data file, with rows in the same order. Returns the number of rows. Raises UserError."""
    store, files = parquet_files(data)
    _check_kept(store, files, keep)
    refuse_existing(out, ConfigError)
    program, count = open_program(folder, compiled), 0
    clash = sorted(set(keep) & set(program.tasks))
    if clash:
        raise DataError(f"--keep {clash[0]}: a task has this name, and its scores stand in that column")

    def write(target: Path) -> None:
        nonlocal count
        for file in files:
            path = target / file.name
            path.parent.mkdir(parents=True, exist_ok=True)
            writer: pq.ParquetWriter | None = None
            for table, scores in program.scores(store, [file], rows):
                columns = {name: _kept(table, name, file) for name in keep}
                columns |= {task: pa.array(scores[:, k]) for k, task in enumerate(program.tasks)}
                chunk = pa.table(columns)
                writer = writer or pq.ParquetWriter(path, chunk.schema)
                writer.write_table(chunk)
                count += len(scores)
            if writer is not None:
                writer.close()

    written_whole(out, write)
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
