"""Runs that read a share of the rows without a positive label predict what happens among all rows."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.factory import make_config, make_data
from tests.ranks import run, settings

pytestmark = [pytest.mark.distributed, pytest.mark.slow]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data"), rows=12000, files=2, row_group=500)


@pytest.mark.parametrize(("correct", "ranks"), [("weight", 1), ("weight", 2), ("logit", 2)])
def test_predictions_stay_calibrated(correct, ranks, data, tmp_path):
    config = make_config(tmp_path, data, batch_size=128 // ranks)
    negatives = f"{{keep=0.2, tasks=['follow'], correct='{correct}'}}"
    options = settings(data__negatives=negatives, train__epochs=1, model__kind="shared_bottom", train__lr=0.003)
    ended = run(ranks, "train", config, *options)
    assert ended.codes == [0] * ranks, ended.text
    test = json.loads((tmp_path / "run" / "evaluation.json").read_text())["test"]
    for task in ("like", "follow", "watch"):
        assert test[task]["calibration"] == pytest.approx(1, abs=0.12), task
    assert test["follow"]["auc"] > 0.6
    if correct == "logit":
        program = run(1, "export", tmp_path / "run", "--format", "program", "--out", tmp_path / "program")
        assert program.codes == [0], program.text
        scored = run(1, "score", tmp_path / "program", data / "test", "--out", tmp_path / "scores", "--keep", "follow_")
        assert "no such column" in scored.text
        scored = run(1, "score", tmp_path / "program", data / "test", "--out", tmp_path / "scores")
        assert scored.codes == [0], scored.text
        predicted = pq.read_table(tmp_path / "scores")["follow"].to_numpy()
        happened = pq.read_table(data / "test")["follow"].to_numpy()
        assert predicted.mean() == pytest.approx(happened.mean(), rel=0.12)
        assert np.isfinite(predicted).all()
