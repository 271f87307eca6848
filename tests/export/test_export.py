"""Exports of a trained run: what the safetensors library reads, what a delta makes of an older one, what a program scores."""

import json
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from home_dist.training.checkpoint.reading import open_stored
from tests import forked
from tests.factory import make_config, make_data
from tests.ranks import REPOSITORY, run, settings

pytestmark = [pytest.mark.distributed, pytest.mark.slow]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    config = make_config(folder, make_data(folder / "data", rows=600, files=2))
    options = settings(checkpoint__every_steps=6, embedding__tables__video__sharding="row_wise", embedding__lr=0.5)
    ended = run(2, "train", config, *options, *settings(train__lr=0.02))
    assert ended.codes == [0, 0], ended.text
    return folder


def call(*arguments: object, code: int = 0) -> str:
    command = [sys.executable, "-W", "ignore", "-m", "home_dist.cli", *map(str, arguments)]
    ended = forked.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=300)
    assert ended.returncode == code, ended.stdout + ended.stderr
    return ended.stdout + ended.stderr


def checkpoints(folder: Path) -> list[Path]:
    return sorted((folder / "run" / "checkpoints").glob("step-*"))


def loaded(folder: Path) -> dict[str, torch.Tensor]:
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    found = {n: t for file in set(index["weight_map"].values()) for n, t in load_file(folder / file).items()}
    assert set(found) == set(index["weight_map"])
    return found


def test_safetensors_hold_the_checkpoint(trained, tmp_path):
    call("export", trained / "run", "--out", tmp_path / "x", "--shard-bytes", 50_000)
    found, (stored, _) = loaded(tmp_path / "x"), open_stored(checkpoints(trained)[-1])
    assert len(list((tmp_path / "x").glob("tables-*"))) >= 3
    assert len(list((tmp_path / "x").glob("dense-*"))) >= 1
    for table in ("user", "video", "tag"):
        assert torch.equal(found[f"tables.{table}.weight"], stored.whole(f"tables/{table}/weight"))
    small = stored.whole("dense/head.features.replicated.weights.4")
    parts = [found[f"tables.{t}.weight"] for t in ("tab", "level", "rate")]
    assert sorted(map(len, parts)) == [4, 5, 5]
    assert sorted(torch.cat(parts).flatten().tolist()) == sorted(small.flatten().tolist())
    dense = {n for n in found if not n.startswith("tables.")}
    assert all(torch.equal(found[n], stored.whole(f"dense/{n}")) for n in dense)
    assert len(dense) == sum(n.startswith("dense/") for n in stored.tensors) - 1
    assert json.loads((tmp_path / "x" / "boundaries.json").read_text())["rate"]["boundaries"] == [-1.0, 0.0, 1.0]
    again = call("export", trained / "run", "--out", tmp_path / "x", code=2)
    assert "is there already" in again


def test_a_delta_brings_an_older_export_up_to_date(trained, tmp_path):
    old, new = checkpoints(trained)[-2:]
    call("export", old, "--out", tmp_path / "old")
    call("export", new, "--out", tmp_path / "new")
    told = call("export", new, "--format", "delta", "--since", old, "--out", tmp_path / "delta")
    served, delta, wanted = (loaded(tmp_path / n) for n in ("old", "delta", "new"))
    rows = len(delta["tables.user.rows"])
    assert 0 < rows < 3000
    assert f"table user: {rows:,} of 3,000 rows changed" in told
    for name, values in delta.items():
        kind, _, rest = name.partition(".")
        if kind != "tables":
            served[name] = values
        elif rest.endswith(".rows"):
            table = rest.removesuffix(".rows")
            served[f"tables.{table}.weight"][values] = delta[f"tables.{table}.values"]
    assert all(torch.equal(served[n], wanted[n]) for n in wanted)


@pytest.mark.parametrize(("embeddings", "bound"), [("fp32", 1e-5), ("fp16", 2e-3), ("int8", 2e-2)])
def test_a_program_scores_as_the_trainer(embeddings, bound, trained, tmp_path):
    kind = ["--format", "program", "--embeddings", embeddings]
    told = call("export", trained / "run", *kind, "--out", tmp_path / "program")
    report = json.loads((tmp_path / "program" / "report.json").read_text())
    assert 0 <= report["largest_difference"] < bound
    assert embeddings == "fp32" or report["largest_difference"] > 0
    assert abs(report["largest_auc_loss"]) < 0.01
    assert "task watch: largest difference to the trainer" in told
    # Any batch size, one with empty lists only included, gives the trainer's scores of each row.
    kept = np.load(trained / "run" / "scores" / "test.npz")
    rows = pq.read_table(trained / "data" / "test")
    for size in (1, 7) if embeddings == "fp32" else (4096,):
        out = tmp_path / f"scores-{size}"
        call("score", tmp_path / "program", trained / "data" / "test", "--out", out, "--keep", "row_id", "--rows", size)
        found = pq.read_table(out)
        assert found.column("row_id").to_pylist() == rows.column("row_id").to_pylist()
        scores = np.stack([found.column(t) for t in ("like", "follow", "watch")], 1)
        # The run scored on two ranks: the same rows in another order.
        np.testing.assert_allclose(np.sort(scores, 0), np.sort(kept["scores"], 0), atol=bound)


def test_what_is_wrong_is_named(trained, tmp_path):
    wrong = call("export", trained, "--format", "onnx", "--out", tmp_path / "x", code=2)
    assert "'onnx' is not one of 'safetensors', 'program', 'dense', 'delta'" in " ".join(wrong.replace("│", " ").split())
    assert "--since names" in call("export", trained / "run", "--format", "delta", "--out", tmp_path / "x", code=2)
    for more in (["--format", "dense", "--embeddings", "int8"], ["--compiled"]):
        assert "is of --format program" in call("export", trained / "run", *more, "--out", tmp_path / "x", code=2)
    assert "no program is there" in call("score", tmp_path, trained / "data", "--out", tmp_path / "x", code=2)
    assert "no run is there" in call("export", tmp_path, "--out", tmp_path / "x", code=4)
