"""`--json`: one document on standard output and nothing else, for every command that shows figures."""

import json
import subprocess
import sys

import pytest
import typer

from home_dist.cli import app
from home_dist.config import load_config
from home_dist.files.json_files import read_json
from tests.factory import make_config, make_data
from tests.forked import popen
from tests.ranks import REPOSITORY, environment, free_port, settings

ROWS = 400 + 7 * 32
"""That 20 steps read."""


def ended(*arguments, ranks=1):
    """(exit code, standard output, standard error) of the first rank."""
    port, command = free_port(), [sys.executable, "-m", "home_dist.cli", *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": REPOSITORY}
    processes = [popen(command, r, env=environment(r, ranks, port), **pipes) for r in range(ranks)]
    outputs = [process.communicate(timeout=120) for process in processes]
    assert all(not output for output, _ in outputs[1:])
    return processes[0].returncode, *outputs[0]


def document(*arguments, ranks=1):
    code, output, told = ended(*arguments, "--json", ranks=ranks)
    assert code == 0, told
    assert "━" not in told  # no table
    return json.loads(output)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of 20 steps, the fewest that `groups` takes, with two checkpoints. An epoch has 400 rows in 13 steps."""
    folder = tmp_path_factory.mktemp("run")
    config = make_config(folder, make_data(folder / "data", rows=400), batch_size=32)
    options = settings(train__max_steps=20, checkpoint__every_steps=10, checkpoint__keep_last=2, insight__every_steps=1)
    code, _, told = ended("train", config, *options)
    assert code == 0, told
    return folder / "run"


def commands_with_json():
    def of(command, name):
        if hasattr(command, "commands"):
            return {path for key, sub in command.commands.items() for path in of(sub, f"{name} {key}".strip())}
        return {name} if any("--json" in p.opts and p.is_flag for p in command.params) else set()

    return of(typer.main.get_command(app), "")


def test_which_commands_have_it():
    """The tests below are of these."""
    listed = {f"checkpoints {name}" for name in ("ls", "verify", "show", "diff")}
    assert commands_with_json() == listed | {
        *("config", "runs", "evaluate", "plan", "bench", "groups", "buckets", "sweep", "daily", "doctor"),
    }


def test_runs(run):
    [entry] = document("runs", run.parent)["runs"]
    figures = read_json(run / "evaluation.json", "")["test"]
    assert (entry["run"], entry["steps"], entry["split"], entry["model"]) == ("run", 20, "test", "home")
    assert entry["means"]["auc"] == pytest.approx(sum(task["auc"] for task in figures.values()) / 3)
    assert entry["means"]["mae"] is None  # no task has it


def test_checkpoints(run):
    listed = document("checkpoints", "ls", run)["checkpoints"]
    assert [(c["step"], c["newest"], c["kept"]) for c in listed] == [(10, False, True), (20, True, True)]
    verified = document("checkpoints", "verify", run)["checkpoints"]
    assert [(c["checkpoint"], c["intact"]) for c in verified] == [(c["path"], True) for c in listed]
    assert verified[0]["bytes"] == listed[0]["bytes"]
    shown = document("checkpoints", "show", run)
    assert (shown["step"], shown["samples"]) == (20, ROWS)
    assert [2000, 8] in [t["shape"] for t in shown["tables"] if (t["table"], t["state"]) == ("video", "weight")]
    found = document("checkpoints", "diff", listed[0]["path"], listed[1]["path"])
    assert (found["from"]["step"], found["to"]["step"], found["config"]) == (10, 20, {})
    assert {t["tensor"] for t in found["tensors"]} >= {"tables/video/weight"}


def test_a_damaged_checkpoint_is_in_the_document_and_in_the_exit_code(run, tmp_path):
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-r", run, copy], check=True)
    shard = next((copy / "checkpoints" / "step-00000020").glob("*.distcp"))
    shard.write_bytes(shard.read_bytes()[:-1])
    code, output, told = ended("checkpoints", "verify", copy, "--json")
    found = json.loads(output)["checkpoints"]
    assert (code, [c["intact"] for c in found]) == (4, [True, False])
    assert shard.name in found[1]["problem"]
    assert shard.name in told


def test_an_error_leaves_standard_output_empty(tmp_path):
    code, output, told = ended("checkpoints", "ls", tmp_path, "--json")
    assert (code, output) == (4, "")
    assert str(tmp_path) in told


@pytest.mark.parametrize("ranks", [1, 2])
def test_evaluate(run, ranks):
    tree = document("evaluate", run, "--split", "test", ranks=ranks)
    wanted = read_json(run / "evaluation.json", "")
    for task, figures in wanted["test"].items():
        assert tree["test"][task]["auc"] == pytest.approx(figures["auc"], abs=1e-6)
    assert (tree["step"], tree["samples"]) == (20, ROWS)


def test_bench(run):
    tree = document("bench", run / "config.toml", "--steps", 2, "--warm-up", 1, "--traced", 1)
    assert (tree["steps"], tree["batch_size"]) == (2, 32)
    assert tree["samples_per_second"] > 0


def test_plan(run):
    tree = document("plan", run / "config.toml", "--topology", "2xH100-80GB", "--set", f"data.path={run.parent / 'data'}")
    assert {t["name"]: t["rows"] for t in tree["tables"]}["video"] == 2000


def test_groups(run):
    tree = document("groups", run)
    assert set(tree["tasks"]) == {"like", "follow", "watch"}
    assert tree["proposal"] is None


def test_buckets(run):
    tree = document("buckets", run)
    assert tree["statistics"]["rate"] == {
        "column": "rate",
        "buckets": [None, [None, -1.0], [-1.0, 0.0], [0.0, 1.0], [1.0, None]],
    }


def test_sweep_with_what_its_runs_print_elsewhere(run, tmp_path):
    options = settings(run__dir=tmp_path / "sweep", train__max_steps=1, insight__every_steps=0)
    code, output, told = ended("sweep", run / "config.toml", "--grid", "train.lr=0.01,0.02", *options, "--json")
    assert code == 0, told
    assert json.loads(output) == read_json(tmp_path / "sweep" / "sweep.json", "")
    assert "first step done" in told


def test_config():
    [key] = document("config", "train.accumulate")["run"]
    assert key["default"] == "1"


def test_doctor():
    code, output, _ = ended("doctor", "--json")
    checks = json.loads(output)["checks"]
    assert code == int(any(check["state"] == "problem" for check in checks))
    assert {"Python", "devices", "free memory"} <= {check["what"] for check in checks}


def test_figures_go_to_a_file_as_well(run, tmp_path):
    tree = document("evaluate", run, "--split", "test", "--out", tmp_path / "figures.json")
    assert read_json(tmp_path / "figures.json", "") == tree
    assert load_config(run / "config.toml").train.max_steps == 20
