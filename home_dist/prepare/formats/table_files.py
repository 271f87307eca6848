"""The live files of a Delta or Iceberg table, which are Parquet and are read like others.

The table's own library reads the table's log; only what it says of files is in memory. A table with rows that are deleted
beside its files, or whose files have other names of columns than the table, is refused.
"""

import importlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq

from home_dist.errors import ConfigError, DataError
from home_dist.files.places import is_remote
from home_dist.ids.arrow_types import is_list
from home_dist.prepare.formats.format_section import FormatSection
from home_dist.prepare.formats.unreadable import unreadable_file

_READ_FEATURES = {"timestampNtz", "vacuumProtocolCheck", "v2Checkpoint", "deletionVectors", "columnMapping"}
_FIELD_ID = b"PARQUET:field_id"
_REWRITE = "Rewrite the table's files, or write the table as Parquet."


@dataclass(frozen=True)
class TableFiles:
    files: list[Path]
    """In the order of their names."""
    values: list[dict[str, str | None]] = field(default_factory=list)
    """Of each file: columns that the table's log tells and the file need not have."""
    types: dict[str, pa.DataType] = field(default_factory=dict)
    """Of these columns."""


def table_files(folder: Path, place: str, section: FormatSection) -> TableFiles:
    """folder: of the description; place: the table, as the description names it. Raises ConfigError, DataError."""
    if is_remote(place):
        raise ConfigError(f"{place}: a {section.kind} table is read from a disk alone. Copy it, or name its Parquet files.")
    if section.kind == "delta":
        return _delta(folder / place, section.version)
    return _iceberg(folder / place if section.catalog is None else place, section.catalog, section.snapshot)


