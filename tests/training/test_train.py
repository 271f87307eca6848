"""What a run measures when it ends."""

from types import SimpleNamespace

import pytest

from home_dist.config import MetricsSection
from home_dist.training.run_folder import RunFolder
from home_dist.training.train import _splits_to_evaluate, _written


@pytest.mark.parametrize(
    ("there", "of_training", "measured"),
    [
        (["train", "validation", "test"], True, ["validation", "test"]),
        (["train", "test"], False, ["test"]),
        (["train"], True, ["train"]),
        (["train"], False, []),
        (["validation"], True, ["validation"]),
        ([], True, []),
    ],
)
def test_training_data_is_measured_where_nothing_else_is(there, of_training, measured):
    config = SimpleNamespace(metrics=MetricsSection(of_training=of_training))
    assert _splits_to_evaluate(SimpleNamespace(files=dict.fromkeys(there), config=config)) == measured


@pytest.mark.parametrize("tensorboard", [True, False])
@pytest.mark.parametrize("splits", [["test"], []])
def test_a_run_names_only_what_it_has_written(tensorboard, splits, tmp_path):
    folder = RunFolder(tmp_path)
    config = SimpleNamespace(log=SimpleNamespace(tensorboard=tensorboard))
    text = _written(config, splits, folder, folder.checkpoints / "step-00000001")
    assert str(folder.checkpoints / "step-00000001") in text
    assert str(folder.config) in text
    assert (str(folder.tensorboard) in text) == tensorboard
    assert (str(folder.evaluation) in text) == bool(splits)
