"""Files that give a model's rows and numbers a meaning: schema, configuration, boundaries, vocabularies, frozen tables, and
what the preparation of the run's data left."""

import shutil
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w
from pyarrow import fs

from home_dist.config import RunConfig
from home_dist.data.side_files import side_file
from home_dist.errors import CheckpointError
from home_dist.files.hashes import file_sha256
from home_dist.files.json_files import json_text
from home_dist.files.listing import list_files
from home_dist.files.places import join, with_parents
from home_dist.files.stores import open_store
from home_dist.schema import PretrainedFeature, Schema, StatisticFeature, load_schema
from home_dist.schema.frozen import KEYS, TYPE, VECTORS
from home_dist.schema.meaning import fingerprint
from home_dist.schema.values import VocabularyValues


@dataclass(frozen=True)
class ModelMeaning:
    """Of a run's model."""

    shown: str
    """The model, for messages."""
    given: RunConfig
    """As the run's folder holds it."""
    config: RunConfig
    """With data.schema on this machine."""
    written: dict[str, Any]
    """The configuration that config.toml is to hold."""
    whole: Schema
    """Of the run's data."""
    schema: Schema
    """With the tasks that the run trains alone."""
    tables: Collection[str]
    """Names of all tables, those of statistics' buckets included."""
    recorded: dict[str, str]
    """SHA-256 of tables' vocabularies when the run began."""


def write_meaning_files(source: ModelMeaning, folder: Path) -> list[str]:
    """Writes schema.toml, config.toml, boundaries.json, vocabularies/, frozen tables and state/. Returns names of tables whose
    rows no vocabulary tells. Raises CheckpointError for a vocabulary that is not the run's."""
    (folder / "schema.toml").write_text(tomli_w.dumps(source.schema.model_dump(exclude_none=True, mode="json")))
    (folder / "config.toml").write_text(tomli_w.dumps(source.written))
    statistics = {f.name: f for f in source.schema.feature if isinstance(f, StatisticFeature)}
    boundaries = {n: {"boundaries": list(f.boundaries), "mean": f.mean, "std": f.std} for n, f in statistics.items()}
    (folder / "boundaries.json").write_text(json_text(boundaries) + "\n")
    data = source.config.schema_path().parent
    values = {t.name: t.values for t in source.schema.table}
    copy_vocabularies(source, folder)
    copy_state(source, folder)
    missing = []
    for table in sorted(set(source.tables) - set(statistics)):
        table_values, path = values.get(table), data / "vocabularies" / f"{table}.parquet"
        if isinstance(table_values, VocabularyValues) or (folder / "vocabularies" / path.name).is_file():
            continue
        elif path.is_file():
            _copy(path, folder / "vocabularies" / path.name)
        elif table_values is None:
            missing.append(table)
    for feature in source.schema.feature:
        if isinstance(feature, PretrainedFeature) and feature.frozen is not None:
            for name in (KEYS, VECTORS, TYPE):
                if name != TYPE or (data / feature.frozen / name).is_file():  # earlier versions wrote none
                    _copy(data / feature.frozen / name, folder / feature.frozen / name, link=True)
    return missing


def copy_vocabularies(source: ModelMeaning, folder: Path) -> None:
    """Copies the vocabularies that the schema names. Raises CheckpointError for one that is not the run's."""
    for table in source.schema.table:
        named = table.origin or (table.values if isinstance(table.values, VocabularyValues) else None)
        file = f"vocabularies/{table.name}.parquet" if named is None else named.file
        sha256 = source.recorded.get(table.name) if named is None else named.sha256
        path = side_file(source.given, file) if named is not None or sha256 is not None else None
        if path is None and (named is None or table.name not in source.tables):
            continue
        if path is None or (sha256 is not None and file_sha256(path) != sha256):
            raise CheckpointError(
                f"{path or file}: is not the vocabulary of table {table.name!r} that {source.shown} was trained with: "
                f"the data has been prepared anew, or it is gone. Restore it: without it no row can be told from another."
            )
        _copy(path, folder / file)


def copy_state(source: ModelMeaning, folder: Path) -> None:
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
