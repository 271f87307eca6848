"""The work folder of a run: a folder per finished task, so that a run that was killed goes on at the task it was in."""

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from home_dist.errors import DataError
from home_dist.prepare.engine.engines import Engine
from home_dist.prepare.progress import Progress

_PLAN, _DONE = "plan.json", "done"
_SPILL = "*.arrow"


@dataclass(frozen=True)
class Task:
    """action(folder) writes what the task leaves; it must depend on nothing but its arguments."""

    action: Callable[[Path], None]
    rows: int
    """For the progress."""


class Work:
    """Stages, one after the other; each is a list of tasks that may run in any order."""

    def __init__(self, folder: Path, fingerprint: dict[str, Any], engine: Engine, progress: Progress):
        """fingerprint: what the tasks depend on; a folder of another one is emptied first. Raises DataError while another run
        is at work in the folder."""
        self.folder, self._engine, self.progress = folder, engine, progress
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = _locked(folder)
        plan = folder / _PLAN
        wanted = json.loads(json.dumps(fingerprint))
        there = json.loads(plan.read_text()) if plan.is_file() else {}
        self.goes_on = there.get("fingerprint") == wanted
        self._chosen: dict[str, int] = there.get("chosen", {}) if self.goes_on else {}
        self._fingerprint = wanted
        if not self.goes_on:
            _empty(folder)
        self._save()

    def _save(self) -> None:
        text = json.dumps({"fingerprint": self._fingerprint, "chosen": self._chosen})
        writing = self.folder / f"{_PLAN}.writing"
        writing.write_text(text)
        writing.rename(self.folder / _PLAN)

    def choose(self, name: str, value: int) -> int:
        """A number that tasks depend on but the result does not, such as that of partitions: the one this folder began with."""
        if name not in self._chosen:
            self._chosen[name] = value
            self._save()
        return self._chosen[name]

    def run(self, stage: str, title: str, tasks: Sequence[Task], unit: str = "rows") -> list[Path]:
        """Runs what is not there yet, and returns the tasks' folders."""
        folder = self.folder / stage
        folder.mkdir(exist_ok=True)
        folders = [folder / f"{number:05d}" for number in range(len(tasks))]
        if (folder / _DONE).exists():
            return folders
        open_ = [n for n, f in enumerate(folders) if not f.exists()]
        done = sum(t.rows for t in tasks) - sum(tasks[n].rows for n in open_)
        with self.progress.step(title, sum(t.rows for t in tasks), done, unit) as advance:
            for finished in self._engine.run([_Whole(folders[n], tasks[n].action) for n in open_]):
                advance(tasks[open_[finished]].rows)
        (folder / _DONE).touch()
        return folders

    def drop(self, stage: str) -> None:
        """Makes room: the tables that a finished stage left for later ones go, its small files stay."""
        for path in (self.folder / stage).glob(f"*/{_SPILL}"):
            path.unlink()

    def remove(self) -> None:
        with suppress(OSError):
            _empty(self.folder)
            self.folder.rmdir()

    def close(self) -> None:
        os.close(self._lock)


def _locked(folder: Path) -> int:
    """The system takes the lock away when the process ends, however it does."""
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise DataError(f"{folder}: another run is at work there. Wait for it, or choose another folder to write to.") from None
    return lock


def _empty(folder: Path) -> None:
    (folder / _PLAN).unlink(missing_ok=True)  # first, so that no run goes on with what is half removed
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


@dataclass(frozen=True)
class _Whole:
    """A task whose folder appears when it is complete."""

    folder: Path
    action: Callable[[Path], None]

    def __call__(self) -> None:
        writing = self.folder.with_name(self.folder.name + ".writing")
        shutil.rmtree(writing, ignore_errors=True)
        writing.mkdir()
        self.action(writing)
        writing.rename(self.folder)
