"""A ranking request, and its answer, as Arrow.

The body is two IPC streams, one after the other: a table of one row with the user's columns, and one with N candidates. The
answer is one IPC stream. Buffers must not be compressed: what they unpack to would not be bounded.
"""

import struct
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from home_dist.ids.arrow_types import is_list
from home_dist.serve.request import Body, RankingRequest, RefusedRequest, too_many

ARROW = "application/vnd.apache.arrow.stream"
_RECORD_BATCH, _DICTIONARY_BATCH = 3, 2
_HEADER_TYPE, _HEADER, _DATA, _COMPRESSION = 1, 2, 1, 3
"""Places of fields in the tables of Arrow's Message.fbs."""


def parse_arrow(body: Body, max_rows: int) -> RankingRequest:
    """max_rows: of the candidates. Raises RefusedRequest."""
    source = pa.BufferReader(pa.py_buffer(body))
    tables = []
    try:
        for side, most in (("user", 1), ("candidates", max_rows)):
            if source.tell() == len(body):
                raise RefusedRequest(400, f"the body ends before the stream of {side}: two Arrow streams are needed")
            tables.append(_table(source, side, most, len(body)))
        if source.tell() < len(body):
            raise RefusedRequest(400, "the body goes on after its second Arrow stream")
    except (pa.ArrowException, OSError, ValueError, struct.error, IndexError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise RefusedRequest(400, f"the body is no pair of Arrow streams: {reason}") from None
    return RankingRequest(*tables)


def _table(source: pa.BufferReader, side: str, most: int, size: int) -> pa.Table:
    first = source.tell()
    _refuse_compressed(source)
    end = source.tell()
    source.seek(first)
    batches, rows = [], 0
    with pa.ipc.open_stream(source) as reader:
        schema = reader.schema
        for batch in reader:
            rows += batch.num_rows
            if rows > most:
                raise RefusedRequest(422, f"user: {rows:,} rows; one is needed") if side == "user" else too_many(rows, most)
            batch.validate(full=True)
            batches.append(batch)
    source.seek(end)
    table = pa.Table.from_batches(batches, schema).combine_chunks()
    if side == "user" and table.num_columns and table.num_rows != 1:
        raise RefusedRequest(422, f"user: {table.num_rows} rows; one is needed")
    for name, column in zip(table.column_names, table.columns, strict=True):
        values = pc.sum(pc.list_value_length(column)).as_py() or 0 if is_list(column.type) else 0
        if values > size * 8:  # lists of nulls take no bytes
            raise RefusedRequest(413, f"{side}: column {name!r} holds {values:,} values, more than the body has bits", name)
    return table.replace_schema_metadata()


def _refuse_compressed(source: pa.BufferReader) -> None:
    """Reads the messages of one stream up to its end."""
    reader = pa.ipc.MessageReader.open_stream(source)
    while True:
        try:
            message = reader.read_next_message()
        except StopIteration:
            return
        root = memoryview(message.metadata)
        table = struct.unpack_from("<I", root, 0)[0]
        kind, place = _field(root, table, _HEADER_TYPE), _field(root, table, _HEADER)
        if kind is None or place is None:
            continue
        header, header_type = _pointed(root, place), root[kind]
        if header_type == _DICTIONARY_BATCH and (data := _field(root, header, _DATA)) is not None:
            header = _pointed(root, data)
        elif header_type != _RECORD_BATCH:
            continue
        if _field(root, header, _COMPRESSION) is not None:
            raise RefusedRequest(415, "the Arrow streams hold compressed buffers: write them without compression")


def _field(root: memoryview, table: int, number: int) -> int | None:
    """Where a field of a flatbuffer's table stands; None if it is left out."""
    entries = table - struct.unpack_from("<i", root, table)[0]
    place = 4 + 2 * number
    if place >= struct.unpack_from("<H", root, entries)[0]:
        return None
    return table + offset if (offset := struct.unpack_from("<H", root, entries + place)[0]) else None


def _pointed(root: memoryview, place: int) -> int:
    return place + struct.unpack_from("<I", root, place)[0]


def arrow_body(user: pa.Table, candidates: pa.Table) -> bytes:
    """The body of a request. user: one row; candidates: N rows."""
    return _stream(user) + _stream(candidates)


def _stream(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def arrow_answer(version: str, units: dict[str, str | None], columns: dict[str, Any]) -> bytes:
    """columns: (N,) by name. Units stand in the fields' metadata, the version in the schema's."""
    fields = [pa.field(n, v.type, metadata={"unit": units[n]} if units.get(n) else None) for n, v in columns.items()]
    schema = pa.schema(fields, metadata={"version": version})
    return _stream(pa.table(list(columns.values()), schema=schema))
