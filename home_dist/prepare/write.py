"""A prepared data set on disk: Parquet files per split, schema, vocabularies, report; whole or absent."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from home_dist.files.hashes import file_sha256
from home_dist.files.json_files import write_json
from home_dist.files.whole import whole_folder
from home_dist.prepare.written_vocabulary import PublishedVocabulary
from home_dist.schema import Schema, save_schema
from home_dist.schema.values import Origin

ROW_GROUP = 16384
_BYTEWISE = (pa.int32(), pa.int64(), pa.list_(pa.int32()), pa.list_(pa.int64()))


def write_prepared(
    out: Path,
    splits: Mapping[str, pa.Table],
    files: Mapping[str, int],
    schema: Schema,
    vocabularies: Mapping[str, PublishedVocabulary],
    report: Mapping[str, Any],
) -> None:
    """Writes a folder beside `out`, and renames it to `out` when complete. Raises DataError when `out` holds something."""
    with whole_folder(out) as writing:
        (writing / "vocabularies").mkdir()
        for name, table in splits.items():
            _write_split(writing / name, table, files.get(name, 1))
        for name, vocabulary in vocabularies.items():
            vocabulary.save(writing / "vocabularies" / f"{name}.parquet")
        save_schema(with_origins(schema, vocabularies, writing), writing / "schema.toml")
        write_json(writing / "report.json", report)


def with_origins(schema: Schema, vocabularies: Mapping[str, PublishedVocabulary], folder: Path) -> Schema:
    """The schema, with the vocabulary of each table that has one, as it lies in the data folder."""

    def origin(name: str) -> Origin:
        file = f"vocabularies/{name}.parquet"
        vocabulary = vocabularies[name]
        return Origin(type=vocabulary.kind, file=file, sha256=file_sha256(folder / file), keys=vocabulary.rows - 1)

    tables = [t.model_copy(update={"origin": origin(t.name)}) if t.name in vocabularies else t for t in schema.table]
    return schema.model_copy(update={"table": tuple(tables)})


def _write_split(folder: Path, table: pa.Table, files: int) -> None:
    folder.mkdir()
    bounds = file_bounds(table.num_rows, files)
    for index, (start, stop) in enumerate(zip(bounds, bounds[1:], strict=False)):
        write_file(folder / part_name(index), [table.slice(start, stop - start)], table.schema)


def part_name(index: int) -> str:
    return f"part-{index:05d}.parquet"


def file_bounds(rows: int, files: int) -> list[int]:
    """First row of each file of a split, and at the end the split's number of rows."""
    return [rows * i // files for i in range(files + 1)]


def write_file(path: Path, tables: Iterable[pa.Table], schema: pa.Schema, level: int = 9, keep_types: bool = False) -> None:
    """Writes concatenated tables in row groups of ROW_GROUP rows, whatever the tables' sizes. level: of zstd; keep_types: write
    Arrow's types too, some of which Parquet has not."""
    # Columns of few distinct values are small with a dictionary. Ids and histories are smaller as split bytes: a user's history
    # repeats its bytes from one impression to the next; a dictionary's packed bits would hide the repetition from zstd.
    many = [f for f in schema if f.type in _BYTEWISE]
    few = [f.name for f in schema if f not in many]
    bytewise = {f.name + (".list.element" if pa.types.is_list(f.type) else "") for f in many}
    with pq.ParquetWriter(
        path,
        schema,
        compression="zstd",
        compression_level=level,
        use_dictionary=few,
        column_encoding=dict.fromkeys(bytewise, "BYTE_STREAM_SPLIT"),
        write_page_checksum=True,
        store_schema=keep_types,
    ) as writer:
        held: list[pa.Table] = []
        count = 0
        for table in tables:
            held.append(table)
            count += table.num_rows
            while count >= ROW_GROUP:
                whole = pa.concat_tables(held)
                # As one chunk: the file's bytes are then the same as from one table.
                writer.write_table(whole.slice(0, ROW_GROUP).combine_chunks(), row_group_size=ROW_GROUP)
                held, count = [whole.slice(ROW_GROUP)], count - ROW_GROUP
        if count:
            writer.write_table(pa.concat_tables(held).combine_chunks(), row_group_size=ROW_GROUP)


def users_together(users: NDArray[np.int64], times: NDArray[np.int64], chosen: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Indices (n,) of the chosen rows: users in a fixed random order, each user's rows in order of time. Such files are small,
    and a row's place does not depend on its user's number. Training shuffles rows anyway. All arguments (N,)."""
    rows = np.flatnonzero(chosen)
    distinct, code = np.unique(users[rows], return_inverse=True)
    place = np.random.default_rng(0).permutation(len(distinct))[code]
    return rows[np.lexsort((times[rows], place))]


def list_array(values: NDArray, offsets: NDArray[np.int64]) -> pa.ListArray:
    """A column of lists from values (n,) and offsets (rows + 1,)."""
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(values))
