"""Writes a version: rows by one or several ranks, then, by the first one, dense tensors, meaning, manifest."""

import io
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from home_dist.config.publish import RowType
from home_dist.export.meaning import ModelMeaning, write_meaning_files
from home_dist.export.streams import Stream, write_stream
from home_dist.publish.folder import VersionsFolder
from home_dist.publish.keys import cut_ids, vocabulary_of
from home_dist.publish.manifest import BaseVersion, FileEntry, Manifest, RowsChunk, VersionTable, digest
from home_dist.publish.rows_file import RowsFile
from home_dist.schema.meaning import fingerprint

DENSE, MEANING, GOLDEN = "dense.safetensors", "meaning", "golden.parquet"


@dataclass(frozen=True)
class Facts:
    """Of the model that a version holds."""

    step: int
    samples: int
    newest_data: float | None
    predictions: list[dict[str, Any]]
    checkpoint: dict[str, str] | None = None


@dataclass
class RankPart:
    """What a rank has written of a version."""

    chunks: list[RowsChunk] = field(default_factory=list)
    files: dict[str, FileEntry] = field(default_factory=dict)


@contextmanager
def rows_file(folder: VersionsFolder, version: str, rank: int, row_type: RowType, part: RankPart) -> Iterator[RowsFile]:
    """A rank's file of rows; `part` gets what stands in it. Raises PublishError, StoreError, OSError."""
    name = f"rows-{rank:05d}.bin"
    with folder.writing(version, name) as stream:
        file = RowsFile(stream, name, row_type)
        yield file
    part.chunks, part.files = file.chunks, {name: file.ended()}


def write_aliases(file: RowsFile, meaning: ModelMeaning, tables: Mapping[str, VersionTable]) -> None:
    """Ids that `keep_rows` cuts off: without them others would take them for ids out of the vocabulary."""
    for name, table in tables.items():
        if table.key.kind != "vocabulary" or not table.key.unknown_rows:
            continue
        vocabulary = vocabulary_of(meaning, name)
        for ids in cut_ids(vocabulary, table.rows) if vocabulary is not None else ():
            file.aliases(name, torch.zeros(len(ids), dtype=torch.int64).numpy(), ids)


def write_rest(
    folder: VersionsFolder,
    manifest: Manifest,
    parts: Sequence[RankPart],
    dense: Mapping[str, torch.Tensor],
    meaning: ModelMeaning | None,
    golden: pa.Table | None = None,
) -> tuple[Manifest, str]:
    """Writes all but rows, and makes the version whole and current. meaning: of a full version; a delta has its base's.
    golden: as golden.py makes it. Returns the manifest and its SHA-256. Raises PublishError, CheckpointError, StoreError,
    OSError."""
    version, files = manifest.version, {n: e for part in parts for n, e in part.files.items()}
    with folder.writing(version, DENSE) as stream:
        buffer = io.BytesIO()
        write_stream(buffer, [Stream.of(name, values) for name, values in sorted(dense.items())], {"version": version})
        stream.write(buffer.getbuffer())
        files[DENSE] = FileEntry(buffer.tell(), digest(buffer.getvalue()))
    if golden is not None:
        with folder.writing(version, GOLDEN) as stream:
            written = pa.BufferOutputStream()
            pq.write_table(golden, written)
            content = written.getvalue().to_pybytes()
            stream.write(content)
            files[GOLDEN] = FileEntry(len(content), digest(content))
    if meaning is not None:
        with tempfile.TemporaryDirectory(prefix="home-dist-") as staging:
            write_meaning_files(meaning, Path(staging))
            for path in sorted(p for p in Path(staging).rglob("*") if p.is_file()):
                name = f"{MEANING}/{path.relative_to(staging)}"
                files[name] = folder.copy(version, name, path)
    chunks = [chunk for part in parts for chunk in part.chunks]
    count = 0 if golden is None else len(golden)
    whole = replace(manifest, chunks=chunks, files=dict(sorted(files.items())), golden=count, published=time.time()).counted()
    return whole, folder.finish(whole)


def begun(
    name: str,
    base: tuple[Manifest, str] | None,
    facts: Facts,
    meaning: ModelMeaning,
    tables: Mapping[str, VersionTable],
    row_type: RowType,
) -> Manifest:
    """The manifest of the version `name`, to be written. base: of a delta, with its manifest's SHA-256."""
    return Manifest(
        version=name,
        kind="full" if base is None else "delta",
        base=None if base is None else BaseVersion(base[0].version, base[1]),
        full=name if base is None else base[0].full,
        step=facts.step,
        samples=facts.samples,
        newest_data=facts.newest_data,
        published=0.0,
        meaning=fingerprint(meaning.schema),
        row_type=row_type,
        predictions=facts.predictions,
        tables=dict(tables),
        checkpoint=facts.checkpoint,
    )


@contextmanager
def undone(folder: VersionsFolder, version: str) -> Iterator[None]:
    """Begins a version; on an error nothing of it is left, if the folder allows and is still ours."""
    folder.begin(version)
    try:
        yield
    except BaseException:
        with _best_effort():
            folder.abandon(version)
        raise


@contextmanager
def _best_effort() -> Iterator[None]:
    try:
        yield
    except Exception:  # the first error is the one to tell; the next publisher removes what is left
        return
