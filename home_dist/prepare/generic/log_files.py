"""Finds the files of a log and of its side tables, and reads them in chunks."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from home_dist.errors import DataError
from home_dist.files.listing import glob_files, partition_of
from home_dist.files.places import is_remote
from home_dist.files.remote import SourceFile, remote_files
from home_dist.ids.arrow_types import is_number, is_text
from home_dist.ids.keys import key_numbers, missing
from home_dist.prepare.engine.mirror import here, source
from home_dist.prepare.engine.spill import one_batch
from home_dist.prepare.formats.format_section import FormatSection
from home_dist.prepare.formats.table_files import table_files
from home_dist.prepare.formats.unreadable import unreadable_file
from home_dist.prepare.generic.columns import keys, named_keys, plain
from home_dist.prepare.generic.folder_columns import FolderValue, as_value, folder_types

TYPES = {"text": pa.string(), "integer": pa.int64()}
_SAID = {kind: name for name, kind in TYPES.items()}
SIDE = "side.arrow"
_READ = 65536


@dataclass(frozen=True)
class File:
    """A file of the log; index: its place among the files, in the order of their names."""

    index: int
    path: SourceFile
    rows: int
    named: str
    """Its name in messages: of a converted file, those of the file that it was made of."""
    bytes: int
    """Of the file as it was found; of a converted file, of the one that it was made of."""
    modified_ns: int
    """When that file was written last, in ns since 1970."""
    folder_values: Mapping[str, FolderValue] = field(default_factory=dict)
    """Columns that stand in the names of folders."""


@dataclass(frozen=True)
class Chunk:
    """Rows first .. last - 1 of a file."""

    file: File
    first: int
    last: int
    place: str = ""
    """The file's path from the description's folder, by which a split by hash goes."""


@dataclass(frozen=True)
class Beside:
    """Columns that are not in the files of a table: in the names of folders, or in the log of a Delta table."""

    values: Sequence[Mapping[str, FolderValue]]
    """Of each file."""
    types: dict[str, pa.DataType] = field(default_factory=dict)
    """Those that are known; the others are told by the values."""


def find_log(folder: Path, pattern: str, section: FormatSection) -> tuple[list[SourceFile], Beside]:
    """The files of a log in any format. Raises DataError, ConfigError."""
    if section.is_table:
        table = table_files(folder, pattern, section)
        if not table.files:
            raise DataError(f"{folder / pattern}: the {section.kind} table holds no rows.")
        return [*table.files], Beside(table.values or [{}] * len(table.files), table.types)
    files = find(folder, pattern)
    return files, Beside([partition_of(named_in(str(file), folder).partition("?")[0]) for file in files])


def find(folder: Path, pattern: str) -> list[SourceFile]:
    """Files that match the pattern. Raises DataError when there is none, or when one is empty."""
    remote = is_remote(pattern)
    files: list[SourceFile] = [*remote_files(pattern)] if remote else [*glob_files(folder, pattern)]
    if not files:
        raise DataError(f"{pattern if remote else folder / pattern}: no such file. Correct the path in the description.")
    for file in files:
        if file.stat().st_size == 0:
            raise DataError(f"{file}: the file is empty (0 bytes). Fetch it again or move it away.")
    return files


def named_in(file: str, folder: Path) -> str:
    """The path relative to the description's folder: reports and states are then the same wherever the folder lies."""
    if is_remote(file):
        return file
    path, around = Path(file).absolute(), folder.absolute()
    return str(path.relative_to(around)) if path.is_relative_to(around) else str(path)


@dataclass(frozen=True)
class Looked:
    """Rows and column types of files of one layout, from their footers."""

    files: list[File]
    types: dict[str, pa.DataType]
    """By column: a type that the values of all files fit into."""
    odd: dict[str, str]
    """By column whose types differ: the file that differs from most others, in words for messages."""
    absent: dict[str, list[str]]
    """By column that some files have: the files that do not."""


