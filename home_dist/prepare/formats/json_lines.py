"""Texts with a JSON object per line, to Parquet. Texts stay texts, times among them."""

import io
import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.json as pajson
import pyarrow.parquet as pq

from home_dist.errors import DataError
from home_dist.files.remote import SourceFile
from home_dist.prepare.engine.mirror import stream
from home_dist.prepare.formats.unreadable import unreadable_file

_BLOCK = 1 << 24  # bytes that are in memory at a time
_SHOWN = 60  # bytes of a line that a message shows


def convert_json(file: SourceFile, out: Path) -> None:
    """Read twice: for the types that fit all values, and to be converted. JSON tells numbers from texts. Raises DataError."""
    try:
        schema = _schema(file)
        with pq.ParquetWriter(out, schema, compression="zstd", compression_level=1) as writer:
            for first, lines in _blocks(file):
                writer.write_table(_parsed(file, first, lines, schema).cast(schema))
    except (OSError, EOFError) as error:
        raise unreadable_file(file, error) from None


def first_objects(file: SourceFile) -> pa.Table:
    """The first block's rows. Raises DataError."""
    try:
        first = next(_blocks(file), None)
    except (OSError, EOFError) as error:
        raise unreadable_file(file, error) from None
    if first is None:
        raise DataError(f"{file}: holds no rows. Name files that do.")
    return _parsed(file, *first, schema=_untimed(_parsed(file, *first).schema))


def _schema(file: SourceFile) -> pa.Schema:
    schema = pa.schema([])
    for first, lines in _blocks(file):
        found = _untimed(_parsed(file, first, lines).schema)
        for name in set(found.names) & set(schema.names):
            kinds = schema.field(name).type, found.field(name).type
            try:
                pa.unify_schemas([pa.schema({name: k}) for k in kinds], promote_options="permissive")
            except (pa.ArrowInvalid, pa.ArrowTypeError):
                raise DataError(
                    f"{file}: column {name!r} holds {kinds[0]}, and from row {first + 1:,} on {kinds[1]}. Write it in one type."
                ) from None
        schema = pa.unify_schemas([schema, found], promote_options="permissive")
    return schema


def _untimed(schema: pa.Schema) -> pa.Schema:
    """Arrow takes texts that look like times for such, and loses their zone."""
    return pa.schema([field.with_type(_text_for_time(field.type)) for field in schema])


def _text_for_time(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_timestamp(kind):
        return pa.string()
    if pa.types.is_list(kind):
        return pa.list_(_text_for_time(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([f.with_type(_text_for_time(f.type)) for f in kind])
    return kind


def _parsed(file: SourceFile, first: int, lines: bytes, schema: pa.Schema | None = None) -> pa.Table:
    """first: rows before these lines."""
    read = pajson.ReadOptions(block_size=len(lines) + 1)  # types are those of the whole block
    try:
        return pajson.read_json(io.BytesIO(lines), read, pajson.ParseOptions(explicit_schema=schema))
    except pa.ArrowInvalid as error:
        for place, line in enumerate(lines.splitlines()):
            if line.strip() and not _is_object(line):
                shown = line[:_SHOWN].decode(errors="replace")
                raise DataError(
                    f"{file}: row {first + place + 1:,} is no JSON object: {shown!r}. One JSON object per line is needed."
                ) from None
        reason = str(error).splitlines()[0].replace("JSON parse error: ", "")
        last = first + lines.count(b"\n")
        raise DataError(
            f"{file}: rows {first + 1:,} to {last:,}: {reason}. One JSON object per line is needed, and one type per column."
        ) from None


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _blocks(file: SourceFile) -> Iterator[tuple[int, bytes]]:
    """(rows before, whole lines)"""
    source, rows, rest = stream(file), 0, b""
    with pa.input_stream(str(source)) if isinstance(source, Path) else source as opened:
        while block := opened.read(_BLOCK):
            whole, mark, tail = (rest + block).rpartition(b"\n")
            if not mark:
                rest = tail
                continue
            yield rows, whole + mark
            rows, rest = rows + whole.count(b"\n") + 1, tail
        if rest.strip():
            yield rows, rest + b"\n"
