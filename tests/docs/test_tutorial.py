"""docs/tutorial.md as a stranger follows it: its files are written and its commands run in an empty folder, in order."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.ranks import REPOSITORY

PAGE = (REPOSITORY / "docs" / "tutorial.md").read_text()
BLOCK = re.compile(r"(?P<before>[^\n]*)\n\n```(?P<kind>python|toml|sh)\n(?P<text>.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.mark.slow
@pytest.mark.distributed
def test_three_logs_become_models_by_the_page_alone(tmp_path: Path):
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(REPOSITORY)}
    commands = 0
    for block in BLOCK.finditer(PAGE):
        if block["kind"] == "sh":
            done = subprocess.run(
                ["bash", "-e", "-c", block["text"]], cwd=tmp_path, env=environment, capture_output=True, text=True
            )
            assert done.returncode == 0, f"{block['text']}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
            commands += len(block["text"].splitlines())
        else:
            names = re.findall(r"`([\w.]+\.(?:py|toml))`", _paragraph(block))
            assert names, f"no file is named before: {block['text'][:80]}"
            (tmp_path / names[-1]).write_text(block["text"])
    assert commands >= 12
    for run, task in (("shop", "bought"), ("feed", "click"), ("video", "like")):
        test = json.loads((tmp_path / "runs" / run / "evaluation.json").read_text())["test"]
        assert test[task]["auc"] > 0.6, f"{run}: the planted taste is not learned"
    scores = list((tmp_path / "scores").rglob("*.parquet"))
    assert scores


def _paragraph(block: re.Match[str]) -> str:
    """The text before a block, back to an empty line."""
    return PAGE[: block.start("kind")].rstrip("`\n ").rpartition("\n\n")[2]