def look(
    paths: Sequence[SourceFile],
    named: Sequence[SourceFile],
    declared: Mapping[str, pa.DataType],
    places: Sequence[int] | None = None,
    beside: Beside | None = None,
) -> Looked:
    """Reads the files' footers. named: the files' names in messages; declared: column types that the description gives; places:
    of the files in the whole log; beside: columns that are not in the files. A file without rows tells nothing of types, unless
    none has rows. Raises DataError."""
    files: list[File] = []
    by_column: dict[str, dict[pa.DataType, list[str]]] = {}
    of_empty: dict[str, dict[pa.DataType, list[str]]] = {}
    for index, path, name in zip(places or range(len(paths)), paths, named, strict=True):
        try:
            opened = pq.ParquetFile(source(path))
        except (pa.ArrowInvalid, OSError) as error:
            raise unreadable_file(name, error) from None
        state = (here(name) if isinstance(name, Path) else name).stat()
        values = {} if beside is None else beside.values[len(files)]
        files.append(File(index, path, opened.metadata.num_rows, str(name), state.st_size, state.st_mtime_ns, values))
        columns = by_column if opened.metadata.num_rows else of_empty
        for found in opened.schema_arrow:
            columns.setdefault(found.name, {}).setdefault(plain(found.type), []).append(str(name))
    by_column = by_column or of_empty
    for column in by_column.keys() & declared.keys():
        kinds: dict[pa.DataType, list[str]] = {}
        for kind, names in by_column[column].items():
            kinds.setdefault(_declared(kind, declared[column], f"{names[0]}: column {column!r}"), []).extend(names)
        by_column[column] = kinds
    types, odd, with_rows = {}, {}, [f.named for f in files if f.rows]
    absent: dict[str, list[str]] = {}
    for column, kinds in by_column.items():
        if len(kinds) > 1:
            odd[column] = _odd(kinds)
        try:
            types[column] = pa.unify_schemas([pa.schema({column: k}) for k in kinds], promote_options="permissive")[0].type
        except (pa.ArrowInvalid, pa.ArrowTypeError):
            raise DataError(f"column {column!r} differs between files: {odd[column]}. Write it in one type.") from None
        having = {name for names in kinds.values() for name in names}
        if len(having) < len(with_rows):
            absent[column] = [name for name in with_rows if name not in having]
    told = [{n: v for n, v in f.folder_values.items() if n not in types} for f in files]
    for column, kind in folder_types(told, [f.named for f in files], {**(beside.types if beside else {}), **declared}).items():
        types[column] = kind
        if without := [f.named for f, values in zip(files, told, strict=True) if f.rows and column not in values]:
            absent[column] = without
    return Looked([replace(f, folder_values=v) for f, v in zip(files, told, strict=True)], types, odd, absent)


def _declared(kind: pa.DataType, wanted: pa.DataType, where: str) -> pa.DataType:
    """The declared type for values of type `kind`. Raises DataError, which begins with `where`, for types that cannot be keys:
    a double can be written as text in several ways."""
    if pa.types.is_list(kind):
        return pa.list_(_declared(kind.value_type, wanted, where))
    if pa.types.is_integer(kind) or is_text(kind) or pa.types.is_null(kind) or (wanted == pa.int64() and is_number(kind)):
        return wanted
    raise DataError(f"{where} has type {kind}, but the description says {_SAID[wanted]}. Correct one of them.")


def _odd(kinds: dict[pa.DataType, list[str]]) -> str:
    rare, *_, usual = sorted(kinds, key=lambda kind: len(kinds[kind]))
    more = f" and {len(kinds[rare]) - 1:,} more have" if len(kinds[rare]) > 1 else " has"
    return f"{kinds[rare][0]}{more} it as {rare}, {len(kinds[usual]):,} others as {usual}"


