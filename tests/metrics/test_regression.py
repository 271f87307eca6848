"""Metrics of predicted numbers: against scikit-learn, and what must hold for any data."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as oracle

from home_dist.errors import DataError
from home_dist.metrics import mean_absolute_error, mean_ratio, number_calibration, r2, root_mean_squared_error
from home_dist.metrics.regression import finite_numbers

ALL = (mean_absolute_error, root_mean_squared_error, r2, mean_ratio)


_REPETITIONS = st.integers(0, 3)
_UNITS = st.sampled_from([1.0, 2.0**-700, 2.0**700])


@st.composite
def numbers(draw, weights=_REPETITIONS, scale=_UNITS):
    """Labels, predictions (both on a coarse grid, so that ties are common and sums are exact) and weights."""
    rows, unit = draw(st.integers(0, 25)), draw(scale)
    column = lambda values: np.array(draw(st.lists(values, min_size=rows, max_size=rows)), dtype=np.float64)  # noqa: E731
    return column(st.integers(-2, 6)) * unit, column(st.integers(-2, 8)) / 2 * unit, column(weights)


def everything(labels, predictions, weights) -> list[float]:
    curve = number_calibration(labels, predictions, weights, bins=3)
    columns = (curve.weight, curve.prediction, curve.label, curve.label_deviation)
    return [*(f(labels, predictions, weights) for f in ALL), *np.concatenate(columns)]


def close(left, right) -> bool:
    return left == pytest.approx(right, rel=1e-9, abs=1e-225, nan_ok=True)


@given(numbers(weights=st.sampled_from([0.0, 0.3, 1.0, 4.0]), scale=st.just(1.0)))
def test_against_sklearn(table):
    labels, predictions, weights = (c[table[2] > 0] for c in table)
    found = [f(*table) for f in ALL]
    if not labels.size:
        assert np.isnan(found).all()
        return
    given_ = {"sample_weight": weights}
    assert found[0] == pytest.approx(oracle.mean_absolute_error(labels, predictions, **given_), abs=1e-12)
    assert found[1] == pytest.approx(oracle.root_mean_squared_error(labels, predictions, **given_), abs=1e-12)
    if len(set(labels)) > 1:
        assert found[2] == pytest.approx(oracle.r2_score(labels, predictions, **given_), abs=1e-9)
    else:
        assert math.isnan(found[2])
    total = weights @ labels
    assert found[3] == pytest.approx(weights @ predictions / total if total else math.nan, nan_ok=True)


@settings(max_examples=50)
@given(numbers())
def test_a_weight_is_a_repetition(table):
    repeated = [np.repeat(column, table[2].astype(int)) for column in table[:2]]
    assert close(everything(*table), everything(*repeated, np.ones(len(repeated[0]))))


@settings(max_examples=50)
@given(numbers(), st.randoms(use_true_random=False))
def test_the_order_of_samples_does_not_matter(table, random):
    order = np.array(random.sample(range(len(table[0])), len(table[0])), int)
    assert close(everything(*table), everything(*(c[order] for c in table)))


@settings(max_examples=50)
@given(numbers(scale=st.just(1.0)), st.sampled_from([2.0**-900, 2.0**-500, 2.0**500, 2.0**900]))
def test_units_do_not_matter(table, unit):
    """Squares of such numbers overflow or vanish."""
    labels, predictions, weights = table
    there, scaled = everything(*table), everything(labels * unit, predictions * unit, weights)
    bins = (len(there) - len(ALL)) // 4
    units = [unit, unit, 1, 1, *[1] * bins, *[unit] * 3 * bins]
    assert [s / u for s, u in zip(scaled, units, strict=True)] == pytest.approx(there, rel=1e-9, abs=1e-9, nan_ok=True)


def test_calibration_by_hand():
    labels, predictions, weights = [10, 20, 60, 0, 5], [1, 1, 2, 3, 0], [1, 3, 2, 2, 0]
    curve = number_calibration(labels, predictions, weights, bins=2)  # the two predictions of 1 share a bin
    assert curve.weight.tolist() == [4, 4]
    assert curve.prediction.tolist() == [1, 2.5]
    assert curve.label.tolist() == [17.5, 30]
    assert curve.label_deviation == pytest.approx([math.sqrt((7.5**2 + 3 * 2.5**2) / 4), 30])
    assert mean_ratio(labels, predictions, weights) == pytest.approx(14 / 190)
    # A run of equal predictions belongs where its middle lies: of 8 samples, 3 are below 5 equal ones.
    assert number_calibration([0, 1], [1, 2], [3, 5], bins=2).weight.tolist() == [3, 5]
    assert number_calibration([], []).weight.size == 0


def test_one_sample_and_constant_labels():
    assert [f([3], [4]) for f in ALL[:2]] == [1, 1]
    assert math.isnan(r2([3], [4]))
    assert math.isnan(r2([0.1] * 7, np.arange(7)))
    assert r2([1, 2, 3], [2, 2, 2]) == pytest.approx(0)
    assert r2([1, 2], [1, 2]) == 1
    assert root_mean_squared_error([5, 5], [5, 5]) == 0
    assert math.isnan(mean_ratio([0, 0], [1, 1]))


@pytest.mark.parametrize(
    ("labels", "predictions", "weights", "message"),
    [
        ([1, 2], [1, math.nan], None, "1 of 2 scores are NaN"),
        ([1, 2], [-math.inf, math.nan], [1, 0], "1 of 1 predictions are infinite"),
        ([math.inf, 2], [1, 1], None, "1 of 2 labels are infinite or NaN"),
        ([math.nan, math.nan], [1, 1], None, "2 of 2 labels are infinite or NaN"),
        ([1, 2], [1, 1], [1, -1], "1 of 2 weights are negative"),
    ],
)
def test_faults_name_the_task(labels, predictions, weights, message):
    with pytest.raises(DataError, match=f"task 'seconds': {message}"):
        finite_numbers(labels, predictions, weights, "seconds")
    for metric in (*ALL, number_calibration):
        with pytest.raises(DataError, match=message):
            metric(labels, predictions, weights)


def test_misuse():
    with pytest.raises(ValueError, match=r"\(N,\)"):
        r2([1, 2], [[1, 2]])
    with pytest.raises(ValueError, match="bins"):
        number_calibration([1], [1], bins=0)
    assert mean_absolute_error([1, math.nan], [2, math.nan], [1, 0]) == 1  # a sample of weight 0 is not looked at
