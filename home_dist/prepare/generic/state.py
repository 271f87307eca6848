"""What a preparation leaves for the next one, in the folder state/ of its data: fitted numbers, and the past of every key.

state.json is written last and holds size and SHA-256 of the other files. Nothing is read that does not agree with it.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from home_dist import __version__
from home_dist.errors import ConfigError, DataError, problem_lines
from home_dist.files.hashes import file_sha256
from home_dist.files.json_files import read_json, write_json
from home_dist.ids.keys import KeyType
from home_dist.prepare.engine.mirror import opened
from home_dist.prepare.generic.log_spec import LogSpec
from home_dist.schema import Schema, TableSpec, load_schema
from home_dist.schema.base import Sha256, Spec

STATE, RECORD = "state", "state.json"
_FORMAT = 1
_BLOCK = 1 << 22  # bytes
_SUM = "sha256"  # key of the checksum of all other keys


class FileRead(Spec):
    """A file of the log, as far as preparations have read it."""

    bytes: int
    modified_ns: int
    rows: int
    """In the file; rows of days that were not read are counted too."""
    days: dict[int, int]
    """By day, in days since 1970: rows that were read."""

    @property
    def is_read_whole(self) -> bool:
        return sum(self.days.values()) == self.rows


class StateFile(Spec):
    bytes: int
    sha256: Sha256


class StateRecord(Spec):
    format: Literal[1] = 1
    home_dist: str = __version__
    description: dict[str, Any]
    key_types: dict[str, KeyType]
    """By column of keys."""
    lists: tuple[str, ...]
    """Those of them that hold lists."""
    first_day: int
    """Of all preparations that went on from each other, in days since 1970."""
    end_day: int
    """The day after the last one that was read."""
    steps: dict[str, float]
    """By statistic: the step that its values are rounded to."""
    known: dict[str, bool]
    """By label: whether all rows know it."""
    everyone: dict[str, tuple[int, int]]
    """By label: in how many rows it happened, and was known."""
    read: dict[str, FileRead]
    """By file of the log."""
    files: dict[str, StateFile] = Field(default_factory=dict)
    """The other files of the folder."""


def past_file(number: int, part: int) -> str:
    """File of a part of the key set at index `number` (`key_sets`)."""
    return f"past-{number}-{part:05d}.parquet"


def events_file(number: int, part: int) -> str:
    """File of a part of the [[history]] at index `number`."""
    return f"events-{number}-{part:05d}.parquet"


def rare_file(number: int) -> str:
    """File of the values of the [[id]] at index `number` that are not in its vocabulary, with their counts."""
    return f"rare-{number}.parquet"


def key_sets(spec: LogSpec) -> list[tuple[str, ...]]:
    return list(dict.fromkeys(p.by for p in spec.past))


def write_state(folder: Path, record: StateRecord, files: Mapping[str, Path], add: Callable[[Path, str], None]) -> None:
    """Writes folder/state, within a data folder that is not yet in its place. files: by name; `add` gives each its place there.
    Raises Gone, StoreError, OSError."""
    entries = {}
    for name, path in files.items():
        entries[name] = _file_of(path)
        add(path, f"{STATE}/{name}")
    tree = record.model_copy(update={"files": entries}).model_dump(mode="json")
    (folder / STATE).mkdir(exist_ok=True)
    write_json(folder / STATE / RECORD, tree | {_SUM: _sum(tree)}, indent=None)


def _file_of(path: Path) -> StateFile:
    """Of a file that this machine need not have."""
    digest = hashlib.sha256()
    with opened(path) as file:
        while block := file.read(_BLOCK):
            digest.update(block)
        return StateFile(bytes=file.tell(), sha256=digest.hexdigest())


def _sum(tree: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Base:
    """An earlier preparation, from whose numbers and state another one goes on. folder: of its data, or of an export."""

    folder: Path
    record: StateRecord
    schema: Schema

    @staticmethod
    def open(folder: Path) -> "Base":
        """Raises ConfigError for a folder without a state, DataError for a state that is damaged or newer than this version."""
        path = folder / STATE / RECORD
        if not path.is_file():
            raise ConfigError(
                f"{folder}: holds no {STATE}/{RECORD}, so that nothing can go on from it. `home-dist prepare` leaves one "
                f"unless it is told --no-state; prepare that data again."
            )
        tree = read_json(path, "Restore it, or prepare the data again.", DataError)
        if isinstance(tree.get("format"), int) and tree["format"] > _FORMAT:
            raise DataError(
                f"{path}: was written by home_dist {tree.get('home_dist')}, in a newer format than this version "
                f"({__version__}) reads. Install that version."
            )
        if tree.pop(_SUM, None) != _sum(tree):
            raise _damaged(path, "its content has changed since it was written")
        try:
            record = StateRecord.model_validate(tree)
        except ValidationError as error:
            raise _damaged(path, next(iter(problem_lines(error)))) from None
        base = Base(folder, record, load_schema(folder / "schema.toml"))
        base._verify()
        return base

    def _verify(self) -> None:
        for name, expected in self.record.files.items():
            path = self.folder / STATE / name
            if not path.is_file():
                raise _damaged(path, "the file is missing")
            if path.stat().st_size != expected.bytes:
                raise _damaged(path, f"{path.stat().st_size:,} bytes instead of {expected.bytes:,}")
            if file_sha256(path) != expected.sha256:
                raise _damaged(path, "its content has changed since it was written")
        for table in self.schema.table:
            if table.origin is not None:
                path = self.folder / table.origin.file
                if not path.is_file() or file_sha256(path) != table.origin.sha256:
                    raise _damaged(path, "it is not the vocabulary that schema.toml names")

    @cached_property
    def tables(self) -> dict[str, TableSpec]:
        return {t.name: t for t in self.schema.table}

    def vocabulary(self, column: str) -> Path:
        """Raises DataError if the schema does not name one."""
        origin = self.tables[column].origin if column in self.tables else None
        if origin is None:
            raise _damaged(self.folder / "schema.toml", f"it names no vocabulary of {column!r}")
        return self.folder / origin.file

    def files(self, kind: str, number: int) -> list[Path]:
        """The parts of a key set ("past") or of a [[history]] ("events")."""
        return [self.folder / STATE / n for n in sorted(self.record.files) if n.startswith(f"{kind}-{number}-")]

    def rare(self, number: int) -> Path | None:
        name = rare_file(number)
        return self.folder / STATE / name if name in self.record.files else None

    def fingerprint(self) -> str:
        """Of everything that a preparation takes from here."""
        text = json.dumps([self.record.model_dump(mode="json"), self.schema.model_dump(mode="json")], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def _damaged(path: Path, problem: str) -> DataError:
    return DataError(f"{path}: damaged: {problem}. Restore it, or prepare the data again.")
