"""Locks between processes."""

import errno
import fcntl
import os
import subprocess
import sys

import pytest

from home_dist.errors import ConfigError, UserError
from home_dist.files.lock import locked
from tests.ranks import REPOSITORY

HOLD = """
import sys, pathlib
from home_dist.files.lock import locked
with locked(pathlib.Path(sys.argv[1])):
    print(1, flush=True)
    sys.stdin.read()
"""


def test_another_process_is_refused_until_the_first_ends(tmp_path):
    path = tmp_path / ".lock"
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline()
        with pytest.raises(ConfigError, match="someone is there"), locked(path, ConfigError("someone is there")):
            pass
        other.kill()
    with locked(path, ConfigError("someone is there")):
        pass


def test_a_file_system_without_locks_locks_nothing(tmp_path, monkeypatch):
    def without(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", without)
    with locked(tmp_path / "lock", UserError("busy")), locked(tmp_path / "lock", UserError("busy")):
        entered = True
    assert entered


def test_other_errors_are_not_hidden(tmp_path, monkeypatch):
    def failing(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(fcntl, "flock", failing)
    with pytest.raises(OSError, match="Input/output"), locked(tmp_path / "lock", UserError("busy")):
        pass
