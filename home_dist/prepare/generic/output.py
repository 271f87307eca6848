"""The data folder that a preparation writes, and its work folder: on a disk, or in a store."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from home_dist.errors import ConfigError, DataError
from home_dist.files.places import is_remote, path_of, without_secrets
from home_dist.files.private import no_room
from home_dist.files.remote import beside
from home_dist.files.remote_folder import AlreadyThere, RemoteFolder, refuse_existing_remote, whole_remote_folder
from home_dist.files.whole import refuse_existing, whole_folder
from home_dist.prepare.engine import RemoteWork, Work
from home_dist.prepare.engine.engines import Engine
from home_dist.prepare.engine.mirror import give
from home_dist.prepare.engine.remote_work import remove_left
from home_dist.prepare.generic.log_options import LogOptions
from home_dist.prepare.progress import Progress


@dataclass(frozen=True)
class Output:
    place: Path | str
    """A path, or a URL."""

    def __str__(self) -> str:
        return without_secrets(str(self.place))

    def refuse_existing(self, options: LogOptions) -> None:
        """Raises DataError when something is there."""
        if isinstance(self.place, Path):
            refuse_existing(self.place)
            return
        try:
            refuse_existing_remote(self.place)
        except AlreadyThere:
            if options.work is None:
                remove_left(beside(self.place, ".work"))  # of a command that was killed after it had written the output
            raise

    def open_work(self, options: LogOptions, fingerprint: dict[str, Any], engine: Engine, progress: Progress) -> Work:
        """Raises ConfigError when output and work folder lie in one another, else what the work folder raises."""
        if options.work is not None and isinstance(self.place, str):
            _refuse_nested(self.place, options.work)
        remote = options.work or (beside(self.place, ".work") if isinstance(self.place, str) else None)
        if remote is not None:
            return RemoteWork(remote, fingerprint, engine, progress)
        return Work(Path(self.place).with_name(Path(self.place).name + ".work"), fingerprint, engine, progress)

    def unwritten(self, error: OSError, options: LogOptions) -> DataError:
        """The error to raise for one of this machine's files."""
        if options.work is None and isinstance(self.place, Path):
            return DataError(
                f"{self}: cannot be written: {error}. Make room, or choose another folder; the same command then goes on."
            )
        if isinstance(error, FileNotFoundError):
            return DataError(f"{self}: cannot be prepared: a file was removed meanwhile: {error}. Restore it.")
        return no_room(error)

    @contextmanager
    def whole(self, work: Work) -> Iterator["OpenOutput"]:
        """The folder appears when the block ends without an error. Raises DataError, StoreError."""
        if isinstance(self.place, Path):
            with whole_folder(self.place) as folder:
                yield OpenOutput(folder, None, work)
        else:
            with whole_remote_folder(self.place, "schema.toml") as remote:
                yield OpenOutput(remote.staging, remote, work)


@dataclass(frozen=True)
class OpenOutput:
    folder: Path
    """Files written here become part of the output."""
    remote: RemoteFolder | None
    work: Work

    def add(self, path: Path, name: str) -> None:
        """Gives a file of the work folder a name in the output. It is linked or copied, not moved: if the run is killed here,
        the next one still finds it in the work folder. The store copies files that this machine does not have."""
        if self.remote is not None and isinstance(self.work, RemoteWork) and not path.exists():
            self.remote.copies.append((self.work.place_of(path), name))
            return
        (self.folder / name).parent.mkdir(exist_ok=True)
        give(path, self.folder / name)

    def add_folder(self, path: Path) -> None:
        """Without indexes, of which each host makes its own."""
        shutil.copytree(path, self.folder / path.name, ignore=shutil.ignore_patterns("*.index", ".*"))


def _refuse_nested(out: str, work: str) -> None:
    """The work folder is emptied, and what is in the output is there already."""
    inner, outer = sorted((f"{path_of(place)}/" for place in (out, work)), key=len, reverse=True)
    if inner.startswith(outer):
        raise ConfigError(
            f"--work {without_secrets(work)} and the output {without_secrets(out)} are one folder, or one lies in the other. "
            "Give a work folder of its own, or leave --work out: then it is beside the output."
        )


def output_of(place: Path | str) -> Output:
    """Raises ConfigError for a URL with a scheme that is no object store's."""
    text = str(place)
    if not is_remote(text):
        return Output(Path(place))
    if not text.startswith(("s3://", "gs://", "gcs://")):
        raise ConfigError(
            f"{without_secrets(text)}: cannot be written to; give a path, or a URL that begins with s3:// or gs://"
        )
    return Output(text)
