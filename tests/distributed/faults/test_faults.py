"""One fault of each kind, at other points than the benchmark's first ones; benchmarks/faults.py does many."""

import json
import os
import subprocess
import sys

import pytest

from benchmarks.faults import KINDS
from tests.ranks import REPOSITORY

pytestmark = [pytest.mark.distributed, pytest.mark.slow]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount the small disk that fills up")
@pytest.mark.parametrize("seed", [1, 2])
def test_every_kind_is_survived(seed, tmp_path):
    out = tmp_path / "faults.json"
    command = [sys.executable, "-W", "ignore", "benchmarks/faults.py", "--quick", "--seed", str(seed), "--out", str(out)]
    ended = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=500)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    faults = json.loads(out.read_text())["faults"]
    assert [f["kind"] for f in faults] == list(KINDS)
    assert [f for f in faults if f["problem"] or f["samples_lost"]] == []
    # Faults that must end a job did end it.
    fatal = [f for f in faults if f["kind"] in ("kill -9 of one rank", "kill -9 of all ranks", "a write that fails")]
    assert [f for f in fatal if f["codes"][0] == 0] == []
