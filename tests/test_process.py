"""What a process is set to before torch is imported: what the user has set stays."""

import os
import subprocess
import sys

import pytest

from home_dist import process
from tests.ranks import REPOSITORY


@pytest.fixture(autouse=True)
def clean(monkeypatch):
    for name in (*process._SETTINGS, "OMP_WAIT_POLICY"):
        monkeypatch.setenv(name, "")  # restored afterwards, whatever happens in between
        monkeypatch.delenv(name)


def settings(monkeypatch, **user):
    for name, value in user.items():
        monkeypatch.setenv(name, value)
    process.prepare()
    return os.environ.get("GOMP_SPINCOUNT"), os.environ.get("THP_MEM_ALLOC_ENABLE")


def test_by_default(monkeypatch):
    assert settings(monkeypatch) == tuple(process._SETTINGS[n] for n in ("GOMP_SPINCOUNT", "THP_MEM_ALLOC_ENABLE"))


def test_a_command_is_prepared_before_torch_is_there():
    program = (
        "import sys; from home_dist import process; from home_dist.cli import main;"
        "process.prepare = lambda: sys.exit(8 if 'torch' in sys.modules else 7); main()"
    )
    assert subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, check=False).returncode == 7


def test_what_the_user_has_set_stays(monkeypatch):
    assert settings(monkeypatch, GOMP_SPINCOUNT="7", THP_MEM_ALLOC_ENABLE="0") == ("7", "0")


def test_a_wait_policy_is_not_overruled(monkeypatch):
    assert settings(monkeypatch, OMP_WAIT_POLICY="PASSIVE") == (None, "1")
