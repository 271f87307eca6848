"""A process that has imported torch and what goes with it, and forks for each program that a test asks for.

    python -m tests.fork_server SOCKET OWNER      (tests/forked.py starts it)

It only imports. It never computes, so that no thread of OpenMP or gloo is there that a fork would lose. A program gets the
pipes, folder, environment, exit code and end of a process of its own. It ends with its connection: when the test that asked
for it is gone, or the server. OWNER is the process id of the test run, with which the server ends.
"""

import contextlib
import gc
import importlib
import io
import json
import os
import random
import runpy
import selectors
import signal
import socket
import sys
import types
import warnings
from collections.abc import Callable
from pathlib import Path

IMPORTED = ("torch.distributed.run", "torch.distributed.optim", "torch.utils.tensorboard", "torchrec", "pandas")
IMPORTED += ("home_dist.training.train", "home_dist.training.evaluate", "home_dist.models.home")
SURVIVES = {"jemalloc_bg_thd"}
"""A thread of pyarrow's allocator, which starts another one in a child."""
LENGTH = 8
"""Bytes of the number that goes before a request, and of each number that is answered."""


def serve(path: str, owner: int) -> Callable[[], None]:
    """Returns in each child, with what the child is to do. In the server it does not return."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path + ".new")
    listener.listen(100)
    _import()
    threads = [
        (task / "comm").read_text().strip() for task in Path("/proc/self/task").iterdir() if task.name != str(os.getpid())
    ]
    if set(threads) - SURVIVES:
        sys.exit(f"threads {', '.join(threads)}: a fork would lose them")
    os.rename(path + ".new", path)  # whoever finds it can connect
    waiting = selectors.DefaultSelector()
    owner_gone = os.pidfd_open(owner)
    waiting.register(owner_gone, selectors.EVENT_READ)
    waiting.register(listener, selectors.EVENT_READ)
    children: dict[int, int] = {}  # a descriptor that tells of the child's end, and the child
    connections: dict[socket.socket, int] = {}
    gc.collect()
    gc.freeze()
    while True:
        for key, _ in waiting.select():
            what = key.fileobj
            if what is listener:
                connection = listener.accept()[0]
                try:
                    request, pipes = _receive(connection)
                except (OSError, ValueError):
                    connection.close()
                    continue
                pid = os.fork()
                if pid == 0:
                    waiting.close()
                    for number in (owner_gone, *children):
                        os.close(number)
                    for mine in (listener, connection, *connections):
                        mine.close()
                    return _become(request, pipes)
                for pipe in pipes:
                    os.close(pipe)
                end = os.pidfd_open(pid)
                children[end], connections[connection] = pid, pid
                waiting.register(end, selectors.EVENT_READ)
                waiting.register(connection, selectors.EVENT_READ)
                _answer(connection, pid)
            elif what in connections:
                # Whoever asked for this child has heard of its end, or is gone. Until then its number is not given to another.
                waiting.unregister(what)
                what.close()
                pid = connections.pop(what)
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            elif what in children:
                waiting.unregister(what)
                os.close(what)
                pid = children.pop(what)
                for connection in (c for c, p in connections.items() if p == pid):
                    _answer(connection, _status(pid))
            elif what == owner_gone:
                for pid in connections.values():
                    os.kill(pid, signal.SIGKILL)
                sys.exit()


def _import() -> None:
    """What a program imports before it begins with its own work: but for home_dist.cli, which is run, not imported."""
    from home_dist import process

    before = dict(os.environ)
    process.prepare()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in IMPORTED:
            importlib.import_module(name)
    os.environ.clear()
    os.environ.update(before)


def _status(pid: int) -> int:
    """As waitpid() tells it, of a child that stays a zombie."""
    end = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    dumped = 128 if end.si_code == os.CLD_DUMPED else 0
    return end.si_status << 8 if end.si_code == os.CLD_EXITED else end.si_status | dumped


def _answer(connection: socket.socket, number: int) -> None:
    with contextlib.suppress(OSError):
        connection.sendall(number.to_bytes(LENGTH, "little"))


def _receive(connection: socket.socket) -> tuple[dict, list[int]]:
    connection.settimeout(10)
    head, pipes, _, _ = socket.recv_fds(connection, LENGTH, 3)
    left = int.from_bytes(head, "little")
    parts = []
    while left:
        parts.append(connection.recv(left))
        if not parts[-1]:
            raise ValueError("half a request")
        left -= len(parts[-1])
    connection.settimeout(None)
    if len(pipes) != 3:
        raise ValueError("a request comes with three pipes")
    return json.loads(b"".join(parts)), pipes


def _become(request: dict, pipes: list[int]) -> Callable[[], None]:
    os.setsid()
    for number, pipe in enumerate(pipes):
        os.dup2(pipe, number)
    for pipe in pipes:
        os.close(pipe)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.stdin = sys.__stdin__ = open(0, closefd=False)  # noqa: SIM115
    sys.stdout = sys.__stdout__ = _writes_to(1)
    sys.stderr = sys.__stderr__ = _writes_to(2)
    # Each process draws of its own, as one that was started anew.
    random.seed()
    sys.modules["numpy"].random.seed()
    for action in request["warnings"]:
        warnings.simplefilter(action)
    kind, what = request["kind"], request["what"]
    sys.argv = ["-c" if kind == "-c" else what, *request["arguments"]]
    sys.path[0] = {"-m": os.getcwd(), "-c": "", "": os.path.dirname(os.path.abspath(what))}[kind]
    sys.path[1:1] = [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p and p not in sys.path]
    return {"-m": _module, "-c": _code, "": _script}[kind](what)


def _writes_to(number: int) -> io.TextIOWrapper:
    unbuffered = bool(os.environ.get("PYTHONUNBUFFERED"))
    raw = open(number, "wb", 0 if unbuffered else -1, closefd=False)  # noqa: SIM115
    errors = "backslashreplace" if number == 2 else "strict"
    return io.TextIOWrapper(raw, errors=errors, write_through=unbuffered, line_buffering=number == 2 or os.isatty(number))


def _module(name: str) -> Callable[[], None]:
    def body() -> None:
        sys.modules.pop(name, None)
        sys.modules["__main__"] = types.ModuleType("__main__")
        runpy._run_module_as_main(name)  # what `python -m` does

    return body


def _code(text: str) -> Callable[[], None]:
    def body() -> None:
        main = sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(text, "<string>", "exec"), main.__dict__)

    return body


def _script(path: str) -> Callable[[], None]:
    def body() -> None:
        main = sys.modules["__main__"] = types.ModuleType("__main__")
        main.__file__ = path
        with open(path, "rb") as file:
            exec(compile(file.read(), path, "exec"), main.__dict__)

    return body


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]))()
