"""Jobs of two ranks that faults are done to: see faults.py.

Everything is imported once; launchers and ranks are forks of this process, so that a job takes a second or two. A launcher ends
the other ranks when one has failed, as torchrun does. Ranks do what `home-dist train` does.
"""

import os
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from home_dist.cli.command import run_to_end
from home_dist.config import load_config
from home_dist.distributed import ranks
from home_dist.training.checkpoint import loading, saver
from home_dist.training.train import train

RANKS = 2
Act = Callable[[], None]

# Where a fault may strike within a rank: what is called there, around which the fault is done.
POINTS: dict[str, tuple[Any, str]] = {
    "a step": (saver.Saver, "check"),
    "the copy": (saver.Saver, "_copied"),
    "the start of a save": (saver.Saver, "_begin"),
    "the shards": (saver, "write_pieces"),
    "the hashes": (saver, "_own_files"),
    "the manifest": (saver, "write_manifest"),
    "the last rename": (saver, "sync"),
    "the removal of old ones": (saver.Checkpoints, "prune"),
    "verification": (loading, "_verify_share"),
    "the load": (loading, "_fill"),
}


@dataclass(frozen=True)
class Fault:
    """Done by `rank` when it has come to `point` for the `nth` time."""

    point: str
    nth: int
    rank: int
    act: Act
    before: bool = True


@dataclass
class Job:
    """A started job, and how it ended."""

    launcher: int
    log: Path
    marks: Path
    began: float = field(default_factory=time.monotonic)
    code: int | None = None

    def wait(self, timeout: float) -> int:
        """The launcher's exit code, negative for a signal; ranks that outlive their launcher are waited for as well."""
        deadline = time.monotonic() + timeout
        while self.code is None:
            done, status = os.waitpid(self.launcher, os.WNOHANG)
            if done:
                self.code = os.waitstatus_to_exitcode(status)
            elif time.monotonic() > deadline:
                self.kill_all()
                raise TimeoutError(f"the job hangs; its output: {self.log}")
            time.sleep(0.01)
        while any(_alive(pid) for pid in self.pids()):
            if time.monotonic() > deadline:
                self.kill_all()
                raise TimeoutError(f"ranks outlive their launcher for too long; their output: {self.log}")
            time.sleep(0.01)
        return self.code

    def pids(self) -> list[int]:
        return [int(p.read_text()) for p in self.marks.glob("pid-*")]

    def kill_all(self) -> None:
        for pid in (self.launcher, *self.pids()):
            if _alive(pid):
                os.kill(pid, signal.SIGKILL)

    def seconds_to_first_step(self) -> float | None:
        mark = self.marks / "first_step"
        return float(mark.read_text()) - self.began if mark.is_file() else None


def start(config: Path, overrides: list[str], folder: Path, fault: Fault | None = None) -> Job:
    """folder: takes the job's output and marks."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    launcher = os.fork()
    if not launcher:
        _launch(config, overrides, folder, fault)
    return Job(launcher, folder / "output.txt", folder)


def _launch(config: Path, overrides: list[str], folder: Path, fault: Fault | None) -> NoReturn:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    started = {}
    for rank in range(RANKS):
        pid = os.fork()
        if not pid:
            _rank(rank, port, config, overrides, folder, fault)
        started[pid] = rank
        (folder / f"pid-{rank}").write_text(str(pid))
    signal.signal(signal.SIGTERM, lambda *_: [os.kill(pid, signal.SIGTERM) for pid in started if _alive(pid)])
    worst, deadline = 0, float("inf")
    while started:
        done, status = os.waitpid(-1, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(status)
            started.pop(done)
            worst = worst or code
            if code and deadline == float("inf"):
                deadline = time.monotonic() + 2  # the others notice by themselves; torchrun ends them too
        elif time.monotonic() > deadline:
            for pid in started:
                os.kill(pid, signal.SIGKILL)
            deadline = float("inf")
        time.sleep(0.005)
    os._exit(worst if worst >= 0 else 128 - worst)


def _rank(rank: int, port: int, config: Path, overrides: list[str], folder: Path, fault: Fault | None) -> NoReturn:
    output = os.open(folder / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    variables = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": RANKS, "LOCAL_WORLD_SIZE": RANKS, "MASTER_PORT": port}
    os.environ |= {k: str(v) for k, v in variables.items()} | {"MASTER_ADDR": "127.0.0.1"}
    if rank == 0:
        _mark_first_step(folder / "first_step")
    if fault is not None and fault.rank == rank:
        install(fault)
    try:
        run_to_end(lambda: _body(config, overrides))
        os._exit(0)
    except BaseException:
        import traceback

        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)


def _body(config: Path, overrides: list[str]) -> None:
    settings = load_config(config, overrides)
    train(settings, ranks.form_ranks(settings.distributed))


def _mark_first_step(path: Path) -> None:
    plain = saver.Saver.check

    def check(self: saver.Saver) -> None:
        if not path.exists():
            path.write_text(str(time.monotonic()))
        plain(self)

    saver.Saver.check = check  # type: ignore[method-assign]


def install(fault: Fault) -> None:
    owner, name = POINTS[fault.point]
    plain, lock, calls = getattr(owner, name), threading.Lock(), [0]

    def around(*args: Any, **named: Any) -> Any:
        with lock:
            calls[0] += 1
            now = calls[0] == fault.nth
        if now and fault.before:
            fault.act()
        found = plain(*args, **named)
        if now and not fault.before:
            fault.act()
        return found

    setattr(owner, name, around)


def _alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
