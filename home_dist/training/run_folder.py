"""The folder of a run: its files, and the lock that keeps other runs out."""

import tomllib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from home_dist.config import RunConfig, config_of_run, config_text, load_config, save_config, save_own_code
from home_dist.config.written import flat
from home_dist.errors import ConfigError
from home_dist.files.json_files import read_json, write_json
from home_dist.files.lock import locked
from home_dist.files.whole import WRITING
from home_dist.schema import Schema, load_schema, save_schema
from home_dist.schema.meaning import differences, without_told

# Settings that may change when a run resumes: the model and the meaning of its data do not depend on them.
_FREE = (
    "run",
    "distributed",
    "log",
    "checkpoint",
    "insight",
    "metrics",
    "publish",
    "data.path",
    "data.schema",
    "data.prefetch",
    "data.lanes",
    "data.memory_mb",
    "data.threads",
    "data.on_bad_row",
    "data.validation",
    "data.test",
)
_LOCK = ".lock"
_FREE_TRAIN = ("train.batch_size", "train.epochs", "train.max_steps", "train.on_nonfinite", "train.stop")


class RunFolder:
    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.config = self.path / "config.toml"
        self.schema = self.path / "schema.toml"
        self.checkpoints = self.path / "checkpoints"
        self.tensorboard = self.path / "tensorboard"
        self.evaluation = self.path / "evaluation.json"
        self.insight = self.path / "insight"
        self.scores = self.path / "scores"
        self.profile = self.path / "profile"
        self.quarantine = self.path / "quarantine"
        self.bad_rows = self.path / "bad_rows.json"
        self.stopped = self.path / "stopped.json"
        """Written when `train.stop` has ended the run."""
        self.vocabularies = self.path / "vocabularies.json"
        """SHA-256 of each table's vocabulary when the run began."""

    @contextmanager
    def claimed(self, config: RunConfig, schema: Schema) -> Iterator[None]:
        """Within this context only this process trains into the folder. Writes config.toml and schema.toml, or checks that the
        folder's describe the same run. Changes nothing if another process trains into the folder.

        Raises ConfigError if the folder holds another run or foreign files, or if another process trains into it.
        """
        if not self.config.exists() and self.path.exists():
            foreign = not self.path.is_dir() or any(not _ours(p) for p in self.path.iterdir())
            if foreign:
                raise ConfigError(f"run.dir {self.path} holds files that are no run of ours. Choose an empty or new folder.")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._cannot_write(error) from None
        with self.locked():
            try:
                self._claim(config, schema)
            except OSError as error:
                raise self._cannot_write(error) from None
            yield

    def _claim(self, config: RunConfig, schema: Schema) -> None:
        if not self.config.exists():
            save_schema(schema, self.schema)
            save_config(config, self.config)  # after the schema: it marks the folder as a run
            save_own_code(config, self.path)
            return
        recorded = load_config(self.config)
        changed = _differences(tomllib.loads(config_text(recorded)), tomllib.loads(config_text(config)))
        if changed:
            raise ConfigError(
                f"run.dir {self.path} holds a run with other settings ({'; '.join(changed[:5])}). "
                "Use its settings to go on with it, or choose another run.dir."
            )
        before = load_schema(self.schema)
        if without_told(before) != without_told(schema) or differences(before, schema):
            lines = "; ".join(differences(before, schema)[:5]) or "other entries"
            raise ConfigError(
                f"run.dir {self.path} holds a run on data with another schema than that of {config.data.shown}: {lines}. "
                f"Restore the data, or go on in a new run.dir, which begins with this model: home-dist train ... --from "
                f"{self.path}."
            )
        save_own_code(config, self.path)
        save_config(config, self.config)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Within this context no other process trains into the folder or removes its checkpoints.

        Raises ConfigError if another process does, for example ranks that survived their launcher.
        """
        busy = ConfigError(
            f"run.dir {self.path}: another process trains into it. Wait for it or end it, or choose another run.dir."
        )
        with ExitStack() as lock:
            try:
                lock.enter_context(locked(self.path / _LOCK, busy))
            except OSError as error:
                raise self._cannot_write(error) from None
            yield

    def _cannot_write(self, error: OSError) -> ConfigError:
        return ConfigError(f"run.dir {self.path} cannot be written: {error}. Choose another folder.")

    def write_vocabularies(self, hashes: dict[str, str]) -> None:
        write_json(self.vocabularies, hashes)

    def recorded_vocabularies(self) -> dict[str, str]:
        """As `write_vocabularies` got them; empty for runs that did not record them. Raises UserError for a damaged file."""
        return read_json(self.vocabularies, "Remove it: it only tells vocabularies of the same name apart.")

    def open(self) -> tuple[RunConfig, Schema]:
        """The run's configuration and schema. Raises ConfigError for a folder without a run."""
        return load_config(config_of_run(self.path)), load_schema(self.schema)


def _ours(path: Path) -> bool:
    """Whether the file may come from a run that was killed before it wrote config.toml."""
    return path.name == _LOCK or (path.name.startswith(".") and path.name.endswith(WRITING))


def _differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    old, new = flat(before), flat(after)
    return [
        f"{key}: {old.get(key, 'not set')!r} there, {new.get(key, 'not set')!r} now"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key) and not _free(key)
    ]


def _free(key: str) -> bool:
    if key.startswith("embedding.tables.") and key.endswith(".start"):
        return True
    return key in _FREE_TRAIN or any(key == f or key.startswith(f + ".") for f in _FREE)
