"""The benchmarks start as scripts from anywhere, with the commands that they name; what they measure is run by hand."""

import json
import os
import sys

import pytest

from tests import forked
from tests.benchmark_commands import UNKNOWN
from tests.ranks import REPOSITORY

# A peer's part runs in the peer's environment, started by the benchmark that it belongs to.
BENCHMARKS = [p for p in (REPOSITORY / "benchmarks").rglob("*.py") if not p.stem.endswith("_peers")]
SCRIPTS = sorted(p for p in BENCHMARKS if "__main__" in p.read_text())


def test_there_are_benchmarks():
    there = {p.name for p in SCRIPTS}
    assert {
        "checkpoints.py",
        "daily.py",
        "expert_bank.py",
        "insight.py",
        "metrics.py",
        "quality.py",
        "reader.py",
        "sequence.py",
    } <= there
    assert {
        "growth.py",
        "ladder.py",
        "mmoe_synthetic.py",
        "peers.py",
        "rehearsal.py",
        "scaling.py",
        "time_to_quality.py",
    } <= there
    assert {
        "capacity.py",
        "census.py",
        "census_education.py",
        "groups.py",
        "home.py",
        "mmoe_product.py",
        "sequences.py",
    } <= there


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """By script, its commands, their exit codes and what was told."""
    folder = tmp_path_factory.mktemp("benchmarks")
    command = [sys.executable, "-m", "tests.benchmark_commands", str(folder / "told.json"), *map(str, SCRIPTS)]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    ended = forked.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
    return json.loads((folder / "told.json").read_text())


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.stem)
def test_a_benchmark_understands_the_commands_that_it_names(script, told):
    *named, unknown = told[script.stem]
    assert [(arguments, text) for arguments, code, text in named if code] == []
    assert any("--quick" in arguments for arguments, *_ in named) or script.stem in ("guard", "report")
    assert named
    _, code, text = unknown
    assert code == 2
    assert UNKNOWN in text
