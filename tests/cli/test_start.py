"""Commands that compute nothing start without torch: it alone takes seconds to import."""

import subprocess
import sys

import pytest

from tests.cli.light import ended
from tests.ranks import REPOSITORY


@pytest.mark.parametrize(
    "arguments", [["--help"], ["train", "--help"], ["prepare", "--help"], ["buckets", "examples/kuairand_pure", "tab_count"]]
)
def test_without_a_run(arguments):
    process = ended(*arguments)
    assert process.stdout.endswith("light\n"), process.stderr


def test_completion_of_a_shell():
    command = [sys.executable, "-m", "home_dist.cli", "--show-completion", "bash"]
    environment = {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1", "PATH": "/usr/bin"}
    process = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60, env=environment)
    assert "complete -o default" in process.stdout
