"""`home-dist publish RUN --to PLACE`: a run's checkpoint as a version, in one process and with bounded memory."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from pyarrow import fs

from home_dist.config import DataSection
from home_dist.config.publish import RowType
from home_dist.data.arrivals import arrived
from home_dist.errors import DataError
from home_dist.export.managed_rows import stored_rows
from home_dist.export.program import predictions_of
from home_dist.export.source import Source
from home_dist.export.weights import changed_blocks
from home_dist.files.listing import find_files
from home_dist.files.places import join
from home_dist.objectives import Objectives
from home_dist.publish.codec import Floats
from home_dist.publish.few_rows import FewRows
from home_dist.publish.folder import VersionsFolder
from home_dist.publish.golden import golden_requests
from home_dist.publish.keys import ManagedOwners, Slots, VocabularyIds, shared_or_owned, version_tables, vocabulary_ids
from home_dist.publish.manifest import Manifest, PublishError, VersionTable, digest, version_name
from home_dist.publish.reading import copies, read_dense
from home_dist.publish.rows_file import RowsFile
from home_dist.publish.writing import Facts, RankPart, begun, rows_file, undone, write_aliases, write_rest
from home_dist.schema import Table
from home_dist.schema.meaning import fingerprint
from home_dist.training.checkpoint.manifest import MANIFEST as CHECKPOINT_MANIFEST
from home_dist.training.checkpoint.of_run import checkpoints_of
from home_dist.training.checkpoint.state import TrainState
from home_dist.training.stored_tables import all_tables

Keys = VocabularyIds | ManagedOwners | None


def publish_checkpoint(
    source: Source,
    to: str,
    row_type: RowType,
    delta: bool = False,
    keep: int = 3,
    golden: int = 64,
    tell: Callable[[str], None] = print,
) -> Manifest:
    """Publishes a checkpoint as a full version, or as a delta on the newest one. Returns its manifest. golden: requests with
    the model's answers that the version is to hold. tell: hears of older versions that are damaged.

    Raises PublishError when another publisher is at work there, or when a delta is not possible; Taken when another one takes
    over meanwhile; StoreError, CheckpointError.
    """
    folder = VersionsFolder(to)
    tables = version_tables(source.meaning, source.layout)
    requests = golden_requests(FewRows.of(source), source.given.data, golden) if golden else None
    try:
        with folder.claimed():
            number = folder.next_number()
            folder.clear_unfinished()
            base = _base(folder, source, row_type) if delta else None
            older = None if base is None else Source.open(_checkpoint_of(source, base[0]))
            manifest = begun(version_name(number), base, _facts(source), source.meaning, tables, row_type)
            if base is not None and (unlike := manifest.unlike(base[0])) is not None:
                raise _no_delta(unlike)
            part = RankPart()
            with undone(folder, manifest.version):
                with rows_file(folder, manifest.version, 0, row_type, part) as file:
                    for name, table in tables.items():
                        _write_table(file, source, older, name, table)
                    if older is None:
                        write_aliases(file, source.meaning, tables)
                meaning = source.meaning if older is None else None
                manifest, _ = write_rest(folder, manifest, [part], dense_of(source), meaning, requests)
            for damaged in folder.prune(keep):
                tell(f"an older version is damaged: {damaged}")
    except OSError as error:
        raise PublishError(f"{folder}: cannot be written: {error}. Make room, or publish to another folder.") from None
    return manifest


def is_current(folder: VersionsFolder, source: Source, row_type: RowType) -> bool:
    """Whether the newest version there is this checkpoint's model. Raises PublishError, StoreError, CheckpointError."""
    current = folder.current()
    if current is None:
        return False
    manifest = folder.manifest(*current)
    wanted = source.record.state.step, fingerprint(source.meaning.schema), row_type
    if (manifest.step, manifest.meaning, manifest.row_type) != wanted:
        return False
    with copies() as to:
        there, own = read_dense(folder, manifest, to), dense_of(source)
    return there.keys() == own.keys() and all(torch.equal(values, own[name]) for name, values in there.items())


def _facts(source: Source) -> Facts:
    state = source.record.state
    content = (source.checkpoint / CHECKPOINT_MANIFEST).read_bytes()
    checkpoint = {"name": source.checkpoint.name, "manifest_sha256": digest(content)}
    tasks = source.schema.task
    predictions = predictions_of(tasks, Objectives(tasks, source.config))
    return Facts(state.step, state.samples, newest_data(source.given.data, state), predictions, checkpoint)


