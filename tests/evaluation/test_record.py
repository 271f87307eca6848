"""Evaluations that hold what cannot be measured, and what is left of them in the run's folder."""

import json
import math

import numpy as np
import pytest

from home_dist.evaluation.record import record, recorded
from home_dist.evaluation.scores import Families, Scored, without_broken
from home_dist.evaluation.split import Evaluation
from home_dist.metrics import evaluate_tasks


def scored(logits, labels, weights, groups):
    tasks = labels.shape[1]
    families = Families(("binary",) * tasks, (1,) * tasks)
    return Scored(logits, labels, weights, groups, np.empty((len(labels), 0), dtype=np.int64), families)


def test_a_task_that_diverged_does_not_take_the_others_along():
    random = np.random.default_rng(0)
    scores, labels, weights = random.random((50, 3)), random.integers(0, 2, (50, 3)), np.ones((50, 3))
    scores[3:7, 1] = np.nan
    scores[5, 2], weights[5, 2] = np.nan, 0  # has no label there: does not matter
    given = scored(np.log(scores) - np.log1p(-scores), labels, weights, np.arange(50) % 5)
    found, notes = without_broken(given, ["like", "follow", "watch"])
    assert len(notes) == 1
    assert notes[0].startswith("task 'follow': 4 of 50 scores are NaN")
    metrics = evaluate_tasks(["like", "follow", "watch"], found.labels, found.weights, found.predictions, found.groups)
    assert math.isnan(metrics[1].auc)
    assert metrics[1].samples == 0
    assert metrics[0].auc == pytest.approx(evaluate_tasks(["a"], labels[:, :1], weights[:, :1], scores[:, :1])[0].auc)
    assert metrics[2].samples == 49
    assert not math.isnan(metrics[2].gauc)
    curves = Evaluation(metrics, [], found, True, notes).calibration_to_json()
    assert curves["follow"] == {"weight": [], "prediction": [], "rate": []}
    assert sum(curves["like"]["weight"]) == 50


def test_nothing_is_changed_where_nothing_is_broken():
    whole = np.ones((4, 1))
    given = scored(whole / 2, whole, whole, np.arange(4))
    found, notes = without_broken(given, ["like"])
    assert notes == []
    assert (found.weights == 1).all()


def small_evaluation():
    random = np.random.default_rng(0)
    scores, labels, weights = random.random((50, 2)), random.integers(0, 2, (50, 2)), np.ones((50, 2))
    labels[:, 1] = 0  # its AUC is not defined
    given = scored(np.log(scores / (1 - scores)), labels, weights, np.arange(50) % 5)
    return Evaluation(evaluate_tasks(["like", "follow"], labels, weights, scores), [], given, False, [])


def refuse(name):
    raise ValueError(f"{name} is no JSON")


def test_figures_are_valid_json_though_some_are_not_defined(tmp_path):
    record(tmp_path / "evaluation.json", tmp_path / "scores", {"test": small_evaluation()}, 7, 700, 0)
    tree = json.loads((tmp_path / "evaluation.json").read_text(), parse_constant=refuse)
    assert tree["test"]["follow"]["auc"] is None
    assert tree["test"]["like"]["auc"] > 0


@pytest.mark.parametrize("left", [b"", b'{"step": 3, "validation": {"like"', b"[]", b"\x80"])
def test_a_cut_file_of_figures_does_not_cost_the_evaluation_that_follows(tmp_path, left):
    path = tmp_path / "evaluation.json"
    path.write_bytes(left)
    splits = {"validation": small_evaluation(), "test": small_evaluation()}
    assert not recorded(path, list(splits), 7)
    record(path, tmp_path / "scores", splits, 7, 700, 100)
    assert recorded(path, list(splits), 7)
    assert not recorded(path, list(splits), 8)
    assert {"step", "samples", "validation", "test"} <= json.loads(path.read_text()).keys()
    assert sorted(p.name for p in (tmp_path / "scores").iterdir()) == ["test.npz", "validation.npz"]
