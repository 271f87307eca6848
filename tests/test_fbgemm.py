"""pip's trap: torchrec brings the CUDA build of FBGEMM over the CPU's."""

import os
import subprocess
import sys

import pytest

from home_dist import fbgemm
from tests.ranks import REPOSITORY


@pytest.fixture
def environment(tmp_path):
    """One where importing fbgemm_gpu fails as that of the CUDA build does without CUDA's libraries."""
    (tmp_path / "fbgemm_gpu").mkdir()
    (tmp_path / "fbgemm_gpu" / "__init__.py").write_text("raise OSError('Could not load this library: fbgemm_gpu_config.so')\n")
    (tmp_path / "fbgemm_gpu-1.8.0.dist-info").mkdir()
    (tmp_path / "fbgemm_gpu-1.8.0.dist-info" / "METADATA").write_text("Name: fbgemm-gpu\nVersion: 1.8.0\n")
    return {"PYTHONPATH": f"{tmp_path}:{REPOSITORY}"}


@pytest.mark.parametrize(
    ("arguments", "code", "start"),
    [
        (["-m", "home_dist.cli", "train", str(REPOSITORY / "configs" / "kuairand_pure.toml")], 2, "error: FBGEMM's operators"),
        (["-c", "from home_dist import load"], 1, "ImportError: FBGEMM's operators"),
    ],
    ids=["command", "library"],
)
def test_the_first_import_says_what_to_install(environment, tmp_path, arguments, code, start):
    command = [sys.executable, *arguments]
    ended = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, **environment}, capture_output=True, text=True, check=False, timeout=120
    )
    assert ended.returncode == code
    last = ended.stderr.strip().splitlines()[-1]
    assert last.startswith(start)
    assert "Could not load this library: fbgemm_gpu_config.so" in last
    assert "fbgemm-gpu 1.8.0 are installed" in last
    assert "pip install --force-reinstall --no-deps fbgemm-gpu-cpu==1.8.0" in last


def test_other_errors_stay_what_they_are():
    with pytest.raises(OSError, match="no space") as raised:
        raise OSError("no space left on device")
    assert fbgemm.explained(raised.value) is None
    assert fbgemm.explained(ImportError("no module", name="torchrec")) is None
    assert fbgemm.explained(RuntimeError("fbgemm_gpu")) is None


def test_a_missing_fbgemm_is_told_too():
    message = fbgemm.explained(ImportError("No module named 'fbgemm_gpu'", name="fbgemm_gpu"))
    assert message is not None
    assert "No module named 'fbgemm_gpu'" in message
