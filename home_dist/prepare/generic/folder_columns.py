"""Columns that stand in the names of a log's folders, such as date=2024-01-31/hour=03 (Hive partitions)."""

import re
from collections.abc import Mapping, Sequence

import pyarrow as pa

from home_dist.errors import DataError

FolderValue = str | None
_INTEGER, _NUMBER, _DATE = (re.compile(p) for p in (r"[+-]?\d{1,18}", r"[+-]?\d+\.\d+", r"\d{4}-\d{2}-\d{2}"))


def folder_types(
    values: Sequence[Mapping[str, FolderValue]], named: Sequence[str], declared: Mapping[str, pa.DataType]
) -> dict[str, pa.DataType]:
    """By column: the type that fits its values in all folders: whole numbers, numbers with a point, dates, or texts. values,
    named: of each file. Raises DataError for a value that the declared type does not fit."""
    types: dict[str, pa.DataType] = {}
    for column in dict.fromkeys(name for of_file in values for name in of_file):
        given = [
            (file, of_file[column]) for file, of_file in zip(named, values, strict=True) if of_file.get(column) is not None
        ]
        types[column] = declared.get(column) or _fitting([str(value) for _, value in given])
        for file, value in given:
            try:
                as_value(str(value), types[column])
            except (pa.ArrowInvalid, ValueError):
                raise DataError(
                    f"{file}: the folder's name says {column} = {value!r}, which is no {types[column]}. Rename the folder, or "
                    f'say types = {{ {column} = "text" }}.'
                ) from None
    return types


def as_value(text: FolderValue, kind: pa.DataType) -> pa.Scalar:
    """Raises ArrowInvalid or ValueError."""
    if text is not None and pa.types.is_integer(kind):
        return pa.scalar(int(text), kind)  # Arrow would refuse +1
    return pa.scalar(text, pa.string()).cast(kind)


def _fitting(texts: Sequence[str]) -> pa.DataType:
    for pattern, kind in ((_INTEGER, pa.int64()), (_NUMBER, pa.float64()), (_DATE, pa.date32())):
        if texts and all(pattern.fullmatch(text) for text in texts):
            return kind
    return pa.string()
