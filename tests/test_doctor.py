"""The doctor names what is wrong and how to mend it; on a sound machine it is tested end to end in tests/e2e."""

import sys

import pytest

from home_dist import doctor


def told(capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    code = doctor.main()
    return code, capsys.readouterr().out


@pytest.fixture
def sound(monkeypatch):
    """Without the checks that start processes."""
    monkeypatch.setattr(doctor, "run_python", lambda code: None)
    return monkeypatch


def test_both_builds_of_fbgemm(sound, capsys):
    versions = {"fbgemm-gpu": "1.8.0", "fbgemm-gpu-cpu": "1.8.0"}
    real = doctor.installed
    sound.setattr(doctor, "installed", lambda name: versions.get(name) or real(name))
    sound.setattr(doctor, "has_nvidia", lambda: False)
    code, text = told(capsys)
    assert code == 1
    assert "PROBLEM  fbgemm: fbgemm-gpu-cpu 1.8.0, fbgemm-gpu 1.8.0 are both installed" in text
    assert "-> Both lie in one folder and overwrite each other; keep one: make clean install PLATFORM=cpu" in text


def test_the_cuda_build_where_there_is_no_cuda(sound, capsys):
    failure = "OSError: libcuda.so.1: cannot open shared object file: No such file or directory"
    sound.setattr(doctor, "import_failure", lambda module: failure)
    code, text = told(capsys)
    assert code == 1
    assert f"PROBLEM  fbgemm operators: {failure}" in text
    assert "The CUDA build is installed on a machine without CUDA libraries: make clean install PLATFORM=cpu" in text


def test_another_version_than_the_pinned_one(sound, capsys):
    real = doctor.installed
    sound.setattr(doctor, "installed", lambda name: "1.0" if name == "pyarrow" else real(name))
    code, text = told(capsys)
    assert code == 1
    assert "PROBLEM  pyarrow: 1.0, but" in text
    assert "make clean install" in text


def test_another_python(sound, capsys):
    sound.setattr(sys, "version_info", (3, 14, 1, "final", 0))
    code, text = told(capsys)
    assert code == 1
    assert "PROBLEM  Python: 3.14.1" in text
    assert "PYTHON=python3.11" in text


def test_little_memory_and_disk_are_noted(sound, capsys):
    sound.setattr(doctor, "_MEMORY_GIB", 10**9)
    sound.setattr(doctor, "_DISK_GIB", 10**9)
    code, text = told(capsys)
    assert code == 0
    assert "note     free memory:" in text
    assert "note     free disk here:" in text
    assert "run.dir" in text


def test_a_check_that_fails_does_not_hide_the_others(sound, capsys):
    def broken():
        raise RuntimeError("no such thing")

    sound.setattr(doctor, "devices", broken)
    code, text = told(capsys)
    assert code == 1
    assert "RuntimeError: no such thing" in text
    assert "free memory" in text


def test_code_that_crashes_is_told_by_its_last_line():
    assert doctor.run_python("pass") is None
    assert doctor.run_python("raise ValueError('broken here')") == "ValueError: broken here"
    assert doctor.run_python("import os; os._exit(7)") == "ended with exit code 7"
