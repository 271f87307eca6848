"""Parquet files of item ids and vectors -> a frozen table. Only the keys are held in memory."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from home_dist.errors import DataError
from home_dist.files.json_files import write_json
from home_dist.files.listing import find_files
from home_dist.files.whole import refuse_existing, whole_folder
from home_dist.ids.arrow_types import is_list
from home_dist.ids.keys import KeyType, NotKeys, as_keys, key_type
from home_dist.prepare.progress import Progress, Say
from home_dist.schema.frozen import KEYS, TYPE, VECTORS, sort_keys

_BATCH = 16384


def _quiet(text: str) -> None:
    pass


def write_frozen(source: Path, key: str, vector: str, out: Path, half: bool = False, say: Say = _quiet) -> tuple[int, int]:
    """Writes the frozen table `out`, whole or not at all. Returns its rows and width. Raises DataError.

    source: a Parquet file or a folder of them. half: store float16. Rows without key or vector are left out.
    """
    paths = [Path(f.path) for f in find_files(str(source))[1]] if source.is_dir() else [source]
    refuse_existing(out)
    parts = [_keys(path, key, vector) for path in paths]
    keys, widths = np.concatenate([k for k, _, _ in parts]), {w for _, width, _ in parts for w in width}
    kinds = sorted({kind for *_, kind in parts if kind is not None}) or ["integer"]
    if len(kinds) > 1:
        raise DataError(f"{source}: column {key!r} holds {' and '.join(kinds)} keys; all files must hold keys of one type.")
    if len(widths) != 1:
        raise DataError(f"{source}: column {vector!r}: vectors of widths {sorted(widths)[:5]}; all must be equally wide.")
    width = widths.pop()
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    if (ordered[1:] == ordered[:-1]).any():
        at = int(order[1:][ordered[1:] == ordered[:-1]][0])
        raise DataError(
            f"{source}: column {key!r}: the id of vector {at} stands twice (or two texts share a hash); once is needed."
        )
    target = np.empty(len(keys), np.int64)
    target[order] = np.arange(len(keys))
    with whole_folder(out) as writing:
        np.save(writing / KEYS, ordered)
        write_json(writing / TYPE, {"type": kinds[0]})
        kind = np.float16 if half else np.float32
        vectors = np.lib.format.open_memmap(writing / VECTORS, mode="w+", dtype=kind, shape=(len(keys), width))
        at = 0
        with Progress.of(say).step("vectors", len(keys)) as advance:
            for path in paths:
                for batch in _batches(path, key, vector):
                    values = _vectors(path, vector, batch.column(vector), width)
                    vectors[target[at : at + len(values)]] = values
                    at += len(values)
                    advance(len(values))
        vectors.flush()
    return len(keys), width


def _batches(path: Path, key: str, vector: str):  # type: ignore[no-untyped-def]
    """Batches of the rows that have both key and vector."""
    try:
        file = pq.ParquetFile(path, page_checksum_verification=True)
        for column in (key, vector):
            if column not in file.schema_arrow.names:
                raise DataError(f"{path}: column {column!r} is missing; there are: {', '.join(file.schema_arrow.names[:40])}.")
        for batch in file.iter_batches(_BATCH, columns=[key, vector]):
            yield batch.filter(pc.and_(pc.is_valid(batch.column(key)), pc.is_valid(batch.column(vector))))
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path}: cannot be read ({str(error).splitlines()[0]}). Write it again.") from None


def _keys(path: Path, key: str, vector: str) -> tuple[NDArray[np.int64], set[int], KeyType | None]:
    """(n,) keys, the set of the vectors' widths, and the keys' type, None without any."""
    parts, widths = [np.zeros(0, np.int64)], set()
    kind: KeyType | None = None
    for batch in _batches(path, key, vector):
        values, vectors = batch.column(key), batch.column(vector)
        kind = key_type(values.type)
        if kind is None:
            raise DataError(f"{path}: column {key!r} has type {values.type}, but whole numbers or texts are needed.")
        if not is_list(vectors.type) or not pa.types.is_floating(vectors.type.value_type):
            raise DataError(f"{path}: column {vector!r} has type {vectors.type}, but lists of numbers are needed.")
        if pa.types.is_dictionary(values.type):
            values = values.cast(values.type.value_type)
        try:
            parts.append(sort_keys(as_keys(values, kind)))
        except NotKeys as error:
            raise DataError(f"{path}: column {key!r}: {error.problem}. Keys are whole numbers or texts.") from None
        widths |= set(pc.unique(pc.list_value_length(vectors)).to_pylist())
    return np.concatenate(parts), widths, kind


def _vectors(path: Path, name: str, column: pa.Array, width: int) -> NDArray[np.float32]:
    flat = np.asarray(pc.fill_null(column.flatten(), float("nan"))).astype(np.float32).reshape(-1, width)
    if not np.isfinite(flat).all():
        raise DataError(f"{path}: column {name!r}: NaN, null or infinite within a vector. Write null for the whole vector.")
    return flat
