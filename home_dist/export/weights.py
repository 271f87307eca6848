"""`home-dist export --format safetensors`: a checkpoint for users of the safetensors library. `--format delta`: only the rows
of tables that changed since another checkpoint, to update a server."""

import shutil
from collections.abc import Iterator
from functools import partial
from itertools import zip_longest
from pathlib import Path

import tomli_w
import torch
from pyarrow import fs

from home_dist.data.matching_rows import common_keys
from home_dist.data.side_files import side_file
from home_dist.errors import CheckpointError
from home_dist.export.managed_rows import write_managed
from home_dist.export.source import Source, written_whole
from home_dist.export.streams import Stream, write_sharded
from home_dist.files.json_files import json_text
from home_dist.files.listing import list_files
from home_dist.files.places import join, with_parents
from home_dist.files.stores import open_store
from home_dist.ids.vocabulary import file_sha256
from home_dist.schema import PretrainedFeature, Schema, StatisticFeature, load_schema, save_schema
from home_dist.schema.frozen import KEYS, VECTORS
from home_dist.schema.meaning import differences, fingerprint
from home_dist.schema.values import VocabularyValues
from home_dist.training.checkpoint.inspection import changed_rows
from home_dist.training.run_folder import RunFolder

SHARD_BYTES = 2 * 10**9


def export_weights(source: Source, out: Path, shard_bytes: int = SHARD_BYTES) -> None:
    """Writes folder `out`: dense-*.safetensors, tables-*.safetensors, their index, and the files of `write_meaning`."""
    groups = {
        "dense": [_dense(source, name) for name in source.dense()],
        "tables": [
            Stream(f"tables.{table}.weight", torch.float32, source.table_shape(table), partial(source.rows, table))
            for table in sorted(source.places)
        ],
    }

    def write(folder: Path) -> None:
        write_sharded(folder, groups, shard_bytes, source.metadata())
        write_meaning(source, folder)

    written_whole(out, write)


def _dense(source: Source, name: str) -> Stream:
    stored, own = source.stored, source.stored_as(name)
    return Stream(name.removeprefix("dense/"), stored.dtype(own), stored.shape(own), lambda: iter([stored.whole(own)]))


def write_meaning(source: Source, folder: Path) -> None:
    """Writes the files that give rows a meaning: schema.toml, config.toml, boundaries.json, vocabularies/, managed/, frozen
    tables, state/ and export.json."""
    (folder / "schema.toml").write_text(tomli_w.dumps(source.schema.model_dump(exclude_none=True, mode="json")))
    (folder / "config.toml").write_text(tomli_w.dumps(source.record.config))
    statistics = {f.name: f for f in source.schema.feature if isinstance(f, StatisticFeature)}
    boundaries = {n: {"boundaries": list(f.boundaries), "mean": f.mean, "std": f.std} for n, f in statistics.items()}
    (folder / "boundaries.json").write_text(json_text(boundaries) + "\n")
    data = source.config.schema_path().parent
    values = {t.name: t.values for t in source.schema.table}
    managed = write_managed(source, folder)
    copy_vocabularies(source, folder)
    copy_state(source, folder)
    missing = []
    for table in sorted(set(source.places) - set(statistics)):
        table_values, path = values.get(table), data / "vocabularies" / f"{table}.parquet"
        if isinstance(table_values, VocabularyValues) or (folder / "vocabularies" / path.name).is_file():
            continue
        elif path.is_file():
            _copy(path, folder / "vocabularies" / path.name)
        elif table_values is None:
            missing.append(table)
    for feature in source.schema.feature:
        if isinstance(feature, PretrainedFeature) and feature.frozen is not None:
            for name in (KEYS, VECTORS):
                _copy(data / feature.frozen / name, folder / feature.frozen / name, link=True)
    tables = {t: dict(zip(("rows", "dim"), source.table_shape(t), strict=True)) for t in sorted(source.places)}
    about = {
        **source.metadata(),
        "samples": source.record.state.samples,
        "metrics": source.record.state.metrics,
        "tasks": [t.name for t in source.schema.task],
        "tables": tables,
        "tables_without_vocabulary": missing,
        "tables_with_managed_ids": managed,
    }
    (folder / "export.json").write_text(json_text(about) + "\n")


def copy_vocabularies(source: Source, folder: Path) -> None:
    """Copies the vocabularies that the schema names. Raises CheckpointError for one that is not the run's."""
    recorded = RunFolder(source.checkpoint.parent.parent).recorded_vocabularies()
    for table in source.schema.table:
        named = table.origin or (table.values if isinstance(table.values, VocabularyValues) else None)
        file = f"vocabularies/{table.name}.parquet" if named is None else named.file
        sha256 = recorded.get(table.name) if named is None else named.sha256
        path = side_file(source.given, file) if named is not None or sha256 is not None else None
        if path is None and (named is None or table.name not in source.places):
            continue
        if path is None or (sha256 is not None and file_sha256(path) != sha256):
            raise CheckpointError(
                f"{path or file}: is not the vocabulary of table {table.name!r} that {source.checkpoint} was trained with: "
                f"the data has been prepared anew, or it is gone. Restore it: without it no row can be told from another."
            )
        _copy(path, folder / file)


def copy_state(source: Source, folder: Path) -> None:
    """Copies what the preparation of the run's data left, if it left anything and is still the run's: it is needed to score a
    raw log."""
    store, path = open_store(join(with_parents(source.given.data.schema_place)[1], "state"))
    if store.filesystem.get_file_info(path).type != fs.FileType.Directory:
        return
    if fingerprint(load_schema(source.config.schema_path())) != fingerprint(source.whole):
        return
    (folder / "state").mkdir()
    for file in list_files(store, path):
        if store.local:
            _copy(Path(file.path), folder / "state" / file.name, link=True)
        else:
            target = str(folder / "state" / file.name)
            fs.copy_files(file.path, target, source_filesystem=store.filesystem, destination_filesystem=fs.LocalFileSystem())


def _copy(path: Path, target: Path, link: bool = False) -> None:
    """link: try a hard link. It is safe for frozen tables, which are large and never changed in place."""
    if target.exists():  # another feature reads the same file
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        if link:
            target.hardlink_to(path)
            return
    except OSError:
        pass
    shutil.copy(path, target)


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
    dense = [n for n in source.dense() if not _same(source, since, n)]
    groups = {"dense": [_dense(source, n) for n in dense], "tables": []}
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
        if source.schema != since.schema:  # new keys have rows
            save_schema(source.schema, folder / "schema.toml")
            copy_vocabularies(source, folder)

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
    """Indices of changed rows; rows that only the newer checkpoint has count as changed."""
    first = 0
    for newer, older in zip_longest(source.rows(table), _like(source, since, table)):
        if newer is None:
            break
        shared = min(len(newer), 0 if older is None else len(older))
        differ = torch.ones(len(newer), dtype=torch.bool)
        if shared:
            differ[:shared] = changed_rows(newer[:shared], older[:shared])
        yield first + differ.nonzero().flatten()
        first += len(newer)


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
