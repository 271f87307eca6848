"""No rows, one class, no weight, groups of one, and input that is refused with a message that helps."""

import math

import numpy as np
import pytest

from home_dist.errors import DataError
from home_dist.metrics import auc, bootstrap, evaluate_tasks, gauc, log_loss

UNDEFINED = ("auc", "gauc", "log_loss", "normalized_entropy", "calibration", "calibration_error")


@pytest.mark.parametrize("rows", [0, 4])
def test_nothing_counts(rows):
    """No rows, and rows whose weights are all 0: whatever stands there, even NaN, does not matter."""
    shape = (rows, 1)
    [m] = evaluate_tasks(["like"], np.full(shape, 7), np.zeros(shape), np.full(shape, np.nan), np.arange(rows))
    assert (m.samples, m.positives, m.gauc_groups, m.gauc_groups_left_out) == (0, 0, 0, 0)
    assert all(math.isnan(getattr(m, name)) for name in UNDEFINED)


@pytest.mark.parametrize("label", [0, 1])
def test_one_class(label):
    [m] = evaluate_tasks(["like"], np.full((3, 1), label), np.ones((3, 1)), np.full((3, 1), 0.25), np.arange(3))
    assert math.isnan(m.auc)
    assert math.isnan(m.gauc)
    assert math.isnan(m.normalized_entropy)
    assert m.gauc_groups_left_out == 3
    assert m.log_loss == pytest.approx(-math.log(0.25 if label else 0.75))
    assert m.calibration == pytest.approx(0.25) if label else math.isnan(m.calibration)
    assert m.calibration_error == pytest.approx(abs(0.25 - label))


def test_groups_of_one_have_no_area():
    found = gauc([1, 0, 1], [0.9, 0.1, 0.8], [1, 2, 3])
    assert math.isnan(found.value)
    assert (found.groups_used, found.groups_left_out, found.impressions_used) == (0, 3, 0.0)


def test_without_groups():
    [m] = evaluate_tasks(["like"], [[1], [0]], [[1], [1]], [[0.7], [0.2]])
    assert m.auc == 1.0
    assert math.isnan(m.gauc)


def test_infinite_logits_are_an_order_too():
    assert auc([1, 0, 1, 0], [np.inf, -np.inf, 0.0, 0.0]) == pytest.approx(0.875)


def test_saturated_probabilities_cost_much_but_not_everything():
    assert math.isfinite(log_loss([1, 0], [0.0, 1.0]))
    assert log_loss([1, 0], [1.0, 0.0]) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scores": [[0.1, np.nan], [np.nan, np.nan]]}, "task 'like': 1 of 2 scores are NaN"),
        ({"scores": [[0.1, 0.2], [3.0, 0.5]]}, "task 'like': 1 of 2 scores are no probabilities"),
        ({"labels": [[0, 1], [0.5, 0]]}, "task 'like': 1 of 2 labels are neither 0 nor 1, for example 0.5"),
        ({"weights": [[1, 1], [-1, 1]]}, "task 'like': 1 of 2 weights are negative"),
        ({"weights": [[1, 1], [np.inf, 1]]}, "task 'like': 1 of 2 weights are negative, infinite or NaN"),
    ],
)
def test_bad_values_are_named(change, message):
    good = {"labels": [[0, 1], [1, 0]], "weights": [[1, 1], [1, 1]], "scores": [[0.2, 0.3], [0.4, 0.5]]}
    with pytest.raises(DataError, match=message):
        evaluate_tasks(["like", "click"], groups=[1, 2], **(good | change))


def test_shapes_are_named():
    with pytest.raises(ValueError, match=r"labels \(2, 2\), weights \(2, 2\) and scores \(2, 1\) must all be \(N, 2\)"):
        evaluate_tasks(["like", "click"], np.zeros((2, 2)), np.ones((2, 2)), np.zeros((2, 1)))
    with pytest.raises(ValueError, match=r"groups \(3,\) must be \(2,\)"):
        evaluate_tasks(["like"], np.zeros((2, 1)), np.ones((2, 1)), np.zeros((2, 1)), [1, 2, 3])
    with pytest.raises(ValueError, match="must all be"):
        auc([1, 0], [0.5])
    with pytest.raises(ValueError, match="groups"):
        gauc([1, 0], [0.5, 0.2], [1])
    with pytest.raises(ValueError, match="resamples"):
        bootstrap(["like"], [[1]], [[1]], [[0.5]], [1], resamples=0)
