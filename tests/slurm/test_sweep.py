"""A sweep whose runs are jobs of a real Slurm cluster: `make test-slurm`, which runs this within cluster.sh."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest

from tests.factory import make_config, make_data
from tests.ranks import REPOSITORY, settings

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(
        shutil.which("squeue") is None or "HOME_DIST_SLURM" not in os.environ, reason="no cluster: make test-slurm"
    ),
]


def swept(folder, config, *arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "home_dist.cli", "sweep", str(config), "--engine", "torchx", "--scheduler", "slurm"]
    environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"} | {"PYTHONPATH": str(REPOSITORY)}
    options = {"cwd": folder, "env": environment, "capture_output": True, "text": True, "timeout": 500}
    return subprocess.run([*command, *arguments], **options)


def test_a_sweep_of_jobs_goes_on_where_one_failed(tmp_path):
    config = make_config(tmp_path, make_data(tmp_path / "data", rows=200, files=1))
    grid = ["--grid", "model.kind=shared_bottom,mmoe", "--at-once", "2", *settings(train__max_steps=2)]
    (tmp_path / "run" / "kind=mmoe").mkdir(parents=True)
    in_the_way = tmp_path / "run" / "kind=mmoe" / "seed-0"
    in_the_way.write_text("a file where the run's folder belongs")
    first = swept(tmp_path, config, *grid)
    assert first.returncode == 6, first.stdout + first.stderr
    logs = re.search(r"job slurm://torchx/(\d+) failed; its log: (\S+) and .err", first.stderr)
    assert "seed-0" in (tmp_path / f"slurm-{logs[1]}-train-0.err").read_text(), first.stderr
    assert logs[2] == str(tmp_path / f"slurm-{logs[1]}-train-0.out")
    in_the_way.unlink()
    second = swept(tmp_path, config, *grid)
    assert second.returncode == 0, second.stdout + second.stderr
    assert "[1/2] model.kind=shared_bottom: complete" in second.stdout
    assert second.stdout.count("submitted, ") == 1
    assert len(json.loads((tmp_path / "run" / "sweep.json").read_text())["settings"]) == 2
