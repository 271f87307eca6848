"""Hosts on one machine: Linux network namespaces, each with its own name and address, on a switch that they share.

The switch, a bridge, lies in a namespace of its own, so that the machine's network is not touched. Needs root and `ip`.
"""

import contextlib
import functools
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import psutil

_NETWORK = "10.93.0"
# Within a host's namespaces: its name, and the names that it knows.
_ENTER = 'hostname "$1" && mount --bind "$2" /etc/hosts && mount --bind "$3" /etc/nsswitch.conf && shift 3 && exec "$@"'


class Hosts:
    """Use as a context; `folder` gets small files."""

    def __init__(self, names: Sequence[str], folder: Path):
        self.names, self.folder = list(names), folder
        self._prefix = f"home-dist-{os.getpid()}"
        self._processes: list[subprocess.Popen[str]] = []

    def __enter__(self) -> "Hosts":
        lines = ["127.0.0.1 localhost", *(f"{self.address(n)} {n}" for n in self.names)]
        self._file("hosts", "\n".join(lines) + "\n")
        self._file("nsswitch", "passwd: files\ngroup: files\nhosts: files\n")
        try:
            _ip("netns", "add", self._space("switch"))
            self._in("switch", "link", "add", "name", "bridge0", "type", "bridge")
            self._in("switch", "link", "set", "bridge0", "up")
            for name in self.names:
                _ip("netns", "add", self._space(name))
                self._in(
                    "switch", "link", "add", "name", name, "type", "veth", "peer", "name", "eth0", "netns", self._space(name)
                )
                self._in("switch", "link", "set", name, "master", "bridge0", "up")
                self._in(name, "address", "add", f"{self.address(name)}/24", "dev", "eth0")
                self._in(name, "link", "set", "eth0", "up")
                self._in(name, "link", "set", "lo", "up")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            if process.poll() is None:
                self.kill(process)
        for name in ("switch", *self.names):
            subprocess.run(["ip", "netns", "delete", self._space(name)], capture_output=True, check=False)

    def address(self, name: str) -> str:
        return f"{_NETWORK}.{self.names.index(name) + 1}"

    def start(self, name: str, command: Sequence[str], cwd: Path, environment: dict[str, str]) -> subprocess.Popen[str]:
        """Starts a command on a host, in a session of its own, with its output in `output(name)`."""
        enter = ["ip", "netns", "exec", self._space(name), "unshare", "--uts", "sh", "-c", _ENTER, "sh", name]
        whole = [*enter, str(self.folder / "hosts"), str(self.folder / "nsswitch"), *command]
        with self.output(name).open("w") as log:
            options = {"stdout": log, "stderr": subprocess.STDOUT, "text": True, "start_new_session": True}
            process = subprocess.Popen(whole, cwd=cwd, env=environment, **options)
        self._processes.append(process)
        return process

    def output(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def cut(self, name: str) -> None:
        """Nothing goes to or from the host any more, and nobody is told."""
        self._in("switch", "link", "set", name, "nomaster")

    def kill(self, process: subprocess.Popen[str]) -> None:
        """The command on its host and all that it has started, at once, as when the power fails."""
        # torchrun gives each rank a session of its own.
        with contextlib.suppress(psutil.NoSuchProcess):
            top = psutil.Process(process.pid)
            for one in [top, *top.children(recursive=True)]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    one.kill()
        process.wait(20)

    def _space(self, name: str) -> str:
        return f"{self._prefix}-{name}"

    def _in(self, name: str, *arguments: str) -> None:
        _ip("-netns", self._space(name), *arguments)

    def _file(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)


@functools.cache
def why_not() -> str:
    """Why there can be no hosts on this machine; empty when there can."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        return "needs root and `ip`"
    name = f"home-dist-{os.getpid()}-probe"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    try:
        if made.returncode == 0:
            command = ["ip", "-netns", name, "link", "add", "name", "probe0", "type", "veth", "peer", "name", "probe1"]
            made = subprocess.run(command, capture_output=True, text=True, check=False)
        return made.stderr.strip()
    finally:
        subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)


def _ip(*arguments: str) -> None:
    ended = subprocess.run(["ip", *arguments], capture_output=True, text=True, timeout=20, check=False)
    if ended.returncode:
        raise RuntimeError(f"ip {' '.join(arguments)}: {ended.stderr.strip()}")
