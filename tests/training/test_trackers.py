"""Real trackers: MLflow's server on loopback, asked by its REST API, and Weights & Biases' files of an offline run."""

import json
import os
import subprocess
import sys
import time
import tomllib
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from home_dist.files.json_files import read_json
from tests.factory import make_config, make_data
from tests.ranks import REPOSITORY, free_port, settings

pytestmark = [pytest.mark.slow, pytest.mark.e2e]
EXTRAS = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]


def made(folder, packages):
    """Python of an environment with packages of its own, and this one's where it has no other version."""
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    [site] = folder.glob("lib/python*/site-packages")
    (site / "beneath.pth").write_text("\n".join(p for p in sys.path if p.endswith("site-packages")))
    command = [folder / "bin" / "python", "-m", "pip", "install", "-q", "--no-compile", *packages]
    subprocess.run(command, check=True, capture_output=True, timeout=900)
    return folder / "bin" / "python"


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    return made(tmp_path_factory.mktemp("client") / "venv", [*EXTRAS["mlflow"], *EXTRAS["wandb"]])


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Python with MLflow's server, of the client's version."""
    version = EXTRAS["mlflow"][0].partition("==")[2]
    return made(tmp_path_factory.mktemp("server") / "venv", [f"mlflow=={version}"])


@contextmanager
def serving(server, folder, port):
    folder.mkdir(exist_ok=True)
    command = [server, "-m", "mlflow", "server", "--port", str(port), "--host", "127.0.0.1", "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}", "--artifacts-destination", str(folder)]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, start_new_session=True)
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).read()
                break
            except OSError:
                assert process.poll() is None, (folder / "log").read_text()
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, 15)
        process.wait(30)


def train(python, config, *options, code=0):
    command = [python, "-m", "home_dist.cli", "train", config, *settings(log__tensorboard="true"), *options]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "WANDB_DIR": "", "OMP_NUM_THREADS": "1"}
    ended = subprocess.run([*map(str, command)], cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=300)
    assert ended.returncode == code, ended.stdout + ended.stderr
    return ended.stdout


def told(run):
    """Of TensorBoard: by name, the values by step."""
    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    return {name: {e.step: e.value for e in events.Scalars(name)} for name in events.Tags()["scalars"]}


def ask(uri, call, **query):
    path = f"{uri}/api/2.0/mlflow/{call}"
    if call.endswith("search"):
        request = urllib.request.Request(path, json.dumps(query).encode(), {"Content-Type": "application/json"})
    else:
        request = f"{path}?{'&'.join(f'{k}={urllib.request.quote(v)}' for k, v in query.items())}"
    return json.loads(urllib.request.urlopen(request, timeout=20).read())


def tracked(name):
    return name.startswith(("train", "validation_", "test_"))


def test_mlflow_has_what_tensorboard_and_the_evaluation_have(server, client, tmp_path):
    config = make_config(tmp_path, make_data(tmp_path / "data", rows=400), batch_size=32)
    port = free_port()
    mlflow = f'{{ uri = "http://127.0.0.1:{port}", experiment = "shop ü" }}'
    options = settings(log__mlflow=mlflow, checkpoint__every_steps=4)
    with serving(server, tmp_path / "store", port) as uri:
        train(client, config, *options, *settings(train__max_steps=8))
        [experiment] = [e for e in ask(uri, "experiments/search", max_results=10)["experiments"] if e["name"] == "shop ü"]
        search = {"experiment_ids": [experiment["experiment_id"]]}
        [run] = ask(uri, "runs/search", **search)["runs"]
        assert (run["info"]["status"], run["info"]["run_name"]) == ("FINISHED", "run")
        parameters = {p["key"]: p["value"] for p in run["data"]["params"]}
        assert (parameters["model.kind"], parameters["sequence.0.kind"], parameters["train.lr"]) == ("home", "din", "0.01")
        # Goes on in the same run of MLflow. What may change becomes a tag, as parameters cannot change there.
        train(client, config, *options, *settings(train__max_steps=12))
        [again] = ask(uri, "runs/search", **search)["runs"]
        assert (
            again["info"]["run_id"]
            == run["info"]["run_id"]
            == read_json(tmp_path / "run" / "trackers.json", "")["MLflow"]["run"]
        )
        assert again["info"]["status"] == "FINISHED"
        assert {"key": "resumed.train.max_steps", "value": "12"} in again["data"]["tags"]
        expected = {name: values for name, values in told(tmp_path / "run").items() if tracked(name)}
        assert len(expected) > 20
        for name, values in expected.items():
            query = {"run_id": run["info"]["run_id"], "metric_key": name}
            history = ask(uri, "metrics/get-history", **query).get("metrics", [])
            found = {int(m.get("step", 0)): m["value"] for m in history}
            assert found == pytest.approx({s: v for s, v in values.items() if v == v}, rel=1e-6), name
        evaluation = read_json(tmp_path / "run" / "evaluation.json", "")
        newest = {m["key"]: m["value"] for m in again["data"]["metrics"]}
        for task, figures in evaluation["test"].items():
            assert newest[f"test_auc/{task}"] == pytest.approx(figures["auc"], rel=1e-12)
    # The server is gone: the run ends as it would, with two lines about it.
    began = time.monotonic()
    output = train(client, config, *options, *settings(train__max_steps=14))
    assert output.count("note: MLflow: ") == 2
    assert "sets of figures" in output
    assert "step 14/14" in output
    assert time.monotonic() - began < 120
    assert Path(tmp_path / "run" / "checkpoints" / "step-00000014").is_dir()


def test_a_run_that_fails_is_marked_so(server, client, tmp_path):
    config = make_config(tmp_path, make_data(tmp_path / "data", rows=400), batch_size=32)
    port = free_port()
    with serving(server, tmp_path / "store", port) as uri:
        options = settings(log__mlflow=f'{{ uri = "{uri}" }}', train__lr="1e30", train__max_steps=20, embedding__lr="1e30")
        train(client, config, *options, code=6)
        [experiment] = [e for e in ask(uri, "experiments/search", max_results=9)["experiments"] if e["name"] == "home_dist"]
        [run] = ask(uri, "runs/search", experiment_ids=[experiment["experiment_id"]])["runs"]
        assert run["info"]["status"] == "FAILED"


READ = """
import json, struct, sys
from wandb.proto import wandb_internal_pb2

