"""`home-dist score`: an exported program over Parquet files."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from home_dist.errors import DataError
from home_dist.export.columns import parquet_files
from home_dist.export.program import open_program
from home_dist.export.source import written_whole


def score_files(folder: Path, data: str, out: Path, keep: list[str], rows: int, compiled: bool) -> int:
    """Writes one file of scores per file of data, its rows in the same order. Returns how many. Raises UserError."""
    program, count = open_program(folder, compiled), 0
    store, files = parquet_files(data)
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
                missing = sorted(set(keep) - set(table.column_names))
                if missing:
                    raise DataError(f"{store.show(file.path)}: --keep {missing[0]}: no such column")
                columns = {name: table.column(name) for name in keep}
                columns |= {task: pa.array(scores[:, k]) for k, task in enumerate(program.tasks)}
                chunk = pa.table(columns)
                writer = writer or pq.ParquetWriter(path, chunk.schema)
                writer.write_table(chunk)
                count += len(scores)
            if writer is not None:
                writer.close()

    written_whole(out, write)
    return count
