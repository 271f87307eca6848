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


@pytest.mark.parametrize("world", ["1", "2"])
def test_doctor_needs_no_torch_of_its_own(world):
    """It tells whether torch works, as one process, whatever the environment says of ranks."""
    program = "import sys\nsys.modules['torch'] = None\nfrom home_dist import doctor\ndoctor.main = lambda: 0\n"
    program += "sys.argv = ['home-dist', 'doctor']\nfrom home_dist.cli import main\nmain()\n"
    environment = {"WORLD_SIZE": world, "PATH": "/usr/bin"}
    process = subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, timeout=60, env=environment
    )
    assert (process.returncode, process.stderr) == (0, "")


def test_a_working_folder_that_is_gone(tmp_path):
    program = (
        f"import os\nos.chdir({str(tmp_path)!r})\nos.rmdir({str(tmp_path)!r})\nimport sys\nsys.argv = ['home-dist', '--help']\n"
    )
    program += "from home_dist.cli import main\nmain()\n"
    environment = {"PYTHONPATH": str(REPOSITORY), "PATH": "/usr/bin"}
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, env=environment)
    assert process.returncode == 0, process.stderr
