"""Calibration of exported programs: golden values of scikit-learn, in torch and in a program that is loaded again."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from torch import nn

from home_dist.errors import ConfigError
from home_dist.evaluation.scores import Families, Scored
from home_dist.export.calibration import Calibrated, fit_calibration, interpolated
from tests.factory import make_config, make_data
from tests.ranks import run, settings


def scored(rows: int = 4000, seed: int = 0) -> Scored:
    """A binary task that predicts too little, a number, and a binary task that predicts too much."""
    random = np.random.default_rng(seed)
    logits = random.normal(-2, 1.5, (rows, 2))
    truth = 1 / (1 + np.exp(-(logits * [0.7, 1.3] + [0.4, -0.8])))
    labels = np.insert((random.random((rows, 2)) < truth).astype(np.float32), 1, random.random(rows), 1)
    weights = random.choice([0.0, 1.0, 2.0], (rows, 3)).astype(np.float32)
    scores = np.insert(logits, 1, 7.0, 1)
    families = Families(("binary", "number", "binary"), (1, 1, 1))
    return Scored(scores, labels, weights, np.zeros(rows, np.int64), np.zeros((rows, 0)), families)


def oracle(method: str, p: np.ndarray, y: np.ndarray, w: np.ndarray, asked: np.ndarray) -> np.ndarray:
    if method == "platt":
        model = LogisticRegression(C=1e12, tol=1e-10, max_iter=5000).fit(np.log(p / (1 - p))[:, None], y, w)
        return model.predict_proba(np.log(asked / (1 - asked))[:, None])[:, 1]
    return IsotonicRegression(out_of_bounds="clip").fit(p, y, w).predict(asked)


class Given(nn.Module):
    def forward(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        return inputs["p"]


@pytest.mark.parametrize("method", ["platt", "isotonic"])
def test_the_layer_predicts_what_scikit_learn_does(method):
    samples = scored()
    calibration, notes = fit_calibration(samples, ["like", "seconds", "view"], method)
    assert notes == []
    asked = np.concatenate([np.geomspace(1e-6, 0.5, 300), np.linspace(0.5, 0.9999, 300)])
    given = torch.tensor(np.stack([asked, asked * 100, asked], 1), dtype=torch.float32)
    found = Calibrated(Given(), calibration)({"p": given})
    assert torch.equal(found[:, 1], given[:, 1])
    for column in (0, 2):
        known = samples.weights[:, column] > 0
        rows = (samples.predictions[known, column], samples.labels[known, column], samples.weights[known, column])
        wanted = oracle(method, *rows, given[:, column].double().numpy())
        np.testing.assert_allclose(found[:, column].numpy(), wanted, atol=2e-4 if method == "platt" else 2e-5)
        task = calibration.columns[column]
        assert abs(task.before - 1) > 0.1
        assert task.after == pytest.approx(1, abs=1e-3)
        assert task.before == pytest.approx((rows[0] * rows[2]).sum() / (rows[1] * rows[2]).sum())


def test_golden_numbers_of_a_planted_distortion():
    """The labels were drawn with sigmoid(0.7 z + 0.4) and sigmoid(1.3 z - 0.8)."""
    calibration, _ = fit_calibration(scored(60_000, 1), ["like", "seconds", "view"], "platt")
    one, two = calibration.columns[0], calibration.columns[2]
    assert (one.scale, one.shift) == pytest.approx((0.7, 0.4), abs=0.06)
    assert (two.scale, two.shift) == pytest.approx((1.3, -0.8), abs=0.06)


def test_lines_between_knots_are_numpys():
    knots, values = torch.tensor([0.1, 0.2, 0.4, 0.4000001, 0.9]), torch.tensor([0.0, 0.1, 0.1, 0.5, 0.7])
    p = torch.rand(2000, generator=torch.Generator().manual_seed(0))
    np.testing.assert_allclose(interpolated(p, knots, values), np.interp(p, knots, values), atol=1e-6)
    assert interpolated(p, knots[:1], values[1:2]).tolist() == [pytest.approx(0.1)] * 2000


def test_a_task_of_one_class_stays_and_a_split_without_any_is_refused():
    samples = scored()
    samples.labels[:, 0] = 0
    calibration, notes = fit_calibration(samples, ["like", "seconds", "view"], "platt")
    assert list(calibration.columns) == [2]
    assert "task like: the validation split has rows of one class alone" in notes[0]
    samples.labels[:, 2] = 1
    with pytest.raises(ConfigError, match="no binary task with labels of both classes"):
        fit_calibration(samples, ["like", "seconds", "view"], "platt")


@pytest.mark.slow
@pytest.mark.distributed
def test_a_program_calibrates_and_says_so(tmp_path):
    config = make_config(tmp_path, make_data(tmp_path / "data", rows=600, files=2))
    assert run(1, "train", config, *settings(train__lr=0.05)).codes == [0]
    data = tmp_path / "data"
    for name, more in (("plain", []), ("platt", ["--calibrate", "platt"]), ("isotonic", ["--calibrate", "isotonic"])):
        ended = run(1, "export", tmp_path / "run", "--out", tmp_path / name, "--format", "program", *more, timeout=240)
        assert ended.codes == [0], ended.text
        for split in ("validation", "test"):
            ended = run(1, "score", tmp_path / name, data / split, "--out", tmp_path / f"{name}-{split}", timeout=240)
            assert ended.codes == [0], ended.text

    def scores(name: str, split: str) -> dict[str, np.ndarray]:
        table = pq.read_table(tmp_path / f"{name}-{split}")
        return {c: table[c].to_numpy().astype(np.float64) for c in table.column_names}

    validation = pq.read_table(data / "validation")
    for method in ("platt", "isotonic"):
        told = json.loads((tmp_path / method / "program.json").read_text())["calibration"]
        assert (told["method"], told["split"]) == (method, "validation")
        assert json.loads((tmp_path / method / "report.json").read_text())["largest_difference"] < 1e-5
        for task in ("like", "follow", "watch"):
            w = validation["watch_weight"].to_numpy() if task == "watch" else np.ones(len(validation))
            y, p = validation[task].to_numpy()[w > 0], scores("plain", "validation")[task][w > 0]
            wanted = oracle(method, p, y, w[w > 0], scores("plain", "test")[task])
            np.testing.assert_allclose(scores(method, "test")[task], wanted, atol=2e-3)
            assert told["tasks"][task]["positives"] == int(y.sum())
            assert told["tasks"][task]["after"] == pytest.approx(1, abs=1e-3)
    assert "calibration" not in json.loads((tmp_path / "plain" / "program.json").read_text())
    refused = run(1, "export", tmp_path / "run", "--out", tmp_path / "x", "--calibrate", "platt")
    assert refused.codes == [2]
    assert "--calibrate is of --format program" in refused.text
