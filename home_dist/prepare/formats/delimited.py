"""Texts with a line per row and a delimiter between values, to Parquet."""

import errno
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from home_dist.errors import DataError
from home_dist.files.remote import SourceFile
from home_dist.prepare.engine.mirror import stream
from home_dist.prepare.formats.format_section import FormatSection
from home_dist.prepare.formats.unreadable import unreadable_file

_NULL_TEXT = "\\N"
_BLOCK = 1 << 24  # bytes of a file that are in memory at a time
_LINE = 1 << 16  # bytes in which the first line is looked for
OTHER_DELIMITERS = {"\t": "a tab", ";": "a semicolon", "|": "a bar", ",": "a comma"}
# The types that Arrow infers for a column, in the order in which it tries them.
_KINDS = (
    pa.null(),
    pa.int64(),
    pa.uint64(),
    pa.bool_(),
    pa.date32(),
    pa.time32("s"),
    pa.timestamp("s"),
    pa.timestamp("s", "UTC"),
    pa.timestamp("ns"),
    pa.timestamp("ns", "UTC"),
    pa.float64(),
    pa.string(),
)


class _TextFile:
    """Opens a file as its format says."""

    def __init__(self, file: SourceFile, section: FormatSection):
        self.file, self.nulls = file, [*pacsv.ConvertOptions().null_values, _NULL_TEXT, *section.nulls]
        self.text_nulls = [_NULL_TEXT, *section.nulls]
        self.read = pacsv.ReadOptions(block_size=_BLOCK, column_names=list(section.names) or None, encoding=section.encoding)
        self.parse = pacsv.ParseOptions(delimiter=section.delimiter_of(str(file)), quote_char=section.quote or False)
        self.decimal = section.decimal

    def open(
        self, kinds: Mapping[str, pa.DataType], only: Sequence[str] = (), null_texts: bool = False
    ) -> pacsv.CSVStreamingReader:
        options = pacsv.ConvertOptions(
            column_types=dict(kinds),
            include_columns=list(only) or None,
            null_values=self.nulls,
            strings_can_be_null=null_texts,
            decimal_point=self.decimal,
        )
        return pacsv.open_csv(stream(self.file), self.read, self.parse, options)


def convert_delimited(file: SourceFile, out: Path, declared: Mapping[str, pa.DataType], section: FormatSection) -> None:
    """Block by block. Where no type is declared, a column gets the type that fits all its values, as if the file were read at
    once. \\N stands for null, as databases write it. Raises DataError."""
    _refuse_other_delimiter(file, section)
    reader = _TextFile(file, section)
    kinds = dict(declared) | _unsigned(reader, declared)
    schema: pa.Schema | None = None
    while True:
        try:
            with reader.open(kinds) as batches:
                schema = batches.schema
                with pq.ParquetWriter(out, schema, compression="zstd", compression_level=1) as writer:
                    for batch in batches:
                        writer.write_batch(_with_nulls(batch, reader.text_nulls))
            return
        except (pa.ArrowInvalid, UnicodeError, OSError) as error:
            if isinstance(error, OSError) and error.errno == errno.ENOSPC:
                raise
            column = _to_widen(str(error))
            if column is None:
                raise unreadable_file(file, error) from None
            if schema is None:  # only a declared type can fail in the block that types are inferred from
                reason = str(error).splitlines()[0]
                raise DataError(f"{file}: {reason}. Correct the file, or `types` of the description.") from None
            name = schema.names[column]
            kind = kinds.get(name, schema.field(name).type)
            if kind not in _KINDS[:-1] or name in declared:
                raise unreadable_file(file, error) from None
            kinds[name] = _KINDS[_KINDS.index(kind) + 1]


def first_rows(file: SourceFile, section: FormatSection) -> pa.Table:
    """The first block's, with the types that fit them. Raises DataError."""
    reader = _TextFile(file, section)
    try:
        with reader.open(_unsigned(reader, {})) as batches:
            batch = _with_nulls(batches.read_next_batch(), reader.text_nulls)
    except StopIteration:
        raise DataError(f"{file}: holds no rows. Name files that do.") from None
    except (pa.ArrowInvalid, UnicodeError, OSError) as error:
        raise unreadable_file(file, error) from None
    return pa.Table.from_batches([batch])


def first_line(file: SourceFile, section: FormatSection) -> str:
    """Raises DataError."""
    try:
        opened = stream(file)
        with pa.input_stream(str(opened)) if isinstance(opened, Path) else opened as texts:
            return bytes(texts.read(_LINE)).decode(section.encoding, "replace").partition("\n")[0]
    except OSError as error:
        raise unreadable_file(file, error) from None


def _refuse_other_delimiter(file: SourceFile, section: FormatSection) -> None:
    """Raises DataError for a file that looks as if it had another delimiter."""
    line = first_line(file, section)
    if section.delimiter_of(str(file)) in line:
        return
    for delimiter, told in OTHER_DELIMITERS.items():
        if delimiter in line:
            asked = delimiter.encode("unicode_escape").decode()
            raise DataError(
                f"{file}: has one column, {line[:60]!r}: {told} seems to stand between its values. "
                f'Say format = {{ delimiter = "{asked}" }} in the description.'
            )


def _unsigned(reader: _TextFile, declared: Mapping[str, pa.DataType]) -> dict[str, pa.DataType]:
    """Columns of whole numbers from 2^63 on, by the file's first block. Arrow would infer floats and round them."""
    try:
        with reader.open({}) as batches:
            floats = [f.name for f in batches.schema if pa.types.is_floating(f.type) and f.name not in declared]
        if not floats:
            return {}
        with reader.open(dict.fromkeys(floats, pa.string()), floats, null_texts=True) as batches:
            first = batches.read_next_batch()
    except (pa.ArrowInvalid, UnicodeError, OSError, StopIteration):
        return {}  # the conversion reports the error
    whole = {}
    for name in floats:
        with suppress(pa.ArrowInvalid):
            first.column(name).cast(pa.uint64())
            whole[name] = pa.uint64()
    return whole


def _with_nulls(batch: pa.RecordBatch, nulls: Sequence[str]) -> pa.RecordBatch:
    """Replaces null texts in columns of text. Other null signs stand for null only among numbers."""
    for place, field in enumerate(batch.schema):
        if pa.types.is_string(field.type):
            column = batch.column(place)
            null = pc.is_in(column, pa.array(nulls, pa.string()))
            if pc.any(null).as_py():
                batch = batch.set_column(place, field, pc.if_else(null, pa.scalar(None, field.type), column))
    return batch


def _to_widen(message: str) -> int | None:
    """The number of the column whose later values did not fit the type of its first ones, from Arrow's message."""
    before, matched, rest = message.partition("In CSV column #")
    return int(rest.split(":")[0]) if matched and not before and "conversion error" in rest else None
