"""The work folder of a run. It holds a folder per finished task, so that a killed run resumes at its unfinished tasks."""

import json
import shutil
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from home_dist.errors import DataError, UserError
from home_dist.files.json_files import json_text, read_json, write_json
from home_dist.files.lock import locked
from home_dist.files.whole import MARK, empty_folder, is_ours, mark_folder, refuse_foreign
from home_dist.prepare.engine.engines import Engine
from home_dist.prepare.progress import Progress

_PLAN, _DONE = "plan.json", "done"
_SPILL = "*.arrow"


@dataclass(frozen=True)
class Task:
    """action(folder) writes the task's files into the folder; they must depend on nothing but its arguments."""

    action: Callable[[Path], None]
    rows: int
    """Size for the progress bar, in the stage's unit."""


class Work:
    """Stages, one after the other; each is a list of tasks that may run in any order."""

    def __init__(self, folder: Path, fingerprint: dict[str, Any], engine: Engine, progress: Progress):
        """fingerprint: all that the tasks depend on; a folder with another fingerprint is emptied first. Raises DataError while
        another run works in the folder, and if the folder holds something that home_dist did not make."""
        self.folder, self._engine, self.progress = folder, engine, progress
        wanted = json.loads(json_text(fingerprint))
        plan = _plan_of(folder)
        if not plan:  # folders of older versions have a plan, but no mark
            refuse_foreign(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = ExitStack()
        busy = DataError(f"{folder}: another run is at work there. Wait for it, or choose another folder to write to.")
        if not is_ours(folder):
            mark_folder(folder, folder.with_suffix(""))
        self._lock.enter_context(locked(folder / MARK, busy))
        self.goes_on = plan.get("fingerprint") == wanted
        self._chosen: dict[str, int] = plan.get("chosen", {}) if self.goes_on else {}
        self._fingerprint = wanted
        if not self.goes_on:
            _empty(folder)
        self._save()

    def __str__(self) -> str:
        """For messages."""
        return str(self.folder)

    def _save(self) -> None:
        write_json(self.folder / _PLAN, {"fingerprint": self._fingerprint, "chosen": self._chosen})

    def choose(self, name: str, value: int) -> int:
        """The value that this folder began with: for a number that tasks depend on, but not their result (as partitions)."""
        if name not in self._chosen:
            self._chosen[name] = value
            self._save()
        return self._chosen[name]

    def run(self, stage: str, title: str, tasks: Sequence[Task], unit: str = "rows") -> list[Path]:
        """Runs the tasks whose folders are missing, and returns the folders of all."""
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
        """Frees disk: removes the tables that a finished stage left for later ones. Its small files stay."""
        for path in (self.folder / stage).glob(f"*/{_SPILL}"):
            path.unlink()

    def remove(self) -> None:
        with suppress(OSError):
            _empty(self.folder)
            (self.folder / MARK).unlink()
            self.folder.rmdir()

    def close(self) -> None:
        self._lock.close()


def _plan_of(folder: Path) -> dict[str, Any]:
    """The folder's plan; empty if there is no readable one."""
    try:
        tree = read_json(folder / _PLAN, "")
    except UserError:
        return {}
    return tree if isinstance(tree.get("fingerprint"), dict) and isinstance(tree.get("chosen"), dict) else {}


def _empty(folder: Path) -> None:
    """Removes all but the mark."""
    (folder / _PLAN).unlink(missing_ok=True)  # first, so that no run resumes from a half-removed folder
    empty_folder(folder)


@dataclass(frozen=True)
class _Whole:
    """Runs a task so that its folder appears only when complete."""

    folder: Path
    action: Callable[[Path], None]

    def __call__(self) -> None:
        writing = self.folder.with_name(self.folder.name + ".writing")
        shutil.rmtree(writing, ignore_errors=True)
        writing.mkdir()
        self.action(writing)
        writing.rename(self.folder)
