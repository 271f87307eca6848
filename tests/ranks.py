"""Runs home-dist as several ranks, each a process of its own whose exit code and output a test can see."""

import contextlib
import os
import pickle
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from tests.forked import REPOSITORY, popen

__all__ = ["REPOSITORY"]


@dataclass(frozen=True)
class Ended:
    codes: list[int]
    outputs: list[str]

    @property
    def text(self) -> str:
        return "\n".join(self.outputs)

    def losses(self) -> dict[int, str]:
        """step -> loss, as the first rank printed them."""
        return {int(s): loss for s, loss in re.findall(r"step +(\d+)/.*?loss ([\d.]+)", self.outputs[0])}


def environment(
    rank: int, started: int, port: int, world_size: int | None = None, per_host: int | Sequence[int] | None = None
) -> dict[str, str]:
    """per_host: ranks that are told to share a host, of each or of all hosts; by default all share one."""
    if isinstance(per_host, Sequence):
        before = [sum(per_host[:host]) for host in range(len(per_host))]
        host = max(host for host, first in enumerate(before) if first <= rank)
        local, per_host = rank - before[host], per_host[host]
    else:
        per_host = per_host or started
        local = rank % per_host
    variables = {
        "RANK": rank,
        "LOCAL_RANK": local,
        "WORLD_SIZE": world_size or started,
        "LOCAL_WORLD_SIZE": per_host,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "OMP_NUM_THREADS": 1,
        "PYTHONUNBUFFERED": 1,
    }
    return {**os.environ, **{k: str(v) for k, v in variables.items()}}


def start(
    ranks: int,
    *args: object,
    world_size: int | None = None,
    module: str = "home_dist.cli",
    per_host: int | Sequence[int] | None = None,
) -> list[subprocess.Popen[str]]:
    """Starts `python -m module args` on each rank."""
    port = free_port()
    command = [sys.executable, "-m", module, *map(str, args)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "cwd": REPOSITORY}
    return [popen(command, r, env=environment(r, ranks, port, world_size, per_host), **pipes) for r in range(ranks)]


def finish(processes: list[subprocess.Popen[str]], timeout: float = 120) -> Ended:
    """Waits for all; a rank that outlives the timeout is a hang, and fails the test. Reads all at once: a rank whose pipe is
    full waits, and the others with it."""
    try:
        with ThreadPoolExecutor(len(processes)) as pool:
            outputs = list(pool.map(lambda p: p.communicate(timeout=timeout)[0], processes))
    finally:
        for process in processes:
            process.kill()
    return Ended([p.returncode for p in processes], outputs)


def run(
    ranks: int,
    *args: object,
    world_size: int | None = None,
    timeout: float = 120,
    per_host: int | Sequence[int] | None = None,
) -> Ended:
    return finish(start(ranks, *args, world_size=world_size, per_host=per_host), timeout)


def run_module(ranks: int, module: str, *args: object, timeout: float = 400, per_host: int | None = None) -> Ended:
    """A module of the tests on each rank; all must end well."""
    ended = finish(start(ranks, *args, module=module, per_host=per_host), timeout)
    assert ended.codes == [0] * ranks, ended.text
    return ended


def spawn(function: Callable[..., None], world: int, *args: object, timeout: float = 120) -> None:
    """function(rank, *args) in `world` processes, to which all is pickled. One that fails ends the others, and tells why."""
    call = "import pickle, sys; function, args = pickle.loads(bytes.fromhex(sys.argv[2])); function(int(sys.argv[1]), *args)"
    command = [sys.executable, "-c", call]
    pickled = pickle.dumps((function, args)).hex()
    with contextlib.ExitStack() as files:
        outputs = [files.enter_context(tempfile.TemporaryFile("w+")) for _ in range(world)]
        processes = []
        try:
            for rank, output in enumerate(outputs):
                pipes = {"stdout": output, "stderr": subprocess.STDOUT, "cwd": REPOSITORY}
                processes.append(popen([*command, str(rank), pickled], rank, **pipes))
            deadline = time.monotonic() + timeout
            while any(p.poll() is None for p in processes) and not any(p.poll() for p in processes):
                if time.monotonic() > deadline:
                    break
                time.sleep(0.01)
        finally:
            codes = [p.poll() for p in processes]
            for process in processes:
                process.kill()
                process.wait(20)
        for output in outputs:
            output.seek(0)
        assert codes == [0] * world, "\n".join([f"exit codes {codes}", *(f.read() for f in outputs)])


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def settings(**values: object) -> list[str]:
    """settings(train__seed=1) -> ["--set", "train.seed=1"]"""
    return [part for key, value in values.items() for part in ("--set", f"{key.replace('__', '.')}={value}")]
