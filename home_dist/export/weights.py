"""`home-dist export --format safetensors`: a checkpoint for users of the safetensors library. `--format delta`: only the rows
of tables that changed since another checkpoint, to update a server."""

from collections.abc import Iterator
from functools import partial
from itertools import zip_longest
from pathlib import Path

import torch

from home_dist.data.matching_rows import common_keys
from home_dist.errors import CheckpointError
from home_dist.export.managed_rows import write_managed
from home_dist.export.meaning import copy_vocabularies, write_meaning_files
from home_dist.export.model_card import write_card
from home_dist.export.source import Source, written_whole
from home_dist.export.streams import Stream, write_sharded
from home_dist.files.json_files import json_text
from home_dist.schema import Schema, save_schema
from home_dist.schema.meaning import differences
from home_dist.training.checkpoint.inspection import changed_rows

SHARD_BYTES = 2 * 10**9


def export_weights(source: Source, out: Path, shard_bytes: int = SHARD_BYTES) -> None:
    """Writes folder `out`: dense-*.safetensors, tables-*.safetensors, their index, and the files of `write_meaning`."""
    groups = {
        "dense": [_dense(source, name, own) for name, own in source.dense().items()],
        "tables": [
            Stream(f"tables.{table}.weight", torch.float32, source.table_shape(table), partial(source.rows, table))
            for table in sorted(source.places)
        ],
    }

    def write(folder: Path) -> None:
        write_sharded(folder, groups, shard_bytes, source.metadata())
        write_meaning(source, folder)
        write_card(source, folder, "safetensors")

    written_whole(out, write)


def _dense(source: Source, name: str, own: str) -> Stream:
    stored = source.stored
    return Stream(name.removeprefix("dense/"), stored.dtype(own), stored.shape(own), lambda: iter([stored.whole(own)]))


def write_meaning(source: Source, folder: Path) -> None:
    """Writes the files that give rows a meaning (meaning.py), managed/ and export.json."""
    missing = write_meaning_files(source.meaning, folder)
    about = {
        **source.metadata(),
        "samples": source.record.state.samples,
        "metrics": source.record.state.metrics,
        "tasks": [t.name for t in source.schema.task],
        "tables": {t: dict(zip(("rows", "dim"), source.table_shape(t), strict=True)) for t in sorted(source.places)},
        "tables_without_vocabulary": missing,
        "tables_with_managed_ids": write_managed(source, folder),
    }
    (folder / "export.json").write_text(json_text(about) + "\n")


def export_delta(source: Source, since: Source, out: Path) -> dict[str, int]:
    """Writes folder `out`: for each changed table `tables.NAME.rows` (n,) and `tables.NAME.values` (n, dim); changed dense
    tensors, whole. Returns the number of changed rows by table. Raises CheckpointError for tables of other name or width,
    and for data whose numbers mean something else; vocabularies may have grown."""
    others = other_meanings(since.schema, source.schema)
    if others:
        raise CheckpointError(
            f"rows of {source.checkpoint} mean something else than those of {since.checkpoint}: {'; '.join(others[:5])}. A "
            f"delta needs data that was prepared with --like the older run's. Export the whole with --format safetensors."
        )
    changed: dict[str, torch.Tensor] = {}
    for table in sorted(source.places):
        if table not in since.places or since.table_shape(table)[1] != source.table_shape(table)[1]:
            older = since.table_shape(table) if table in since.places else "no such table"
            raise CheckpointError(
                f"table {table!r} is {source.table_shape(table)} in {source.checkpoint}, but {older} in {since.checkpoint}: "
                "a delta needs tables of the same name and width. Export the whole with --format safetensors."
            )
        changed[table] = torch.cat(list(_changed(source, since, table)))
    dense = {n: own for n, own in source.dense().items() if not _same(source, since, n)}
    groups = {"dense": [_dense(source, n, own) for n, own in dense.items()], "tables": []}
    for table, rows in changed.items():
        if len(rows):
            groups["tables"].append(Stream.of(f"tables.{table}.rows", rows))
            shape = (len(rows), source.table_shape(table)[1])
            values = Stream(f"tables.{table}.values", torch.float32, shape, partial(_picked, source, table, rows))
            groups["tables"].append(values)
    metadata = source.metadata() | {"since": since.checkpoint.name, "since_step": str(since.record.state.step)}

    def write(folder: Path) -> None:
        write_sharded(folder, groups, SHARD_BYTES, metadata)
        write_managed(source, folder)  # rows may have been assigned to other ids
        write_card(source, folder, "delta")
        if source.schema != since.schema:  # new keys have rows
            save_schema(source.schema, folder / "schema.toml")
            copy_vocabularies(source.meaning, folder)

    written_whole(out, write)
    return {t: len(r) for t, r in changed.items()}


def other_meanings(since: Schema, now: Schema) -> list[str]:
    """Entries that mean something else in `now`, apart from vocabularies that have only got more keys."""
    older = {t.name: t.origin for t in since.table}
    grown = {
        t.name for t in now.table if (origin := older.get(t.name)) is not None and common_keys(origin, t.origin) == origin.keys
    }
    return [line for line in differences(since, now) if line.partition(":")[0].removeprefix("table ") not in grown]


def _changed(source: Source, since: Source, table: str) -> Iterator[torch.Tensor]:
    """Indices of changed rows."""
    first = 0
    for newer, differ in changed_blocks(source, since, table):
        yield first + differ.nonzero().flatten()
        first += len(newer)


def changed_blocks(source: Source, since: Source, table: str) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """(rows (n, dim), whether each has changed (n,)) of a table, block by block; rows that only the newer checkpoint has count
    as changed."""
    for newer, older in zip_longest(source.rows(table), _like(source, since, table)):
        if newer is None:
            break
        shared = min(len(newer), 0 if older is None else len(older))
        differ = torch.ones(len(newer), dtype=torch.bool)
        if shared:
            differ[:shared] = changed_rows(newer[:shared], older[:shared])
        yield newer, differ


def _like(source: Source, since: Source, table: str) -> Iterator[torch.Tensor]:
    """The older checkpoint's rows, in blocks that start at the same rows as the newer one's."""
    place, rows, first = since.places[table], since.table_shape(table)[0], 0
    for newer in source.rows(table):
        count = max(0, min(len(newer), rows - first))
        yield since.stored.box(place.tensor, (place.first + min(first, rows), 0), (count, newer.shape[1]))
        first += len(newer)


def _picked(source: Source, table: str, rows: torch.Tensor) -> Iterator[torch.Tensor]:
    first = 0
    for block in source.rows(table):
        in_block = rows[(rows >= first) & (rows < first + len(block))]
        yield block[in_block - first]
        first += len(block)


def _same(source: Source, since: Source, name: str) -> bool:
    if name not in since.stored.tensors or since.stored.shape(name) != source.stored.shape(name):
        return False
    return not bool(changed_rows(source.stored.whole(name), since.stored.whole(name)).any())
