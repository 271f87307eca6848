"""What a run measures when it ends."""

from types import SimpleNamespace

import pytest

from home_dist.config import MetricsSection
from home_dist.training.train import _splits_to_evaluate


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