def _library(name: str, extra: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        package = name.partition(".")[0]
        raise ConfigError(
            f'format: kind = "{extra}" needs {package}, which is not installed: pip install "home_dist[{extra}]"'
        ) from None


def _delta(place: Path, version: int | None) -> TableFiles:
    library = _library("deltalake", "delta")
    try:
        table = library.DeltaTable(str(place), version=version)
        protocol, metadata = table.protocol(), table.metadata()
        for feature in protocol.reader_features or ():
            if feature not in _READ_FEATURES:
                raise DataError(f"{place}: the Delta table uses {feature}, which is not read. {_REWRITE}")
        if metadata.configuration.get("delta.columnMapping.mode", "none") != "none":
            raise DataError(f"{place}: the Delta table maps names of columns (delta.columnMapping.mode). {_REWRITE}")
        if "deletionVectors" in (protocol.reader_features or ()):
            marked = next((batch for batch in table.deletion_vectors() if batch.num_rows), None)
            if marked is not None:
                file = pa.record_batch(marked)["filepath"][0].as_py()
                raise DataError(
                    f"{place}: the Delta table has deletion vectors, such as of {file}. Remove them first: REORG TABLE ... "
                    "APPLY (PURGE) in Spark."
                )
        actions = pa.table(table.get_add_actions(flatten=True)).sort_by("path")
        schema = pa.schema(table.schema())
    except library.exceptions.DeltaError as error:
        at = "" if version is None else f" at version {version}"
        raise DataError(f"{place}: cannot be read as a Delta table{at} ({str(error).splitlines()[0]})") from None
    names = metadata.partition_columns
    columns = {name: _texts(actions.column(f"partition.{name}")) for name in names}
    values = [{name: column[n] for name, column in columns.items()} for n in range(len(actions))]
    files = [_on_disk(place, path) for path in actions["path"].to_pylist()]
    return TableFiles(files, values, {name: schema.field(name).type for name in names})


def _on_disk(place: Path, path: str) -> Path:
    """path: as a Delta log has it, relative or a URL."""
    path = unquote(path).removeprefix("file://")
    if is_remote(path):
        raise DataError(f"{place}: its file {path} lies in a store; a Delta table is read from a disk alone.")
    return place / path


def _texts(column: pa.ChunkedArray) -> list[str | None]:
    return [None if text == "" else text for text in column.cast(pa.string()).to_pylist()]


def _iceberg(place: Path | str, catalog: str | None, snapshot: int | None) -> TableFiles:
    tables = _library("pyiceberg.table", "iceberg")
    errors = _library("pyiceberg.exceptions", "iceberg")
    try:
        if catalog is not None:
            table = _library("pyiceberg.catalog", "iceberg").load_catalog(catalog).load_table(str(place))
        else:
            table = tables.StaticTable.from_metadata(str(_newest_metadata(Path(place))))
        if snapshot is not None and table.snapshot_by_id(snapshot) is None:
            there = ", ".join(str(s.snapshot_id) for s in table.snapshots()[-20:])
            raise DataError(f"{place}: the Iceberg table has no snapshot {snapshot}; there are: {there}")
        tasks = list(table.scan(snapshot_id=snapshot).plan_files())
    except (errors.NoSuchTableError, errors.NoSuchNamespaceError, errors.ValidationError, ValueError, OSError) as error:
        raise DataError(f"{place}: cannot be read as an Iceberg table ({str(error).splitlines()[0]})") from None
    files = []
    for task in sorted(tasks, key=lambda task: task.file.file_path):
        file = task.file.file_path.removeprefix("file://")
        if task.delete_files:
            raise DataError(
                f"{place}: the Iceberg table has deleted rows beside its files, such as of {file}. Rewrite its data files: "
                "CALL system.rewrite_data_files(...) in Spark."
            )
        if is_remote(file):
            raise DataError(f"{place}: its file {file} lies in a store; an Iceberg table is read from a disk alone.")
        if task.file.file_format.value != "PARQUET":
            raise DataError(f"{place}: its file {file} is {task.file.file_format.value}; only Parquet is read.")
        files.append(Path(file))
    schema = table.scan(snapshot_id=snapshot).projection()
    told = {str(schema.find_column_name(number)): number for number in schema.field_ids}
    filled = [column.source_id for column in table.spec().fields]
    filled += [column.field_id for column in schema.fields if column.initial_default is not None]
    mapped = dict(_mapped(table.name_mapping() or ()))
    for path in files:
        _check_names(path, told, filled, mapped)
    return TableFiles(files)


def _newest_metadata(place: Path) -> Path:
    """Of a table's folder, its newest metadata; `place` itself if it is a file. Raises DataError."""
    if place.is_file():
        return place
    found = sorted((place / "metadata").glob("*.metadata.json"), key=_version_of)
    if not found:
        raise DataError(f"{place}: is no Iceberg table: it holds no metadata/*.metadata.json. Name the table's folder.")
    if len(found) > 1 and _version_of(found[-1]) == _version_of(found[-2]):
        raise DataError(f"{place}: two files are the newest: {found[-2].name}, {found[-1].name}. Name one of them.")
    return found[-1]


def _version_of(path: Path) -> int:
    digits = path.name.removeprefix("v").partition("-")[0].partition(".")[0]
    return int(digits) if digits.isdigit() else -1


def _check_names(path: Path, told: Mapping[str, int], filled: Sequence[int], mapped: Mapping[str, int]) -> None:
    """told: the table's columns, and fields within them, with their numbers, by which Iceberg knows them; files are read by
    their names. filled: numbers of columns that are not null where a file lacks them; mapped: numbers by names, for files
    without numbers."""
    try:
        schema = pq.read_schema(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise unreadable_file(str(path), error) from None
    there = dict(_numbered(schema, "", mapped))
    names = {number: name for name, number in there.items()}
    for name, number in told.items():
        if names.get(number, name) != name:
            raise DataError(f"{path}: has column {name!r} under its former name {names[number]!r}. {_REWRITE}")
        if there.get(name, number) != number:
            raise DataError(f"{path}: has another column {name!r}, which was dropped from the table. {_REWRITE}")
        if name not in schema.names and number in filled:
            raise DataError(
                f"{path}: lacks column {name!r}, by which the table is partitioned, or which has a default. {_REWRITE}"
            )


def _numbered(fields: Iterable[pa.Field], around: str, mapped: Mapping[str, int]) -> Iterator[tuple[str, int]]:
    """Fields with their numbers; of nested ones, names as Iceberg writes them, such as list.element.field."""
    for one in fields:
        name = around + one.name
        number = (one.metadata or {}).get(_FIELD_ID, mapped.get(name))
        if number is not None:
            yield name, int(number)
        kind = one.type
        if pa.types.is_map(kind):
            inner = [kind.key_field.with_name("key"), kind.item_field.with_name("value")]
        elif is_list(kind):
            inner = [kind.value_field.with_name("element")]
        else:
            inner = list(kind) if pa.types.is_struct(kind) else []
        yield from _numbered(inner, f"{name}.", mapped)


def _mapped(fields: Iterable[Any], around: str = "") -> Iterator[tuple[str, int]]:
    """Numbers by all names that fields of a table have had. fields: of its name mapping."""
    for one in fields:
        for name in one.names:
            if one.field_id is not None:
                yield around + name, one.field_id
            yield from _mapped(one.fields, f"{around}{name}.")
