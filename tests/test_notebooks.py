"""The notebooks of examples/ run as they stand, and are stored without results."""

import os
import sys
import time
from pathlib import Path

import nbformat
import pytest

from tests.ranks import REPOSITORY

NOTEBOOKS = sorted((REPOSITORY / "examples" / "notebooks").glob("*.ipynb"))
LONGEST = 120
"""Seconds that one may take on two cores."""


def test_there_are_some():
    assert len(NOTEBOOKS) == 3


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_they_hold_no_results(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        assert not cell.get("outputs"), cell["source"]
        assert not cell.get("execution_count"), cell["source"]


@pytest.mark.slow
@pytest.mark.e2e
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_they_run(path, monkeypatch, tmp_path):
    from nbclient import NotebookClient

    commands = tmp_path / "bin"  # where a user's PATH has home-dist
    commands.mkdir()
    (commands / "home-dist").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m home_dist.cli "$@"\n')
    (commands / "home-dist").chmod(0o755)
    monkeypatch.setenv("PATH", f"{commands}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "jupyter"))
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(Path(path).parent)}})
    began = time.process_time() + sum(os.times()[2:4])
    client.execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    told = "".join(output.get("text", "") for output in outputs)
    assert "Traceback" not in told
    assert told.count("error:") == (path.stem == "own_model")  # the one that it shows
    used = time.process_time() + sum(os.times()[2:4]) - began
    assert used < 2 * LONGEST, used  # processor time of two cores
