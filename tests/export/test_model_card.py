"""The model card of an export says what evaluation.json says, and the files load with nothing but safetensors."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from home_dist.export.model_card import card
from home_dist.export.source import Source
from home_dist.files.json_files import read_json, write_json
from home_dist.training.checkpoint.reading import open_stored
from tests.factory import make_config, make_data
from tests.ranks import run, settings

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

# Hugging Face's layout, read as its own libraries do: the index says which file holds a tensor.
READ = """
import json, sys
import numpy as np
from safetensors import safe_open
folder = sys.argv[1]
index = json.load(open(f"{folder}/model.safetensors.index.json"))
found, bytes_ = {}, 0
for name, file in index["weight_map"].items():
    with safe_open(f"{folder}/{file}", framework="numpy") as opened:
        found[name] = opened.get_tensor(name)
        bytes_ += found[name].nbytes
assert bytes_ == index["metadata"]["total_size"], bytes_
assert not {"torch", "home_dist"} & sys.modules.keys()
np.savez(sys.argv[2], **found)
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    data = make_data(folder / "data", rows=600)
    splits = {s: {"days": ["2024-05-01", "2024-05-02"], "rows": 7, "users": 3} for s in ("train", "test")}
    write_json(data / "report.json", {"splits": splits})
    ended = run(1, "train", make_config(folder, data), *settings(checkpoint__every_steps=6, checkpoint__keep_last=2))
    assert ended.codes == [0], ended.text
    return folder / "run"


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    out = tmp_path_factory.mktemp("exports") / "x"
    ended = run(1, "export", trained, "--out", out, "--shard-bytes", 50_000)
    assert ended.codes == [0], ended.text
    return out


def header(text):
    return yaml.safe_load(text.split("---\n")[1])


def test_the_files_load_with_safetensors_alone(trained, exported, tmp_path):
    command = [sys.executable, "-I", "-c", READ, exported, tmp_path / "found.npz"]
    subprocess.run(list(map(str, command)), check=True, timeout=60)
    found = np.load(tmp_path / "found.npz")
    stored, _ = open_stored(sorted((trained / "checkpoints").glob("step-*"))[-1])
    assert np.array_equal(found["tables.video.weight"], stored.whole("tables/video/weight").numpy())
    dense = [name for name in found.files if not name.startswith("tables.")]
    assert len(dense) > 10
    for name in dense:
        assert np.array_equal(found[name], stored.whole(f"dense/{name}").numpy()), name


def test_the_code_of_the_card_runs(exported):
    [code] = re.findall(r"```python\n(.*?)```", (exported / "README.md").read_text(), re.DOTALL)
    subprocess.run([sys.executable, "-I", "-c", f"{code}\nassert values.size"], cwd=exported, check=True, timeout=60)


def test_figures_are_those_of_the_evaluation(trained, exported):
    text, figures = (exported / "README.md").read_text(), read_json(trained / "evaluation.json", "")
    [model] = header(text)["model-index"]
    told = {(r["dataset"]["split"], r["task"]["name"], m["type"]): m["value"] for r in model["results"] for m in r["metrics"]}
    assert len(told) == 2 * 3 * 4
    for (split, task, measure), value in told.items():
        assert value == figures[split][task][measure]
    for task in ("like", "follow", "watch"):
        entry = figures["test"][task]
        assert f"| `{task}` | {entry['samples']} | {entry['positives']} | {entry['auc']:.4f} (" in text  # with an interval
    assert set(header(text)["metrics"]) == {"auc", "gauc", "log_loss", "calibration"}
    assert "home" in header(text)["tags"]
    assert "license" not in header(text)  # the user's to choose
    assert "- test: 7 rows, 2024-05-01 to 2024-05-02, of 3 users" in text
    assert "`video` 2,000 x 8" in text


def test_figures_of_another_checkpoint_are_not_told(trained):
    older = min((trained / "checkpoints").glob("step-*"))
    text = card(Source.open(older), "safetensors")
    assert "has not been evaluated on its own" in text
    assert "model-index" not in header(text)


@pytest.mark.parametrize("form", ["dense", "delta"])
def test_every_export_has_one(trained, tmp_path, form):
    older = min((trained / "checkpoints").glob("step-*"))
    options = ["--since", older] if form == "delta" else []
    ended = run(1, "export", trained, "--format", form, "--out", tmp_path / "x", *options)
    assert ended.codes == [0], ended.text
    text = (tmp_path / "x" / "README.md").read_text()
    assert header(text)["library_name"] == "home_dist"
    assert ("dense.pt2" if form == "dense" else "tables.NAME.rows") in text


def test_data_that_are_not_here_or_are_described_otherwise(trained, tmp_path):
    source = Source.open(trained)
    report = Path(source.config.data.path) / "report.json"
    whole = report.read_text()
    for content in ("{}", "[]", "not JSON", json.dumps({"splits": {"test": {"rows": 5}}})):
        report.write_text(content)
        assert "samples in training" in card(source, "safetensors")
    parts = {"test": {"days": ["all rows", "all rows"], "rows": 5, "users": 0}}  # at random, of a log without times or users
    report.write_text(json.dumps({"splits": parts}))
    assert "\n- test: 5 rows\n" in card(source, "safetensors")
    report.unlink()
    assert "2024-05-01" not in card(source, "safetensors")
    report.write_text(whole)