def chunks_of(files: Sequence[File], rows: int) -> list[Chunk]:
    """Cuts all files into chunks of at most `rows` rows."""
    chunks = []
    for file in files:
        parts = max(1, -(-file.rows // rows))
        bounds = [file.rows * i // parts for i in range(parts + 1)]
        chunks += [Chunk(file, a, b) for a, b in zip(bounds, bounds[1:], strict=False)]
    return chunks


def read_chunk(chunk: Chunk, types: dict[str, pa.DataType]) -> pa.Table:
    """The columns of `types` for a chunk's rows; columns that its file lacks are null."""
    try:
        batches = list(_batches(chunk, types))
    except (pa.ArrowInvalid, OSError) as error:
        raise unreadable_file(chunk.file.named, error) from None
    rows = chunk.last - chunk.first
    file_columns = pa.Table.from_batches(batches) if batches else pa.table({})
    columns = {}
    for name, kind in types.items():
        if name not in file_columns.column_names:
            value = chunk.file.folder_values.get(name)
            columns[name] = pa.nulls(rows, kind) if value is None else pa.repeat(as_value(value, kind), rows)
            continue
        try:
            columns[name] = file_columns.column(name).cast(kind).combine_chunks()
        except pa.ArrowInvalid as error:
            column = file_columns.column(name)
            bad = next((n for n in range(rows) if not _casts(column.slice(n, 1), kind)), 0)
            reason = str(error).splitlines()[0]
            raise DataError(
                f"{chunk.file.named}: column {name!r} holds {column[bad].as_py()!r} in row {chunk.first + bad + 1:,}, but "
                f"{kind} is needed ({reason}). Correct the file, or `types` of the description."
            ) from None
        except pa.ArrowIndexError:  # Arrow misreads structs in lists that have a field without a type
            raise DataError(
                f"{chunk.file.named}: column {name!r} has type {kind}, which cannot be read: all values of a field are "
                "missing, so that it has no type. Write it in one, or leave it out."
            ) from None
    return pa.table(columns)


def _casts(column: pa.ChunkedArray, kind: pa.DataType) -> bool:
    try:
        column.cast(kind)
    except pa.ArrowInvalid:
        return False
    return True


def _batches(chunk: Chunk, types: dict[str, pa.DataType]) -> Iterator[pa.RecordBatch]:
    file = pq.ParquetFile(source(chunk.file.path))
    wanted = [n for n in file.schema_arrow.names if n in types]
    row_groups: list[int] = []
    at, first = 0, 0
    for number in range(file.metadata.num_row_groups):
        rows = file.metadata.row_group(number).num_rows
        if at < chunk.last and at + rows > chunk.first:
            first = at if not row_groups else first
            row_groups.append(number)
        at += rows
    at = first
    for batch in file.iter_batches(_READ, row_groups=row_groups, columns=wanted, use_threads=False):
        start, stop = max(chunk.first - at, 0), min(chunk.last - at, batch.num_rows)
        if start < stop:
            yield batch.slice(start, stop - start)
        at += batch.num_rows
        if at >= chunk.last:
            return


def write_side(files: Sequence[File], named: str, key: str, types: dict[str, pa.DataType], out: Path) -> None:
    """Writes a side table, sorted by its key, to out/side.arrow: uncompressed, so that all tasks read one mapped copy. Raises
    DataError for a key that occurs twice or is none."""
    parts = [read_chunk(Chunk(f, 0, f.rows), types) for f in files]
    for file, part in zip(files, parts, strict=True):
        with named_keys(file.named, key, np.arange(len(part))):
            keys(part.column(key).combine_chunks())
    table = pa.concat_tables(parts).combine_chunks()
    side_keys = keys(table.column(key).combine_chunks())
    # Null keys, which come last in order, match no row of the log.
    order = pc.sort_indices(side_keys).slice(0, len(side_keys) - side_keys.null_count)
    table, side_keys = table.take(order), side_keys.take(order)
    equal = np.flatnonzero(np.asarray(pc.equal(side_keys[1:], side_keys[:-1])))
    if len(equal):
        value = side_keys[int(equal[0])]
        times = pc.sum(pc.equal(side_keys, value)).as_py()
        both = [_row_of(files, order[int(equal[0]) + n].as_py()) for n in (0, 1)]
        raise DataError(f"{named}: {key} = {value} stands {times} times, first in {' and '.join(both)}; once is needed.")
    table = table.set_column(table.column_names.index(key), key, side_keys)
    with pa.ipc.new_file(str(out / SIDE), table.schema) as writer:
        writer.write_batch(one_batch(table))


def _row_of(files: Sequence[File], row: int) -> str:
    """row: number of a row of all files, one after the other."""
    for file in files:
        if row < file.rows:
            return f"row {row + 1:,} of {file.named}"
        row -= file.rows
    raise IndexError(row)


def join(table: pa.Table, side: Path, key: str) -> tuple[pa.Table, int]:
    """`table` with the columns of a written side table, and the number of rows whose key the side table lacks: null there."""
    with pa.memory_map(str(here(side))) as mapped:
        joined = pa.ipc.open_file(mapped).get_batch(0)
        side_keys, wanted = joined.column(key), keys(table.column(key).combine_chunks())
        if is_text(side_keys.type):
            rows = pc.index_in(wanted, value_set=side_keys)
        elif len(side_keys):
            sorted_numbers, wanted_numbers = key_numbers(side_keys), key_numbers(wanted)
            at = np.minimum(np.searchsorted(sorted_numbers, wanted_numbers), len(sorted_numbers) - 1)
            rows = pa.array(at, mask=(sorted_numbers[at] != wanted_numbers) | missing(wanted))
        else:
            rows = pa.nulls(len(wanted), pa.int64())
        for name in joined.schema.names:
            if name != key:
                table = table.append_column(name, joined.column(name).take(rows))
    return table, rows.null_count
