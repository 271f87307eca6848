"""A work folder in an object store, for workers that share no disk.

A task runs on a folder of its own machine. Its files are put below RUN/STAGE/NUMBER/ of the work folder, and then
RUN/STAGE/NUMBER.done, which says that they are whole. A task that runs twice writes the same bytes. Its arguments name files by
paths below the root of the mirror, which each machine has for itself: readers fetch what they need (mirror.py).

RUN is a random name, which plan.json holds: what a command that lost the folder still writes is never taken for that of its
successor. The mark names the command that owns the folder (remote_claim.py), which reads it before each step.
"""

import hashlib
import io
import json
import pickle
import re
import secrets
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
from home_dist.files.places import join, without_secrets
from home_dist.files.private import is_full, no_room, private_folder
from home_dist.files.remote import StoreError
from home_dist.files.remote_claim import claimed, refuse_taken, remove_claimed
from home_dist.files.whole import MARK
from home_dist.prepare.engine.engines import Engine
from home_dist.prepare.engine.mirror import Mirror, mirrored, on_node
from home_dist.prepare.engine.work import Task, Work
from home_dist.prepare.progress import Progress

_PLAN, _DONE, _GIVEN = "plan.json", ".done", "given"
_USE = "work"
_RUN = re.compile("[0-9a-f]{16}")


class RemoteWork(Work):
    def __init__(self, place: str, fingerprint: dict[str, Any], engine: Engine, progress: Progress):
        """place: URL of the work folder. The rest as Work has it. Raises DataError while another command works in the folder,
        and if it holds something that home_dist did not make, StoreError."""
        wanted = json.loads(json_text(fingerprint))
        self._place, self._engine, self.progress, self._fingerprint = place, engine, progress, wanted
        self._stages: set[str] = set()
        self._there: set[str] = set()
        self._open = ExitStack()
        try:
            self._claim = self._open.enter_context(claimed(place, _USE, _in_the_way(place)))
            plan = self._plan()
            self.goes_on = plan.get("fingerprint") == wanted
            self._chosen = plan["chosen"] if self.goes_on else {}
            self._run = plan["run"] if self.goes_on else secrets.token_hex(8)
            self._files = join(place, self._run)
            self.folder = _root(self._run)
            shutil.rmtree(self.folder, ignore_errors=True)  # of an interrupted run; what is needed is fetched again
            self.folder.mkdir(parents=True)
            self._open.enter_context(mirrored(Mirror(self.folder, self._files)))
            if not self.goes_on:
                remote.empty(place, keep=MARK)
                if plan:
                    engine.everywhere(_Forget(plan["run"]))
            self._save()
            self._refreshed = self._open.enter_context(ExitStack())
            self._refreshed.enter_context(self._claim.refreshed())
        except BaseException:
            self._open.close()
            raise

    def __str__(self) -> str:
        return without_secrets(self._place)

    def _plan(self) -> dict[str, Any]:
        """Empty if there is no readable one."""
        try:
            tree = json.loads(remote.read_bytes(join(self._place, _PLAN)) or b"{}")
        except ValueError:
            return {}
        whole = isinstance(tree, dict) and isinstance(tree.get("chosen"), dict) and _RUN.fullmatch(str(tree.get("run")))
        return tree if whole else {}

    def _save(self) -> None:
        tree = {"fingerprint": self._fingerprint, "chosen": self._chosen, "run": self._run}
        self._claim.check()
        remote.put_bytes(json_text(tree).encode(), join(self._place, _PLAN))

    def run(self, stage: str, title: str, tasks: Sequence[Task], unit: str = "rows") -> list[Path]:
        self._claim.check()
        self._stages.add(stage)
        folders = [self.folder / stage / f"{number:05d}" for number in range(len(tasks))]
        below = join(self._files, stage)
        done = {n.removesuffix(_DONE) for n in remote.names_below(below) if n.endswith(_DONE)} if self.goes_on else set()
        open_ = [n for n, f in enumerate(folders) if f.name not in done]
        finished_rows = sum(t.rows for t in tasks) - sum(tasks[n].rows for n in open_)
        actions = [
            _OnNode(self._place, self._claim.owner, self._run, stage, folders[n].name, self._packed(tasks[n].action))
            for n in open_
        ]
        with self.progress.step(title, sum(t.rows for t in tasks), finished_rows, unit) as advance:
            try:
                for finished in self._engine.run(actions):
                    advance(tasks[open_[finished]].rows)
            except (remote.Gone, OSError):
                with suppress(StoreError):
                    self._claim.check()  # that the folder was taken says more than which file is missing
                raise
        self._claim.check()
        return folders

    def place_of(self, path: Path) -> str:
        """URL of a file of the work folder."""
        return Mirror(self.folder, self._files).place_of(path)

    def drop(self, stage: str) -> None:
        self._claim.check()
        below = join(self._files, stage)
        for name in remote.names_below(below):
            if name.endswith(".arrow"):
                remote.remove_file(join(below, name))

    def remove(self) -> None:
        self._refreshed.close()  # first, so that the mark is not written again
        with suppress(DataError):
            if self._claim.is_own():
                remove_claimed(self._place)
        self._engine.everywhere(_Forget(self._run))
        with suppress(OSError):
            shutil.rmtree(self.folder)

    def close(self) -> None:
        self._open.close()

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
            self._claim.check()
            remote.put(path, join(self._files, name))
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

    place: str
    owner: str
    run: str
    stage: str
    name: str
    packed: bytes

    def __call__(self) -> None:
        try:
            self._perform()
        except OSError as error:
            if is_full(error):
                raise no_room(error) from None
            raise

    def _perform(self) -> None:
        root, files = _root(self.run), join(self.place, self.run)
        below = join(files, self.stage)
        root.mkdir(parents=True, exist_ok=True)
        with mirrored(Mirror(root, files)), tempfile.TemporaryDirectory(dir=root, prefix="task-") as folder:
            pickle.loads(self.packed)(Path(folder))
            paths = sorted(p for p in Path(folder).rglob("*") if p.is_file())
            refuse_taken(self.place, self.owner)
            for path in paths:
                remote.put(path, join(below, f"{self.name}/{path.relative_to(folder).as_posix()}"))
        refuse_taken(self.place, self.owner)
        remote.put_bytes(json_text([p.name for p in paths]).encode(), join(below, self.name + _DONE))


@dataclass(frozen=True)
class _Forget:
    """Removes what a machine holds of a work folder."""

    run: str

    def __call__(self) -> None:
        shutil.rmtree(_root(self.run), ignore_errors=True)


def _root(run: str) -> Path:
    return private_folder() / f"prepare-{run}"


def remove_left(place: str) -> None:
    """Removes a work folder of ours whose output is whole, unless a command is at work there."""
    with suppress(DataError, OSError):
        if remote.names_below(place):
            with claimed(place, _USE, _in_the_way(place)):
                remove_claimed(place)


def _in_the_way(place: str) -> DataError:
    return DataError(
        f"{without_secrets(place)} is in the way: it holds files, but no {MARK} of a work folder of ours. Move it away, or "
        "give another --work."
    )
