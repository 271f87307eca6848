"""The jobs that the components describe, without starting them."""

import shlex
import sys

import pytest
from torchx import specs
from torchx.specs.builders import materialize_appdef
from torchx.specs.finder import get_component

from launchers import components

CONFIG = "configs/kuairand_pure.toml"


def described(component: str, *arguments: str) -> specs.Role:
    """The job's one role, as torchx makes it from a command line."""
    function = get_component(f"launchers/components.py:{component}").fn
    [role] = materialize_appdef(function, list(arguments)).roles
    return role


def command(role: specs.Role) -> list[str]:
    """The command line of a node, after torchx has put its own values in."""
    values = specs.macros.Values(img_root="", app_id="train-1", replica_id="0", rank0_env="FIRST_HOST")
    assert role.entrypoint == "bash"
    flag, script = values.apply(role).args
    assert flag == "-c"
    return shlex.split(script[script.index("exec ") :])[1:]


def test_train_on_one_node():
    role = described("train", "--config", CONFIG, "-j", "1x4")
    line = command(role)
    assert line[:3] == [sys.executable, "-m", "home_dist.torchrun"]
    assert line[-4:] == ["-m", "home_dist.cli", "train", CONFIG]
    options = dict(zip(line[3:-4:2], line[4:-4:2], strict=True))
    assert options["--nnodes"] == "1"
    assert options["--nproc_per_node"] == "4"
    assert options["--rdzv_endpoint"] == "localhost:0"  # any free port: runs side by side do not meet
    assert options["--tee"] == "0"
    assert (role.name, role.num_replicas, role.max_retries, role.resource.cpu) == ("train", 1, 0, 4)
    assert role.env["PYTHONUNBUFFERED"] == "1"


def test_train_on_several_nodes():
    role = described("train", "--config", CONFIG, "-j", "3x8", "--gpu", "8", "--memMB", "9000", "--max_retries", "2")
    assert (role.num_replicas, role.max_retries) == (3, 2)
    assert (role.resource.gpu, role.resource.memMB, role.resource.cpu) == (8, 9000, 8)
    line = command(role)
    assert line[line.index("--nnodes") + 1] == "3"
    assert line[line.index("--rdzv_endpoint") + 1] == "${FIRST_HOST:=localhost}:29500"


def test_overrides_reach_the_program_as_they_are():
    values = ["train.batch_size=512", "model.towers=[64, 32]", "data.path=/a b/${app_id}/$HOME", "run.name='x'"]
    line = command(described("train", "--config", CONFIG, "-j", "1x2", "--set", *values))
    assert line[line.index(CONFIG) + 1 :] == [part for value in values for part in ("--set", value)]


def test_evaluate():
    line = command(described("evaluate", "--run", "runs/a", "--split", "test,train", "--checkpoint", "step-7"))
    expected = ["evaluate", "runs/a", "--split", "test", "--split", "train", "--checkpoint", "step-7"]
    assert line[line.index("home_dist.cli") + 1 :] == expected
    assert command(described("evaluate", "--run", "runs/a"))[-2:] == ["evaluate", "runs/a"]


def test_bench():
    line = command(described("bench", "--config", CONFIG, "--steps", "9", "--out", "b.json", "--set", "model.kind=ple"))
    expected = ["bench", CONFIG, "--set", "model.kind=ple", "--steps", "9", "--out", "b.json"]
    assert line[line.index("home_dist.cli") + 1 :] == expected


def test_export():
    options = ["--run", "runs/a", "--out", "o", "--format", "program", "--embeddings", "int8", "--compiled", "True"]
    line = command(described("export", *options))
    expected = ["export", "runs/a", "--out", "o", "--format", "program", "--embeddings", "int8", "--compiled"]
    assert line[line.index("home_dist.cli") + 1 :] == expected


def test_prepare_is_one_process(tmp_path):
    description = tmp_path / "my log.toml"
    description.touch()
    role = described("prepare", "--description", str(description), "--out", "data/$x", "-j", "1x16", "--memory", "8")
    line = command(role)
    expected = ["log", str(description), "data/$x", "--engine", "local", "--processes", "16", "--memory", "8.0"]
    assert line == [sys.executable, "-m", "home_dist.cli", "prepare", *expected]
    assert (role.num_replicas, role.resource.cpu) == (1, 16)
    later = command(described("prepare", "--description", str(description), "--out", "d", "--like", "c", "--hold_out", "0.1"))
    assert later[-4:] == ["--like", "c", "--hold-out", "0.1"]
    place = ("--out", "s3://bucket/d", "--work", "s3://bucket/w", "--engine", "ray")
    assert command(described("prepare", "--description", str(description), *place))[-2:] == ["--work", "s3://bucket/w"]
    with pytest.raises(SystemExit, match="prepare runs on one node"):
        components.prepare(CONFIG, "out", j="2x4")


def test_a_range_of_nodes():
    role = described("train", "--config", CONFIG, "-j", "1:4x8")
    assert (role.num_replicas, role.min_replicas) == (4, 1)
    line = command(role)
    assert line[line.index("--nnodes") + 1] == "1:4"
    assert line[line.index("--max_restarts") + 1] == "10"
    line = command(described("train", "--config", CONFIG, "-j", "2:4x8", "--max_restarts", "3", "--warm_start", "runs/b"))
    assert line[line.index("--max_restarts") + 1] == "3"
    assert line[-2:] == ["--from", "runs/b"]
    assert "--max_restarts" not in command(described("train", "--config", CONFIG, "-j", "4x8"))


@pytest.mark.parametrize(("j", "expected"), [("1x2", (1, 1, 2)), ("16x8", (16, 16, 8)), ("4", (1, 1, 4)), ("1:4x8", (1, 4, 8))])
def test_nodes_and_ranks(j, expected):
    assert components._nodes_and_ranks(j) == expected


@pytest.mark.parametrize("j", ["", "x", "0x2", "1x0", "2x", "x2", "-1x2", "1x2x3", "two", "4:2x1", ":2x1", "0:2x1", "1:2"])
def test_bad_j_is_explained(j):
    with pytest.raises(SystemExit, match="NODESxPROCESSES, for example 1x2"):
        components.train(config=CONFIG, j=j)


@pytest.mark.parametrize("override", ["--seed", "-j", "train.seed"])
def test_bad_override_is_explained(override):
    with pytest.raises(SystemExit, match=r"is not KEY=VALUE\. Overrides come last"):
        components.train(override, config=CONFIG)


def test_an_image_has_its_own_python():
    assert command(described("train", "--config", CONFIG, "--image", "home:1"))[0] == "python"
    assert command(described("train", "--config", CONFIG, "--python", "/my env/python"))[0] == "/my env/python"


@pytest.mark.parametrize(
    ("component", "arguments"),
    [
        ("train", ["--config", "configs/absent.toml"]),
        ("bench", ["--config", "configs"]),
        ("prepare", ["--description", "absent.toml", "--out", "data"]),
    ],
)
def test_a_file_that_is_not_there_is_told_before_the_job_is_submitted(component, arguments):
    with pytest.raises(SystemExit, match=rf"error: {arguments[0]} {arguments[1]}: no such file, from /.*whole path"):
        described(component, *arguments)
    assert arguments[1] in command(described(component, *arguments, "--image", "home:1"))  # a path within the image
