"""The benchmarks start as scripts from anywhere; what they measure is run by hand."""

import sys

import pytest

from tests import forked
from tests.ranks import REPOSITORY

# A peer's part runs in the peer's environment, started by the benchmark that it belongs to.
BENCHMARKS = [p for p in (REPOSITORY / "benchmarks").rglob("*.py") if not p.stem.endswith("_peers")]
SCRIPTS = sorted(p for p in BENCHMARKS if "__main__" in p.read_text())


def test_there_are_benchmarks():
    there = {p.name for p in SCRIPTS}
    assert {"checkpoints.py", "expert_bank.py", "insight.py", "quality.py", "reader.py", "sequence.py"} <= there
    assert {"growth.py", "ladder.py", "mmoe_synthetic.py", "peers.py", "scaling.py", "time_to_quality.py"} <= there
    assert {"capacity.py", "census.py", "home.py", "sequences.py"} <= there


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.stem)
def test_a_benchmark_tells_its_options(script, tmp_path):
    ended = forked.run([sys.executable, str(script), "--help"], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    assert "--quick" in ended.stdout
