"""What a process is set to before torch is imported: what the user has set stays."""

import os
import platform
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


of_glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc")
AGAIN = (
    "import os, sys; from home_dist import process;"
    "print('begins', os.getpid(), os.environ.get('GLIBC_TUNABLES'), flush=True); process.tune_allocator(); print('goes on')"
)


def begins(*arguments, **environment):
    """The lines that a program prints which asks for the allocator, and its number."""
    program = subprocess.Popen(
        [sys.executable, "-c", AGAIN, *arguments],
        cwd=REPOSITORY,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        text=True,
    )
    lines = program.communicate(timeout=60)[0].splitlines()
    assert program.returncode == 0
    assert lines[-1] == "goes on"
    return [line.split() for line in lines[:-1]], program.pid


@of_glibc
def test_a_command_of_ours_begins_again_with_the_allocator(monkeypatch):
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    lines, number = begins("home_dist.cli", "train")
    assert lines == [["begins", str(number), "None"], ["begins", str(number), process._TUNABLES]]


def test_others_and_those_whose_user_has_set_it_do_not(monkeypatch):
    assert len(begins("home_dist.cli", GLIBC_TUNABLES="")[0]) == 1
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    assert len(begins("some.module")[0]) == 1


@of_glibc
def test_the_allocator_keeps_what_a_step_gives_back():
    program = (
        "import resource, ctypes; libc = ctypes.CDLL(None); libc.malloc.restype = ctypes.c_void_p; size = 20 << 20\n"
        "def faults(steps):\n"
        "    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "    for _ in range(steps):\n"
        "        taken = [ctypes.c_void_p(libc.malloc(ctypes.c_size_t(size))) for _ in range(10)]\n"
        "        for at in taken:\n"
        "            ctypes.memset(at, 1, size)\n"
        "        for at in taken:\n"
        "            libc.free(at)\n"
        "    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before\n"
        "faults(2); print(faults(10))"
    )

    def faults(tunables):
        environment = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")} | {"GLIBC_TUNABLES": tunables}
        told = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
        return int(told.stdout)

    assert faults(process._TUNABLES) < 100
    assert faults("glibc.malloc.trim_threshold=131072") > 1000
