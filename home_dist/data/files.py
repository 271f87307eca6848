"""A split's Parquet files: found, opened and checked against the layout before the first step."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from home_dist.data.order import RowGroup
from home_dist.errors import DataError
from home_dist.schema import DenseFeature, IdInput, InputLayout, Schema
from home_dist.schema.values import fits_key

_KINDS = {
    "integer": "whole numbers",
    "integers": "lists of whole numbers",
    "text": "texts",
    "texts": "lists of texts",
    "number": "numbers",
    "numbers": "lists of numbers",
}


@dataclass(frozen=True)
class DataFiles:
    """The files of a split and the row groups in them, in the order of their names."""

    paths: tuple[str, ...]
    groups: tuple[RowGroup, ...]
    columns: tuple[str, ...]
    dictionaries: tuple[str, ...] = ()
    """Columns of texts, as Parquet names what they hold: read as dictionaries and not text by text."""

    @property
    def rows(self) -> int:
        return sum(g.rows for g in self.groups)

    def fingerprint(self) -> str:
        """Of the files' names and row groups, which a position in an epoch refers to."""
        names = [Path(p).name for p in self.paths]
        return hashlib.sha256(repr((names, [tuple(g) for g in self.groups])).encode()).hexdigest()[:16]


def open_files(folder: str | Path, schema: Schema, layout: InputLayout) -> DataFiles:
    """Reads the footers of a folder's Parquet files. Raises DataError naming file and column."""
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(
            f"{folder}: no such folder. Set data.path and the name of the split (data.train, ...) to prepared data."
        )
    paths = sorted(folder.rglob("*.parquet"))
    if not paths:
        raise DataError(f"{folder}: holds no *.parquet files. Prepare the data first, or correct data.path.")
    needed = needed_columns(schema, layout)
    groups: list[RowGroup] = []
    for index, path in enumerate(paths):
        file = open_parquet(path)
        _check_columns(path, file.schema_arrow, needed)
        sizes = [file.metadata.row_group(g).num_rows for g in range(file.metadata.num_row_groups)]
        groups.extend(RowGroup(index, g, rows) for g, rows in enumerate(sizes) if rows)
    if not groups:
        raise DataError(f"{folder}: its {len(paths)} Parquet files hold no rows. Prepare the data again.")
    texts = [c for c, kind in needed.items() if kind in ("text", "texts")]
    return DataFiles(tuple(map(str, paths)), tuple(groups), tuple(needed), tuple(_leaves(file, texts)))


def _leaves(file: pq.ParquetFile, columns: list[str]) -> list[str]:
    """Parquet's paths of what columns hold: a writer names the elements of a list as it likes."""
    paths = [file.schema.column(i).path for i in range(len(file.schema))]
    return [p for p in paths if p.split(".")[0] in columns]


def open_parquet(path: str | Path, dictionaries: tuple[str, ...] = ()) -> pq.ParquetFile:
    try:
        if Path(path).stat().st_size == 0:
            raise DataError(f"{path}: the file is empty (0 bytes). Write it again or remove it.")
        # Only with checksums is a flipped bit within a page told from a value; files without them are read as they are.
        return pq.ParquetFile(path, page_checksum_verification=True, read_dictionary=list(dictionaries))
    except (pa.ArrowInvalid, OSError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(
            f"{path}: no readable Parquet file, it may be truncated ({reason}). Write it again or remove it."
        ) from None


def needed_columns(schema: Schema, layout: InputLayout) -> dict[str, str]:
    """The columns to read, each with what must stand in it: a key of _KINDS."""
    needed: dict[str, str] = {}
    for item in layout.inputs:
        if item.key in layout.statistics:
            needed[item.column] = "number"
        else:
            needed[item.column] = _kind_of(item)
        if item.weights is not None:
            needed[item.weights] = "numbers"
    for vectors in layout.pretrained:
        needed[vectors.column] = "numbers" if vectors.frozen is None else vectors.frozen.type
    for feature in layout.dense:
        wide = isinstance(feature, DenseFeature) and feature.width > 1
        needed[feature.column] = "numbers" if wide else "number"
    for task in schema.task:
        needed[task.column] = "number"
        if task.weight_column:
            needed[task.weight_column] = "number"
    if schema.group_column:
        needed.setdefault(schema.group_column, "integer")
    return needed


def _kind_of(item: IdInput) -> str:
    one = "integer" if item.rows_of is None else item.rows_of.type
    return f"{one}s" if item.is_list else one


def _check_columns(path: Path, there: pa.Schema, needed: Mapping[str, str]) -> None:
    for column, kind in needed.items():
        position = there.get_field_index(column)
        if position < 0:
            close = ", ".join(sorted(there.names)[:20])
            raise DataError(
                f"{path}: column {column!r} is missing; the schema needs it. The file has: {close}, ... "
                "Prepare the data again, or leave the feature out with data.exclude."
            )
        found = there.field(position).type
        if not _fits(found, kind):
            raise DataError(
                f"{path}: column {column!r} has type {found}, but {_KINDS[kind]} are needed. "
                "Correct the schema's entry for it or prepare the data again."
            )


def _fits(found: pa.DataType, kind: str) -> bool:
    if kind in ("integers", "numbers", "texts"):
        is_list = pa.types.is_list(found) or pa.types.is_large_list(found) or pa.types.is_fixed_size_list(found)
        return is_list and _fits(found.value_type, kind[:-1])
    if kind == "text":
        return fits_key(found, "text")
    if pa.types.is_integer(found):
        return True
    return kind == "number" and (pa.types.is_floating(found) or pa.types.is_boolean(found))
