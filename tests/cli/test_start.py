"""Commands that compute nothing start without torch: it alone takes seconds to import. Also the version and completion."""

import json
import shutil
import subprocess
import sys

import pytest

import home_dist
from home_dist.insight.overview import entries, find_runs
from tests import ranks
from tests.cli.light import ended
from tests.factory import make_config, make_data
from tests.ranks import REPOSITORY


@pytest.mark.parametrize(
    "arguments", [["--help"], ["train", "--help"], ["prepare", "--help"], ["buckets", "examples/kuairand_pure", "tab_count"]]
)
def test_without_a_run(arguments):
    process = ended(*arguments)
    assert process.stdout.endswith("light\n"), process.stderr


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of a step."""
    folder = tmp_path_factory.mktemp("runs")
    config = make_config(folder, make_data(folder / "data", rows=64, splits=("train",)))
    ended = ranks.run(1, "train", config, *ranks.settings(train__max_steps=1, data__validation="''", data__test="''"))
    assert ended.codes == [0], ended.text
    assert "1 steps in all | experts are examined every 8 steps" in ended.text
    for command in ("inspect", "evaluate", "export"):  # what comes next
        assert f"home-dist {command} {folder / 'run'} " in ended.text
    return folder / "run"


@pytest.mark.parametrize("command", [["runs"], ["runs", "--json"], ["checkpoints", "ls"], ["checkpoints", "ls", "--json"]])
def test_lists(run, command):
    """Reading schemas and data takes pyarrow, which takes long to import as well."""
    process = ended(*command, run, heavy=("torch", "torchrec", "matplotlib", "pyarrow", "tensorboard"))
    assert process.stdout.endswith("light\n"), process.stderr
    assert run.name in process.stdout


def test_runs_of_long_records_are_listed_from_their_end(run, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    with (copy / "insight" / "curves.jsonl").open("a") as curves:
        for step in range(2, 5000):
            curves.write(json.dumps({"step": step, "samples_per_second": 7.0, "task_losses": {"like": 0.5}}) + "\n")
    [entry] = entries(tmp_path, find_runs(tmp_path))
    assert (entry.run, entry.steps, entry.samples_per_second) == ("copy", 4999, 7.0)


def test_version():
    command = [sys.executable, "-m", "home_dist.cli", "--version"]
    process = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60)
    assert (process.returncode, process.stdout) == (0, f"home_dist {home_dist.__version__}\n")


@pytest.mark.parametrize(("shell", "file"), [("bash", ".bashrc"), ("zsh", ".zfunc/_home-dist")])
def test_completion_is_installed_and_answers(tmp_path, shell, file):
    program = "import sys\nsys.argv[0] = 'home-dist'\nfrom home_dist.cli import main\nmain()\n"
    environment = {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1", "PATH": "/usr/bin", "HOME": str(tmp_path)}
    command = [sys.executable, "-c", program]
    ended = subprocess.run([*command, "--install-completion", shell], cwd=REPOSITORY, env=environment, capture_output=True)
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / file).is_file()
    if shell == "bash":  # what the shell would ask for after "home-dist checkpoints v"
        asked = {"_HOME_DIST_COMPLETE": "complete_bash", "COMP_WORDS": "home-dist checkpoints v", "COMP_CWORD": "2"}
        ended = subprocess.run(command, cwd=REPOSITORY, env=environment | asked, capture_output=True, text=True)
        assert ended.stdout.split() == ["verify"]


def test_completion_of_a_shell():
    command = [sys.executable, "-m", "home_dist.cli", "--show-completion", "bash"]
    environment = {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1", "PATH": "/usr/bin"}
    process = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60, env=environment)
    assert "complete -o default" in process.stdout


@pytest.mark.parametrize("world", ["1", "2"])
def test_doctor_needs_no_torch_of_its_own(world):
    """It tells whether torch works, as one process, whatever the environment says of ranks."""
    program = "import sys\nsys.modules['torch'] = None\nfrom home_dist import doctor\ndoctor.main = list\n"
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
