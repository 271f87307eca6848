"""A work folder in an object store, for workers that share no disk.

A task runs on a folder of its own machine. Its files are put below STAGE/NUMBER/ of the work folder, and then
STAGE/NUMBER.done, which says that they are whole. A task that runs twice writes the same bytes. Its arguments name files by
paths below the root of the mirror, which each machine has for itself: readers fetch what they need (mirror.py).
"""

import hashlib
import io
import json
import pickle
import shutil
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from home_dist.errors import DataError
from home_dist.files import remote
from home_dist.files.json_files import json_text
from home_dist.files.lock import locked
from home_dist.files.private import private_folder
from home_dist.files.stores import join, without_secrets
from home_dist.files.whole import MARK, mark_folder, refuse_foreign
from home_dist.prepare.engine.engines import Engine
from home_dist.prepare.engine.mirror import Mirror, mirrored, on_node
from home_dist.prepare.engine.work import Task, Work
from home_dist.prepare.progress import Progress

_PLAN, _DONE, _GIVEN = "plan.json", ".done", "given"


class RemoteWork(Work):
    def __init__(self, place: str, fingerprint: dict[str, Any], engine: Engine, progress: Progress):
        """place: URL of the work folder. The rest as Work has it. Raises StoreError."""
        wanted = json.loads(json_text(fingerprint))
        self.place, self._engine, self.progress, self._fingerprint = place, engine, progress, wanted
        self._key = hashlib.sha256(json_text([without_secrets(place), wanted]).encode()).hexdigest()[:16]
        self._stages: set[str] = set()
        self._there: set[str] = set()
        plan = self._plan()
        self.goes_on = plan.get("fingerprint") == wanted
        self._chosen = plan.get("chosen", {}) if self.goes_on else {}
        self.folder = _root(self._key)
        refuse_foreign(self.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        mark_folder(self.folder, self.folder)
        self._lock = ExitStack()
        busy = DataError(f"{without_secrets(place)}: another run of this machine is at work there. Wait for it.")
        self._lock.enter_context(locked(self.folder / MARK, busy))
        self._lock.enter_context(mirrored(Mirror(self.folder, place)))
        for path in self.folder.iterdir():  # it may be of an interrupted run; what is needed is fetched again
            if path.name != MARK:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        if not self.goes_on:
            remote.remove_below(place)
        self._save()

    def __str__(self) -> str:
        return without_secrets(self.place)

    def _plan(self) -> dict[str, Any]:
        """Raises DataError when something is there that home_dist did not make."""
        content = remote.read_bytes(join(self.place, _PLAN))
        if content is None:
            if remote.names_below(self.place):
                raise DataError(
                    f"{without_secrets(self.place)} is in the way: it holds files, but no {_PLAN} of ours. Move it away, or "
                    "give another --work."
                )
            return {}
        try:
            tree = json.loads(content)
        except ValueError:
            return {}
        return tree if isinstance(tree, dict) and isinstance(tree.get("chosen"), dict) else {}

    def _save(self) -> None:
        tree = {"fingerprint": self._fingerprint, "chosen": self._chosen}
        remote.put_bytes(json_text(tree).encode(), join(self.place, _PLAN))

    def run(self, stage: str, title: str, tasks: Sequence[Task], unit: str = "rows") -> list[Path]:
        self._stages.add(stage)
        folders = [self.folder / stage / f"{number:05d}" for number in range(len(tasks))]
        below = join(self.place, stage)
        done = {n.removesuffix(_DONE) for n in remote.names_below(below) if n.endswith(_DONE)} if self.goes_on else set()
        open_ = [n for n, f in enumerate(folders) if f.name not in done]
        finished_rows = sum(t.rows for t in tasks) - sum(tasks[n].rows for n in open_)
        actions = [_OnNode(self._key, self.place, stage, folders[n].name, self._packed(tasks[n].action)) for n in open_]
        with self.progress.step(title, sum(t.rows for t in tasks), finished_rows, unit) as advance:
            for finished in self._engine.run(actions):
                advance(tasks[open_[finished]].rows)
        return folders

    def place_of(self, path: Path) -> str:
        """URL of a file of the work folder."""
        return Mirror(self.folder, self.place).place_of(path)

    def drop(self, stage: str) -> None:
        below = join(self.place, stage)
        for name in remote.names_below(below):
            if name.endswith(".arrow"):
                remote.remove_file(join(below, name))

    def remove(self) -> None:
        with suppress(DataError):
            remote.remove_below(self.place)
        self._engine.everywhere(_Forget(self._key))
        with suppress(OSError):
            shutil.rmtree(self.folder)

    def close(self) -> None:
        self._lock.close()

    def _packed(self, action: Callable[[Path], None]) -> bytes:
        buffer = io.BytesIO()
        _Packer(buffer, self).dump(action)
        return buffer.getvalue()

    def named(self, path: Path) -> str:
        """The name in the work folder of a file that a task is given. What only this machine has is put there first."""
        if path.is_relative_to(self.folder):
            name = path.relative_to(self.folder).as_posix()
            if name.split("/")[0] in self._stages:
                return name
        else:
            name = f"{_GIVEN}/{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]}/{path.name}"
        if name not in self._there:
            remote.put(path, join(self.place, name))
            self._there.add(name)
        return name


class _Packer(pickle.Pickler):
    """Writes paths as names in the work folder."""

    def __init__(self, file: io.BytesIO, work: RemoteWork):
        super().__init__(file, protocol=pickle.HIGHEST_PROTOCOL)
        self._work = work

    def reducer_override(self, value: Any) -> Any:
        return (on_node, (self._work.named(value),)) if isinstance(value, Path) else NotImplemented


@dataclass(frozen=True)
class _OnNode:
    """Runs a task on a folder of this machine, and puts its files into the work folder."""

    key: str
    place: str
    stage: str
    name: str
    packed: bytes

    def __call__(self) -> None:
        root, below = _root(self.key), join(self.place, self.stage)
        root.mkdir(parents=True, exist_ok=True)
        if not (root / MARK).exists():
            mark_folder(root, root)
        with mirrored(Mirror(root, self.place)), tempfile.TemporaryDirectory(dir=root, prefix="task-") as folder:
            pickle.loads(self.packed)(Path(folder))
            paths = sorted(p for p in Path(folder).rglob("*") if p.is_file())
            for path in paths:
                remote.put(path, join(below, f"{self.name}/{path.relative_to(folder).as_posix()}"))
        remote.put_bytes(json_text([p.name for p in paths]).encode(), join(below, self.name + _DONE))


@dataclass(frozen=True)
class _Forget:
    """Removes what a machine holds of a work folder."""

    key: str

    def __call__(self) -> None:
        shutil.rmtree(_root(self.key), ignore_errors=True)


def _root(key: str) -> Path:
    return private_folder() / f"prepare-{key}"
