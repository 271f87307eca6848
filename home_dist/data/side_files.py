"""Copies the files beside remote data that are read whole: schema, vocabularies, frozen tables. One copy per host."""

import hashlib
from collections.abc import Callable
from pathlib import Path

from pyarrow import fs

from home_dist.config import RunConfig
from home_dist.errors import ConfigError, DataError
from home_dist.files.listing import list_files
from home_dist.files.lock import locked
from home_dist.files.places import join, with_parents, without_secrets
from home_dist.files.private import private_folder
from home_dist.files.stores import Store, open_store, unreachable
from home_dist.files.whole import whole_folder
from home_dist.schema import PretrainedFeature, Schema, load_schema
from home_dist.schema.values import VocabularyValues


def with_local_schema(config: RunConfig) -> RunConfig:
    """The configuration with data.schema on this machine: a remote schema is copied, with the files that it names.

    Raises DataError or ConfigError.
    """
    place = config.data.schema_place
    store, path = open_store(place)
    if store.local:
        return _with_schema(config, path) if path != place else config
    folder, name = path.rsplit("/", 1)
    try:
        info = store.filesystem.get_file_info(path)
    except OSError as error:
        raise unreachable(store, path, error) from None
    if not info.is_file:
        raise ConfigError(
            f"{store.show(path)}: no such file. A data folder needs a schema.toml that says what its columns mean; copy it "
            "there, or set data.schema."
        )

    def fill(copy: Path) -> None:
        _copy(store.filesystem, [path], folder, copy)
        schema = load_schema(copy / name)
        _copy(store.filesystem, [f"{folder}/{file}" for file in _vocabularies(schema)], folder, copy)
        tables = [i.path for table in _frozen(schema) for i in list_files(store, f"{folder}/{table}")]
        _copy(store.filesystem, tables, folder, copy)

    return _with_schema(config, str(_copied(store, place, info, folder, fill) / name))


def schema_of(config: RunConfig) -> Schema:
    """The schema of a run's data, with the groups of `data.groups`. Raises DataError or ConfigError."""
    schema = load_schema(with_local_schema(config).schema_path())
    names = [t.name for t in schema.task]
    for task in config.data.groups:
        if task not in names:
            raise ConfigError(f"data.groups.{task}: no such task; there are: {', '.join(names)}")
    return schema.in_groups(config.data.groups)


def with_data(config: RunConfig, path: str) -> RunConfig:
    """The configuration with another data folder or URL, and the schema that lies there."""
    return config.model_copy(update={"data": config.data.model_copy(update={"path": path, "data_schema": None})})


_AROUND = 4  # folders around files that are searched for their schema


def schema_around(place: str) -> str | None:
    """The nearest schema.toml in the folder of these files, or in one around it; place: a file, a folder, a glob or a URL. None
    if there is none. Raises DataError for a store that does not answer."""
    for folder in with_parents(place)[: _AROUND + 1]:
        schema = join(folder, "schema.toml")
        store, path = open_store(schema)
        try:
            if store.filesystem.get_file_info(path).is_file:
                return schema
        except OSError as error:
            raise unreachable(store, path, error) from None
    return None


def side_file(config: RunConfig, name: str) -> Path | None:
    """A file beside the schema, on this machine; None if missing. config: before `with_local_schema`. Raises DataError."""
    store, path = open_store(config.data.schema_place)
    folder = path.rpartition("/")[0]
    if store.local:
        local = Path(folder or ".", name)
        return local if local.is_file() else None
    source = f"{folder}/{name}"
    try:
        info = store.filesystem.get_file_info(source)
    except OSError as error:
        raise unreachable(store, source, error) from None
    if not info.is_file:
        return None
    return _copied(store, store.show(source), info, folder, lambda copy: _copy(store.filesystem, [source], folder, copy)) / name


def _copied(store: Store, place: str, info: fs.FileInfo, folder: str, fill: Callable[[Path], None]) -> Path:
    """This host's folder with a copy of the file at `place`, in the version of `info`. The host's first rank calls `fill` on
    it; the others wait and use it. folder: for messages. Raises DataError."""
    key = hashlib.sha256(repr((without_secrets(place), info.size, info.mtime_ns)).encode()).hexdigest()[:16]
    target = private_folder() / key
    with locked(target.with_suffix(".lock")):
        if not target.is_dir():
            with whole_folder(target) as copy:
                try:
                    fill(copy)
                except OSError as error:
                    raise unreachable(store, folder, error) from None
    return target


def _with_schema(config: RunConfig, path: str) -> RunConfig:
    return config.model_copy(update={"data": config.data.model_copy(update={"data_schema": path})})


def _vocabularies(schema: Schema) -> list[str]:
    return sorted({t.values.file for t in schema.table if isinstance(t.values, VocabularyValues)})


def _frozen(schema: Schema) -> list[str]:
    return sorted({f.frozen for f in schema.feature if isinstance(f, PretrainedFeature) and f.frozen is not None})


def _copy(filesystem: fs.FileSystem, paths: list[str], folder: str, to: Path) -> None:
    for path in paths:
        target = to / path.removeprefix(folder).lstrip("/")
        if not target.resolve().is_relative_to(to.resolve()):
            raise DataError(f"{path}: a file of the schema must lie below the schema's folder. Copy it there.")
        target.parent.mkdir(parents=True, exist_ok=True)
        fs.copy_files(path, str(target), source_filesystem=filesystem, destination_filesystem=fs.LocalFileSystem())
