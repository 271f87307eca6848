"""The C++ library: built once, by several processes at once; without a compiler, experts are eager."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from home_dist import native_library
from home_dist.config import KernelSection
from home_dist.errors import ConfigError
from home_dist.experts.kernels import choose, cpu_library
from tests.forked import popen

REPOSITORY = Path(__file__).parents[2]
COMPILED = "cpu, fp32 (passes compiled for this processor)"
CHOOSE = """
import torch
from home_dist.config import KernelSection
from home_dist.experts.kernels import choose

print(choose(torch.device("cpu"), KernelSection()))
"""
BESIDE_IMPORTS = """
from home_dist.cli.native import build_beside_imports

build_beside_imports()
import torch
from home_dist.data import chunked
from home_dist.data.distinct import _SOURCE
from home_dist.embeddings import initial
from home_dist.embeddings.side_by_side import side_by_side
from home_dist.native_library import library_if_possible

assert chunked.native() and initial._native() and library_if_possible(_SOURCE)
side_by_side([(torch.zeros(2, 1), torch.tensor([1]))])
"""
needs_compiler = pytest.mark.skipif(not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="no C++ compiler")


def start(cache: Path, before: str = "", **environment: str) -> subprocess.Popen[str]:
    return popen(
        [sys.executable, "-W", "ignore", "-c", before + CHOOSE],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
        env={**os.environ, "XDG_CACHE_HOME": str(cache), **environment},
    )


@needs_compiler
def test_two_processes_that_train_build_each_library_once(tmp_path):
    compiler, runs = tmp_path / "cxx", tmp_path / "runs"
    real = next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))))
    compiler.write_text(f'#!/bin/sh\n[ "$1" = --version ] || echo "$*" >> {runs}\nexec {real} "$@"\n')
    compiler.chmod(0o755)
    for process in [start(tmp_path, BESIDE_IMPORTS, CXX=str(compiler)) for _ in range(2)]:
        out, err = process.communicate(timeout=180)
        assert out.strip() == COMPILED, err
    built = [p.name.partition("-")[0] for p in (tmp_path / "home_dist").iterdir() if p.suffix == ".so"]
    # In one version each: the one that was built beside the imports.
    assert sorted(built) == ["columns", "distinct", "initial", "passes", "side_by_side"]
    assert len(runs.read_text().splitlines()) == len(built)
    assert {p.suffix for p in (tmp_path / "home_dist").iterdir()} == {".so", ".lock"}


def test_without_a_compiler_experts_are_eager(tmp_path):
    process = start(tmp_path, CXX="no-such-compiler")
    out, err = process.communicate(timeout=60)
    assert out.startswith("eager, fp32 (no compiled passes: no-such-compiler failed"), err


def test_without_a_compiler_the_cpu_backend_is_refused(monkeypatch):
    monkeypatch.setattr(cpu_library, "unavailable", lambda: "no C++ compiler")
    assert str(choose(torch.device("cpu"), KernelSection())) == "eager, fp32 (no compiled passes: no C++ compiler)"
    with pytest.raises(ConfigError, match=r'kernel.backend = "cpu": no compiled passes, no C\+\+ compiler. Use "auto"'):
        choose(torch.device("cpu"), KernelSection(backend="cpu"))


@needs_compiler
def test_a_compiler_that_fails_is_quoted(tmp_path):
    compiler = tmp_path / "cxx"
    compiler.write_text('#!/bin/sh\n[ "$1" = --version ] && exit 0\necho "unknown flag" >&2\nexit 1\n')
    compiler.chmod(0o755)
    out, _ = start(tmp_path, CXX=str(compiler)).communicate(timeout=60)
    assert "unknown flag" in out


@needs_compiler
def test_a_folder_that_others_may_write_is_not_trusted(tmp_path, monkeypatch):
    open_folder = tmp_path / "home_dist"
    open_folder.mkdir()
    open_folder.chmod(0o777)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert native_library._folder() != open_folder


@needs_compiler
def test_this_machine_has_them():
    assert str(choose(torch.device("cpu"), KernelSection())) == COMPILED
