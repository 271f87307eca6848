"""Starts Python programs as subprocess does, without what an import of torch takes: tests/fork_server.py forks for each.

popen() and run() stand for subprocess.Popen and subprocess.run. What cannot be forked is started by subprocess: another
program than Python, an option of Python's but -W, and an environment that libraries read while they are loaded.
"""

import atexit
import fcntl
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.fork_server import LENGTH

REPOSITORY = Path(__file__).parent.parent
FOLDER = "HOME_DIST_FORK_SERVERS"
"""Environment variable: where the servers of this test run listen."""
SERVERS = 2
"""Their hashes of texts differ, so that ranks of a job go through a set in different orders."""
PATIENCE = 180.0
"""Seconds that a server may take for its imports and a fork."""
_READ_EARLY = ("OMP_", "GOMP_", "MKL_", "OPENBLAS_", "BLIS_", "LD_", "LC_", "LANG", "PYTHON", "TRITON_", "ATEN_")
_READ_EARLY += ("FBGEMM_", "TORCH_LOGS", "TORCH_SHOW", "PYTORCH_", "MALLOC_", "GLIBC_")
_READ_LATE = {"PYTHONUNBUFFERED", "PYTHONPATH", "GOMP_SPINCOUNT"}
"""The server heeds the first two. The third is set by home_dist.process.prepare(), in the server as well."""


class Forked(subprocess.Popen):
    """A program whose process a server has forked: the parent is the server, which tells how it ended."""

    def __init__(self, command: Sequence[str], request: dict, number: int, **options: Any):
        self._request, self._number = request, number
        super().__init__(command, **options)

    def _execute_child(self, *given: Any) -> None:
        """Called by Popen with the pipes that it has made."""
        p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite = given[10:16]
        try:
            self._connection = socket.socket(socket.AF_UNIX)
            self._connection.settimeout(PATIENCE)
            self._connection.connect(str(_path(self._number)))
            text = json.dumps(self._request).encode()
            pipes = [own if own != -1 else standard for standard, own in enumerate((p2cread, c2pwrite, errwrite))]
            socket.send_fds(self._connection, [len(text).to_bytes(LENGTH, "little")], pipes)
            self._connection.sendall(text)
            self.pid = self._told()
            self._child_created = True
        finally:
            self._close_pipe_fds(p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite)

    def _told(self) -> int:
        number = self._connection.recv(LENGTH, socket.MSG_WAITALL)
        if len(number) != LENGTH:
            raise RuntimeError(f"the fork server is gone: {_log(self._number).read_text()}")
        return int.from_bytes(number, "little")

    def _try_wait(self, flags: int) -> tuple[int, int]:
        self._connection.settimeout(0 if flags & os.WNOHANG else None)
        try:
            status = self._told()
        except BlockingIOError:
            return 0, 0
        self._connection.close()
        return self.pid, status

    def _internal_poll(self, _deadstate: int | None = None, **_: Any) -> int | None:
        if self.returncode is None and self._waitpid_lock.acquire(False):
            try:
                pid, status = self._try_wait(os.WNOHANG) if self.returncode is None else (0, 0)
                if pid:
                    self._handle_exitstatus(status)
            finally:
                self._waitpid_lock.release()
        return self.returncode


def popen(command: Sequence[str], rank: int = 0, **options: Any) -> subprocess.Popen:
    """subprocess.Popen. rank: ranks next to each other get different servers."""
    request = _request(list(command), options)
    if request is None or not _servers_are_there():
        return subprocess.Popen(command, **options)
    forked = {k: v for k, v in options.items() if k not in ("cwd", "env", "start_new_session")}
    return Forked(command, request, rank % SERVERS, **forked)


def run(
    command: Sequence[str], capture_output: bool = False, timeout: float | None = None, check: bool = False, **options: Any
):
    """subprocess.run."""
    if capture_output:
        options |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with popen(command, **options) as process:
        try:
            out, err = process.communicate(timeout=timeout)
        except BaseException:
            process.kill()
            raise
    ended = subprocess.CompletedProcess(command, process.returncode, out, err)
    if check:
        ended.check_returncode()
    return ended


def begin() -> None:
    """For the process that leads the test run, before it starts others."""
    folder = tempfile.mkdtemp(prefix="home-dist-")
    os.environ[FOLDER] = folder
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    (Path(folder) / "owner").write_text(str(os.getpid()))
    (Path(folder) / "environment").write_text(json.dumps(dict(os.environ)))


def _request(command: list[str], options: dict[str, Any]) -> dict | None:
    """What a server is asked for; None where subprocess has to start it."""
    if FOLDER not in os.environ or not hasattr(os, "pidfd_open") or Path("/dev/nvidiactl").exists():
        return None  # a process that has looked for a GPU is none to fork from
    environment = {**(options.get("env") or os.environ)}
    known = {"stdin", "stdout", "stderr", "text", "cwd", "env", "start_new_session"}
    if command[0] != sys.executable or options.keys() - known or _early(environment) != _early(_environment()):
        return None
    left, actions = command[1:], []
    while left[:1] == ["-W"] and len(left) > 2:
        actions.append(left[1])
        left = left[2:]
    if not left or set(actions) - {"ignore"}:
        return None
    kind = left.pop(0) if left[0] in ("-m", "-c") else ""
    if not left or left[0].startswith("-"):
        return None
    cwd = os.path.abspath(options.get("cwd") or os.getcwd())
    return {
        **{"kind": kind, "what": left[0], "arguments": left[1:], "warnings": actions},
        **{"cwd": cwd, "environment": environment},
    }


def _early(environment: dict[str, str]) -> dict[str, str]:
    return {k: v for k, v in environment.items() if k.startswith(_READ_EARLY) and k not in _READ_LATE}


def _environment() -> dict[str, str]:
    """As the test run began; that of the servers."""
    return json.loads((Path(os.environ[FOLDER]) / "environment").read_text())


def _path(number: int) -> Path:
    return Path(os.environ[FOLDER]) / f"{number}.socket"


def _log(number: int) -> Path:
    return Path(os.environ[FOLDER]) / f"{number}.log"


def _servers_are_there() -> bool:
    """Starts them where no test of the run has done so: all of them, as ranks of a job do not wait long for others.

    Where that fails, programs are started by subprocess for the rest of the run; tests/test_forked.py fails and tells why.
    """
    folder = Path(os.environ[FOLDER])
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        missing = [n for n in range(SERVERS) if not _path(n).exists()]
        if not missing or (folder / "failed").exists():
            return not missing
        processes = [_start_server(n) for n in missing]
        deadline = time.monotonic() + PATIENCE
        while not all(_path(n).exists() for n in missing):
            if any(p.poll() is not None for p in processes) or time.monotonic() > deadline:
                for process in processes:
                    process.kill()
                    process.wait(20)
                (folder / "failed").touch()
                return False
            time.sleep(0.01)
    return True


def _start_server(number: int) -> subprocess.Popen:
    owner = (Path(os.environ[FOLDER]) / "owner").read_text()
    command = [sys.executable, "-m", "tests.fork_server", str(_path(number)), owner]
    with _log(number).open("w") as log:
        pipes = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": subprocess.STDOUT}
        return subprocess.Popen(command, cwd=REPOSITORY, env=_environment(), start_new_session=True, **pipes)
