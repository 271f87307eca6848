"""Gradients of several steps in one update: what one step of a larger batch gives, and exact after a stop."""

import json
import shutil

import pytest
import torch

from tests.distributed.test_training import newest, tensors
from tests.factory import make_config, make_data
from tests.ranks import run, settings

pytestmark = pytest.mark.distributed


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data"), rows=1536, files=2, row_group=128)


def losses(folder, data, batch_size, **values):
    """Per update, the loss of the samples that it is of. All tables are replicated: rows of sharded ones are updated in each
    step."""
    config = make_config(folder, data, batch_size=batch_size)
    options = settings(embedding__replicate_rows=5000, data__lanes=2, model__kind="shared_bottom", train__epochs=1, **values)
    options += settings(model__expert_norm="false", train__decay="none", train__clip_norm=0.5)
    ended = run(2, "train", config, *options)
    assert ended.codes == [0, 0], ended.text
    curve = [float(loss) for _, loss in sorted(ended.losses().items())]
    share = values.get("train__accumulate", 1)
    figures = json.loads((folder / "run" / "evaluation.json").read_text())
    updates = [sum(curve[i : i + share]) / share for i in range(0, len(curve), share)]
    return updates, figures["test"]["like"]["log_loss"]


@pytest.mark.slow
def test_equals_a_larger_batch(data, tmp_path):
    expected, scored = losses(tmp_path / "large", data, 64)
    found, found_scored = losses(tmp_path / "accumulated", data, 32, train__accumulate=2)
    other, _ = losses(tmp_path / "small", data, 32)
    assert len(expected) == len(found) == 12
    # AdamW divides by the gradient's size: where that is rounding noise, the curves part after some updates.
    assert found[:8] == pytest.approx(expected[:8], rel=5e-4)
    assert found_scored == pytest.approx(scored, rel=5e-3)
    assert other[1:8] != pytest.approx(expected[1:8], rel=1e-2)


@pytest.mark.slow
def test_a_stopped_run_goes_on_bit_for_bit(data, tmp_path):
    """24 steps per epoch and accumulate = 5: the last update of all is of 3 steps."""
    config = make_config(tmp_path, data, batch_size=32)
    options = settings(checkpoint__every_steps=10, checkpoint__keep_last=100, train__accumulate=5, train__clip_norm=0.5)
    options += settings(embedding__dropout=0.1)
    whole = run(2, "train", config, *options)
    assert whole.codes == [0, 0], whole.text
    expected = tensors(newest(tmp_path), tmp_path)
    for step in (30, 40, 48):
        shutil.rmtree(tmp_path / "run" / "checkpoints" / f"step-{step:08d}")
    (tmp_path / "run" / "evaluation.json").unlink()
    resumed = run(2, "train", config, *options)
    assert resumed.codes == [0, 0], resumed.text
    assert "step 20 of 48" in resumed.text
    found = tensors(newest(tmp_path), tmp_path)
    assert found.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []


def test_checkpoints_lie_between_updates(data, tmp_path):
    config = make_config(tmp_path, data)
    ended = run(1, "train", config, *settings(checkpoint__every_steps=10, train__accumulate=4))
    assert ended.codes == [2]
    assert "checkpoint.every_steps = 10 is no multiple of train.accumulate = 4" in ended.text
    assert "Set it to 8" in ended.text
