"""A user's own model, encoder and objective, in files of the working folder: trained, stopped, resumed, inspected, exported."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

import home_dist
from home_dist.training.checkpoint.reading import open_stored
from tests.mixed_tasks import mixed_config, mixed_data
from tests.ranks import REPOSITORY, free_port, settings

pytestmark = [pytest.mark.slow, pytest.mark.e2e, pytest.mark.distributed]

KINDS = settings(
    model__kind="mymodel:ResidualMmoe",
    sequence__0__kind="myencoder:Recency",
    objective__seconds__kind="myobjective:Poisson",
    checkpoint__every_steps=3,
    train__epochs=1,
    train__decay="none",  # which would follow from the number of steps
    data__lanes=2,
    embedding__tables__video__sharding="row_wise",
)
NAMES = ("mymodel", "myencoder", "myobjective")


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A folder with the examples' classes under names of its own, data and a configuration, and no home_dist."""
    folder = tmp_path_factory.mktemp("project")
    for name in NAMES:
        shutil.copy(REPOSITORY / "examples" / "own_model" / f"{name.removeprefix('my')}.py", folder / f"{name}.py")
    data = mixed_data(folder / "data", rows=640, files=2, row_group=64)
    mixed_config(folder, data, batch_size=32)
    return folder


def call(cwd, *command: object, code: int = 0, path: object = None) -> str:
    """path: a folder for PYTHONPATH, beside this checkout."""
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{path}:{REPOSITORY}" if path else str(REPOSITORY)}
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", *map(str, command)],
        cwd=cwd,
        env=variables,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert ended.returncode == code, ended.stdout + ended.stderr
    return ended.stdout + ended.stderr


def torchrun(project, *arguments: object, code: int = 0) -> str:
    port = ["--master-port", free_port()]
    return call(
        project, "-m", "torch.distributed.run", "--nproc-per-node", 2, *port, "-m", "home_dist.cli", *arguments, code=code
    )


def command(cwd, *arguments: object, code: int = 0, path: object = None) -> str:
    """As the installed command `home-dist`, which does not look in the working folder by itself."""
    return call(cwd, "-c", "from home_dist.cli import main; main()", *arguments, code=code, path=path)


@pytest.fixture(scope="module")
def trained(project):
    """Trained on two ranks: whole, and stopped and resumed."""
    whole = torchrun(project, "train", "run.toml", *KINDS)
    assert "model: mymodel:ResidualMmoe" in whole
    stopped = [*KINDS, *settings(run__dir=project / "stopped")]
    torchrun(project, "train", "run.toml", *stopped, *settings(train__max_steps=4))
    again = torchrun(project, "train", "run.toml", *stopped)
    assert "resum" in again
    return project


def test_stopped_and_resumed_is_the_run_that_was_not(trained):
    (expected, _), (found, record) = (
        open_stored(max((trained / run / "checkpoints").glob("step-*"))) for run in ("run", "stopped")
    )
    assert record.state.step == 10
    assert {n for n in expected.tensors if "around" in n or "encoders.watched.rate" in n} != set()
    assert [n for n in expected.tensors if not torch.equal(expected.whole(n), found.whole(n))] == []
    assert float(expected.whole("dense/head.model.around.weight").abs().max()) > 0
    assert float(expected.whole("dense/head.features.encoders.watched.rate")) != pytest.approx(0.1)


def test_the_installed_command_looks_in_the_working_folder(project, tmp_path):
    one = settings(run__dir=tmp_path / "run", train__max_steps=1, data__validation="''", data__test="''")
    assert "model: mymodel:ResidualMmoe" in command(project, "train", "run.toml", *KINDS, *one)


def test_so_does_torchx(project, tmp_path):
    one = [f"run.dir={tmp_path / 'run'}", "train.max_steps=1", "data.validation=", "data.test="]
    told = call(
        project,
        *("-m", "torchx.cli.main", "run", "-s", "local_cwd", "-cfg", f"log_dir={tmp_path / 'logs'}"),
        *(REPOSITORY / "launchers" / "components.py:train", "--config", "run.toml", "-j", "1x2"),
        *("--set", *[o for o in KINDS if o != "--set"], *one),
    )
    assert "model: mymodel:ResidualMmoe" in told


def test_from_elsewhere_the_run_tells_where_its_classes_were(trained, tmp_path):
    for arguments in (["evaluate", trained / "run"], ["inspect", trained / "run"], ["export", trained / "run", "--out", "x"]):
        told = command(tmp_path, *arguments, code=2)
        for name in NAMES:
            assert f"no module {name!r} can be imported" in told
            assert f"The run was trained with {name} of {trained}: PYTHONPATH={trained}, or start from there" in told
        assert "Traceback" not in told
    assert list(tmp_path.iterdir()) == []


def test_a_folder_on_the_path_serves_every_command(trained, tmp_path):
    assert "seconds" in command(tmp_path, "evaluate", trained / "run", path=trained)
    command(tmp_path, "inspect", trained / "run", "--out", tmp_path / "report.html", path=trained)
    assert "mymodel:ResidualMmoe" in (tmp_path / "report.html").read_text()
    command(tmp_path, "export", trained / "run", "--out", tmp_path / "weights", path=trained)
    about = (tmp_path / "weights" / "model.safetensors.index.json").read_text()
    assert "head.model.around.weight" in about


def test_a_program_scores_without_the_classes(trained, tmp_path):
    told = command(trained, "export", "run", "--format", "program", "--out", tmp_path / "program")
    assert "task seconds: largest difference to the trainer" in told
    command(tmp_path, "score", tmp_path / "program", trained / "data" / "test", "--out", tmp_path / "scores")
    scored = pq.read_table(tmp_path / "scores")
    kept = np.load(trained / "run" / "scores" / "test.npz")["scores"]
    scores = np.stack([scored[name] for name in scored.column_names], 1)
    assert scores.std(0).min() > 1e-4
    # Two ranks scored the same rows in another order; seconds are some tens.
    np.testing.assert_allclose(np.sort(scores, 0), np.sort(kept, 0), rtol=1e-5, atol=1e-6)
    table = pq.read_table(trained / "data" / "test")
    loaded = home_dist.load(tmp_path / "program")
    assert loaded.step == 10
    found = loaded.predict(table)
    for name in scored.column_names:
        np.testing.assert_allclose(found[name], scored[name], rtol=1e-6, atol=1e-6)


def test_a_wrong_result_ends_all_ranks_before_training(project, tmp_path):
    text = (project / "mymodel.py").read_text()
    assert "return self.bank.mixed([v], self.gates(v), mask) + self.around(v)" in text
    wrong = tmp_path / "wrongmodel.py"
    wrong.write_text(text.replace("return self.bank", "return self.around(v)\n        return self.bank"))
    shutil.copytree(project / "data", tmp_path / "data")
    shutil.copy(project / "run.toml", tmp_path)
    options = settings(model__kind="wrongmodel:ResidualMmoe", run__dir=tmp_path / "run", data__path=tmp_path / "data")
    told = torchrun(tmp_path, "train", "run.toml", *options, code=1)  # torchrun's own code
    expected = (
        f"{wrong}: ResidualMmoe.forward returned (4, 8) of torch.float32; expected is a tensor of floats (K, B, D) = (8, 4, 8)"
    )
    assert expected in told
    assert "exitcode  : 2" in told
    assert "step  " not in told