def records(data, block=32768):
    "Of a log in LevelDB's format: a checksum, a length and a kind before each piece; records may span blocks."
    at, pieces = 7, []
    while at + 7 <= len(data):
        if block - at % block < 7:
            at += block - at % block
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        pieces.append(data[at + 7 : at + 7 + length])
        at += 7 + length
        if kind in (1, 4):
            yield b"".join(pieces)
            pieces = []

history, config, ended = [], {}, None
for piece in records(open(sys.argv[1], "rb").read()):
    record = wandb_internal_pb2.Record.FromString(piece)
    if record.WhichOneof("record_type") == "history":
        history.append({"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in record.history.item})
    if record.WhichOneof("record_type") == "run":
        config |= {i.key: json.loads(i.value_json) for i in record.run.config.update}
    if record.WhichOneof("record_type") == "exit":
        ended = record.exit.exit_code
print(json.dumps([history, config, ended]))
"""


def test_weights_and_biases_without_a_network(client, tmp_path):
    config = make_config(tmp_path, make_data(tmp_path / "data", rows=400), batch_size=32)
    options = settings(log__wandb='{ project = "shop", mode = "offline" }', checkpoint__every_steps=4)
    output = train(client, config, *options, *settings(train__max_steps=8))
    assert "wandb:" not in output
    train(client, config, *options, *settings(train__max_steps=12))
    files = sorted((tmp_path / "run" / "wandb").glob("offline-run-*/run-*.wandb"))
    assert len(files) == 2
    known = read_json(tmp_path / "run" / "trackers.json", "")["Weights & Biases"]["run"]
    assert {f.stem for f in files} == {f"run-{known}"}  # `wandb sync` makes one run of both
    values: dict[str, dict[int, float]] = {}
    for file in files:
        ended = subprocess.run([client, "-c", READ, file], capture_output=True, text=True, check=True, timeout=60)
        history, read, code = json.loads(ended.stdout)
        assert (read["model.kind"], code) == ("home", 0)
        for line in history:
            for name, value in line.items():
                if tracked(name):
                    values.setdefault(name, {})[line["step"]] = value
    expected = {name: found for name, found in told(tmp_path / "run").items() if tracked(name)}
    for name, found in expected.items():
        assert values.get(name, {}) == pytest.approx({s: v for s, v in found.items() if v == v}, rel=1e-6), name
