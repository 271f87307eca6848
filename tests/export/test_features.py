"""Programs of networks with every kind of feature and history score as the run did, on its own number of ranks."""

import json
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import home_dist
from home_dist.errors import UserError
from home_dist.export.managed_rows import ManagedRows, read_managed
from home_dist.export.program import open_program
from home_dist.export.program_inputs import Input
from home_dist.ids.rows import ManagedKeys
from home_dist.prepare.synthetic import Sizes, write_synthetic
from home_dist.prepare.synthetic.world import TASKS
from tests import forked
from tests.ranks import REPOSITORY, run, settings

CONFIG = """
run = { dir = "DIR" }
data = { path = "DATA" }
sequence = [{ name = "watched", kind = "din" }]
model = { kind = "mmoe", expert_hidden = [8], expert_dim = 8, tower_hidden = [8] }
train = { batch_size = 256, max_steps = 4 }
insight = { every_steps = 0 }
"""
RUNS = {
    "hashed": (1, {}),
    "managed": (2, {"embedding__tables__item__managed": "lfu", "embedding__tables__item__keep_rows": 501}),
    "newest": (1, {"sequence__0__newest": 5}),
    "sim_hard": (1, {"sequence__0__kind": "sim", "sequence__0__search": "hard", "sequence__0__most": 5}),
    "twin": (1, {"sequence__0__kind": "twin", "sequence__0__most": 5}),
    "dien": (1, {"sequence__0__kind": "dien", "sequence__0__newest": 20}),
    "sim": (1, {"sequence__0__kind": "sim", "sequence__0__most": 5}),
}
RUNS["sim_hard"][1]["sequence__0__category"] = "watched_category"
BOUNDS = {"sim": 2e-3}
"""Events of one item have one relevance, and of equal ones any may be taken."""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    sizes = Sizes(rows=3000, users=300, items=2000, max_history=60, vector_width=8, rows_per_file=1000, seed=3)
    folder = tmp_path_factory.mktemp("synthetic") / "data"
    write_synthetic(folder, sizes, lambda text: None)
    return folder


def call(*arguments: object) -> None:
    command = [sys.executable, "-W", "ignore", "-m", "home_dist.cli", *map(str, arguments)]
    ended = forked.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stdout + ended.stderr


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("name", RUNS)
def test_a_program_scores_as_the_run_did(name, data, tmp_path):
    ranks, options = RUNS[name]
    config = tmp_path / "run.toml"
    config.write_text(CONFIG.replace("DIR", str(tmp_path / "run")).replace("DATA", str(data)))
    ended = run(ranks, "train", config, *settings(**options))
    assert ended.codes == [0] * ranks, ended.text
    compiled = ["--compiled"] if name == "hashed" else []
    call("export", tmp_path / "run", "--format", "program", "--out", tmp_path / "program", *compiled)
    # The folder must do without the data that the run was trained on.
    data.rename(data.with_name("elsewhere"))
    try:
        call("score", tmp_path / "program", data.with_name("elsewhere") / "test", "--out", tmp_path / "scores", *compiled)
    finally:
        data.with_name("elsewhere").rename(data)
    scored = pq.read_table(tmp_path / "scores")
    scores = np.stack([scored.column(task.name) for task in TASKS], 1)
    kept = np.load(tmp_path / "run" / "scores" / "test.npz")["scores"]
    assert scores.shape == kept.shape
    assert (scores.std(0) > 1e-5).all()
    # Two ranks scored the same rows in another order.
    np.testing.assert_allclose(np.sort(scores, 0), np.sort(kept, 0), atol=BOUNDS.get(name, 1e-5))
    for place in (tmp_path / "run", tmp_path / "program"):
        loaded = home_dist.load(place)
        for table in (pq.read_table(data / "test"), data / "test"):
            found = np.stack(loaded.predict(table, rows=1000).columns, 1)
            np.testing.assert_allclose(found, scores, atol=BOUNDS.get(name, 1e-6))
    if ranks == 1:
        report = json.loads((tmp_path / "program" / "report.json").read_text())
        assert report["largest_difference"] < BOUNDS.get(name, 1e-5)
        np.testing.assert_allclose(scores, kept, atol=BOUNDS.get(name, 1e-5))


def test_managed_ids_have_the_rows_of_the_checkpoint_and_others_the_first_of_their_set(tmp_path):
    hashes_of = ManagedKeys("integer", 5)
    values = pa.array([10**12, 7, None, 123456789, -4])
    hashes = hashes_of(values)
    owned = pa.table({"hash": np.sort(hashes[:2]), "row": [3, 9]})
    pq.write_table(owned.replace_schema_metadata({b"rows_of_the_table": b"16"}), tmp_path / "item.parquet")
    rows = dict(zip(np.sort(hashes[:2]).tolist(), (3, 9), strict=True))
    expected = [rows.get(h, 0 if h < 2**61 else 8) for h in hashes.tolist()]
    assert ManagedRows(hashes_of, read_managed(tmp_path / "item.parquet"))(values).tolist() == expected
    assert len(set(expected)) > 2


def test_an_input_tells_its_tensor():
    vector = Input("pretrained.text", "pretrained", width=9)
    assert (vector.dtype, vector.shape) == (torch.float32, (9,))
    assert Input("list.item/watched", "list", "watched").shape == ()


def test_no_program_is_named(tmp_path):
    with pytest.raises(UserError, match="no program is there"):
        open_program(tmp_path)
