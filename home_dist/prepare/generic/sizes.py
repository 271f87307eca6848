"""How finely a log is cut, so that a task's tables fit its share of the memory. The result does not depend on it."""

from collections.abc import Mapping

import pyarrow as pa

from home_dist.ids.arrow_types import is_list, is_text
from home_dist.prepare.generic.log_spec import LogSpec

_PROCESS = 150 << 20  # bytes of a process without data, libraries included
_LEAST = 32 << 20
_COPIES = 4  # copies of a task's columns held at once: read, sorted, taken, written
_EVENT_COPIES = 3  # as _COPIES; not all columns are in each
_LEAST_PIECE = 16_384
_CHUNK_ROWS = (16_384, 1_000_000)
_EVENTS = 200  # of a list of structs
_SMALL = 50_000  # rows below which another process is not worth its start


def partitions(spec: LogSpec, types: Mapping[str, pa.DataType], rows: int, share: int, processes: int) -> int:
    """Number of partitions: of users, of keys and of hours alike. share: bytes for one process."""
    ids = sum(_bytes(types[i.column]) for i in spec.id)
    ids += sum(_bytes(types[c]) for c in {c for p in spec.past for c in p.by} - {spec.user or "", *(i.column for i in spec.id)})
    statistics = len(spec.number) + sum(1 + 2 * len(p.rates) for p in spec.past)
    row_bytes = 40 + ids + sum(2 if x.kind == "binary" else 9 for x in spec.label) + 8 * statistics + 16 * len(spec.history)
    for history in spec.history:
        if history.reads_lists:
            row_bytes += history.most * (8 + len(history.told) + sum(_bytes(types[name]) for name in history.fields))
    by_memory = -(-rows * row_bytes * _COPIES // room(share))
    return max(1, by_memory, min(4 * processes, rows // _SMALL) if processes > 1 else 1)


def piece_rows(spec: LogSpec, share: int) -> int:
    """Most events of a partition of keys that are in memory at a time. share: bytes for one process."""
    rates = {r for p in spec.past for r in p.rates}
    counts = max((sum(1 + 2 * len(p.rates) for p in spec.past if p.by == q.by) for q in spec.past), default=0)
    return max(_LEAST_PIECE, room(share) // (_EVENT_COPIES * (36 + 24 + 2 * len(rates) + 8 * counts)))


def chunk_rows(types: Mapping[str, pa.DataType], rows: int, share: int, processes: int) -> int:
    """Number of the log's rows that are read at a time. share: bytes for one process."""
    least, most = _CHUNK_ROWS
    fitting = room(share) // (_COPIES * sum(map(_bytes, types.values())))
    return max(least, min(most, fitting, max(_SMALL, rows // (4 * processes))))


def room(share: int) -> int:
    """Bytes of a process's share of the memory for its data."""
    return max(_LEAST, share - _PROCESS)


def _bytes(kind: pa.DataType) -> int:
    """Typical bytes of a value in memory."""
    if is_list(kind) and pa.types.is_struct(kind.value_type):
        return _EVENTS * sum(_bytes(part.type) for part in kind.value_type)
    if is_list(kind):
        return 64
    return 24 if is_text(kind) else 8