def newest_data(data: DataSection, state: TrainState) -> float | None:
    """Seconds since 1970 at which the newest training file was written: of a run that follows, the newest one that was trained
    on whole. None if there is none yet, and if the files cannot be listed."""
    try:
        if state.rounds is not None:
            names = {n for r in state.rounds[: state.position.epoch] for n in r}
            store, files = arrived(data)
            files = [f for f in files if f.name in names]
        else:
            store, files = find_files(join(data.path, data.train))
        return newest_of(store.filesystem, [f.path for f in files])
    except (DataError, OSError):
        return None


def newest_of(filesystem: fs.FileSystem, paths: list[str]) -> float | None:
    """Seconds since 1970 at which the newest of these files was written. Raises OSError."""
    infos = filesystem.get_file_info(paths) if paths else []
    return max((i.mtime_ns / 1e9 for i in infos if i.mtime_ns is not None), default=None)


def dense_of(source: Source) -> dict[str, torch.Tensor]:
    """Dense tensors without the state of managed ids; averages where the run uses them."""
    found = source.dense().items()
    return {n.removeprefix("dense/"): source.stored.whole(own) for n, own in found if n.startswith("dense/head.")}


def _base(folder: VersionsFolder, source: Source, row_type: RowType) -> tuple[Manifest, str]:
    current = folder.current()
    if current is None:
        raise _no_delta("there is no version yet that it could build on")
    base = folder.manifest(*current)
    if base.row_type != row_type:
        raise _no_delta(f"rows of {base.version} are {base.row_type}, not {row_type}")
    return base, current[1]


def _no_delta(reason: str) -> PublishError:
    return PublishError(f"no delta is possible: {reason}. Publish a full version: leave --delta out.")


def _checkpoint_of(source: Source, base: Manifest) -> Path:
    """The checkpoint that the base was made from. Raises PublishError if it is no longer there, or there never was one."""
    if base.checkpoint is None:
        raise _no_delta(f"{base.version} was published by a run while it trained, and no checkpoint has its rows")
    for path in checkpoints_of(source.checkpoint.parent.parent).complete():
        same = path.name == base.checkpoint["name"]
        if same and digest((path / CHECKPOINT_MANIFEST).read_bytes()) == base.checkpoint["manifest_sha256"]:
            return path
    raise _no_delta(f"{base.version} was made from {base.checkpoint['name']}, which the run no longer has")


def _write_table(file: RowsFile, source: Source, older: Source | None, name: str, table: VersionTable) -> None:
    told = older is not None and not table.key.set_rows  # the base tells which ids a vocabulary gives to rows
    keys = None if told else keys_of_checkpoint(source, name)
    moved = np.zeros(table.rows, np.bool_)
    if older is not None and isinstance(keys, ManagedOwners):
        before = owners_of_checkpoint(older, all_tables(older.layout)[name])
        moved = keys.owners != before.owners
        lost = np.flatnonzero(moved & (before.owners >= 0))
        file.evicted(name, lost, pa.array(before.owners[lost]))
    for slots, values, differ in _blocks(source, older, name):
        chosen = np.flatnonzero(differ | moved[slots])
        slots, values = slots[chosen], values[chosen]
        if told:
            file.values(name, slots, values)
            continue
        ids = None if keys is None else keys.take(slots)
        if table.key.set_rows and ids is not None:
            read = np.flatnonzero(shared_or_owned(slots, ids, table.key.set_rows))
            slots, values, ids = slots[read], values[read], ids.take(pa.array(read))
        file.rows(name, slots, values, ids)


def _blocks(source: Source, older: Source | None, name: str) -> Iterator[tuple[Slots, Floats, NDArray[np.bool_]]]:
    """(slots (n,), rows (n, dim), whether each differs from the older checkpoint's (n,); all do without one)."""
    first = 0
    every = ((rows, torch.ones(len(rows), dtype=torch.bool)) for rows in source.rows(name))
    for rows, differ in every if older is None else changed_blocks(source, older, name):
        yield np.arange(first, first + len(rows)), rows.float().numpy(), differ.numpy()
        first += len(rows)


def keys_of_checkpoint(source: Source, name: str) -> Keys:
    table = all_tables(source.layout)[name]
    if table.managed:
        return owners_of_checkpoint(source, table)
    return vocabulary_ids(source.meaning, source.layout, name)


def owners_of_checkpoint(source: Source, table: Table) -> ManagedOwners:
    """Of a managed table."""
    stored = stored_rows(source, table)
    owners = np.full(stored.table_rows, -1, np.int64)
    owners[stored.rows] = stored.hashes
    return ManagedOwners(0, owners)
