"""`make train` with the newest Python that the locks have wheels for, where one is installed: in a copy without a venv."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.ranks import REPOSITORY

NEWEST = re.search(r"^PYTHONS := .* (\S+)$", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)[1]


def newest_python():
    """Its path, or None. A name on the PATH may be pyenv's, for a version that is not chosen."""
    places = [shutil.which(f"python{NEWEST}"), *Path.home().glob(f".pyenv/versions/{NEWEST}*/bin/python{NEWEST}")]
    return next((str(p) for p in places if p and not subprocess.run([p, "-c", ""], capture_output=True).returncode), None)


@pytest.mark.slow
@pytest.mark.e2e
def test_it_installs_and_trains(tmp_path):
    python = newest_python()
    if python is None:
        pytest.skip(f"no Python {NEWEST} is installed")
    if shutil.disk_usage(tmp_path).free < 15e9:
        pytest.skip("torch's CUDA build, the only one that PyPI has for this Python, wants some 6 GB, and as much in passing")
    copy = tmp_path / "copy"
    shutil.copytree(REPOSITORY, copy, ignore=shutil.ignore_patterns(".venv*", ".git", "runs", "build", "*cache*", "*.egg-info"))
    config = copy / "configs" / "kuairand_pure.toml"
    config.write_text(config.read_text().replace("epochs = 2", "max_steps = 4"))
    # Compiling all modules in advance takes longer than compiling those that are imported.
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "OMP_NUM_THREADS")} | {"PIP_NO_COMPILE": "1"}
    command = ["make", "train", f"PYTHON={python}", "PLATFORM=cpu", "JOB=1x1"]
    try:
        ended = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, check=False, timeout=1500)
        if ended.returncode and "[3/4]" not in ended.stdout and "connection broken by" in ended.stderr:
            pytest.skip("no package index can be reached")
        assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
        version = subprocess.run([copy / ".venv/bin/python", "-V"], capture_output=True, text=True, check=True).stdout
        assert version.startswith(f"Python {NEWEST}.")
        assert "4/4" in ended.stdout
        assert list((copy / "runs").glob("*/checkpoints/*")), ended.stdout[-3000:]
    finally:
        shutil.rmtree(copy / ".venv", ignore_errors=True)  # gigabytes: pytest keeps folders of the last runs
