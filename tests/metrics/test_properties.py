"""What must hold for any data."""

import math
from dataclasses import astuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from home_dist.metrics import auc, calibration_ratio, expected_calibration_error, gauc, log_loss, normalized_entropy

_REPETITIONS = st.integers(0, 3)


@st.composite
def tables(draw, weights=_REPETITIONS):
    """Labels, scores on a coarse grid (so that ties are common), weights, groups."""
    rows = draw(st.integers(0, 40))
    column = lambda values: np.array(draw(st.lists(values, min_size=rows, max_size=rows)), dtype=np.float64)  # noqa: E731
    return (
        column(st.integers(0, 1)),
        column(st.integers(0, 8)) / 8,
        column(weights),
        column(st.integers(0, 5)).astype(np.int64),
    )


def everything(labels, scores, weights, groups) -> list[float]:
    grouped = gauc(labels, scores, groups, weights)
    return [
        auc(labels, scores, weights),
        grouped.value,
        grouped.groups_used,
        grouped.groups_left_out,
        grouped.impressions_used,
        log_loss(labels, scores, weights),
        normalized_entropy(labels, scores, weights),
        calibration_ratio(labels, scores, weights),
        expected_calibration_error(labels, scores, weights, bins=4),
    ]


def close(left, right) -> bool:
    return left == pytest.approx(right, rel=1e-9, abs=1e-12, nan_ok=True)


@given(tables())
def test_a_weight_is_a_repetition(table):
    labels, scores, weights, groups = table
    times = weights.astype(int)
    repeated = [np.repeat(column, times) for column in (labels, scores, np.ones(len(labels)), groups)]
    assert close(everything(*table), everything(*repeated))


@given(tables(), st.randoms(use_true_random=False))
def test_the_order_of_samples_does_not_matter(table, random):
    order = list(range(len(table[0])))
    random.shuffle(order)
    assert close(everything(*table), everything(*(column[order] for column in table)))


@given(tables())
def test_ranking_metrics_see_only_the_order_of_scores(table):
    labels, scores, weights, groups = table
    logits = scores**3 * 40 - 20
    assert close(auc(labels, scores, weights), auc(labels, logits, weights))
    left, right = (gauc(labels, s, groups, weights) for s in (scores, logits))
    assert close(list(astuple(left)), list(astuple(right)))


@given(tables())
def test_reversed_scores_reverse_the_area(table):
    labels, scores, weights, groups = table
    assert close(auc(labels, -scores, weights), 1 - auc(labels, scores, weights))
    assert close(gauc(labels, -scores, groups, weights).value, 1 - gauc(labels, scores, groups, weights).value)


@given(tables(), st.floats(-1, 2))
def test_equal_scores_are_a_coin(table, score):
    labels, _, weights, groups = table
    both = {0.0, 1.0} <= set(labels[weights > 0])
    assert close(auc(labels, np.full(len(labels), score), weights), 0.5 if both else math.nan)
    found = gauc(labels, np.full(len(labels), score), groups, weights)
    assert close(found.value, 0.5 if found.groups_used else math.nan)


@given(tables())
def test_one_group_is_the_area_itself(table):
    labels, scores, weights, groups = table
    assert close(gauc(labels, scores, np.zeros_like(groups), weights).value, auc(labels, scores, weights))


@given(tables(weights=st.sampled_from([0.0, 0.1, 0.7, 1e-3, 1e6])))
def test_fractional_weights_against_scikit_learn(table):
    labels, scores, weights, _ = table
    found = auc(labels, scores, weights)
    counts = weights > 0
    if len(set(labels[counts])) < 2:
        assert math.isnan(found)
    else:
        assert close(found, roc_auc_score(labels[counts], scores[counts], sample_weight=weights[counts]))
        assert 0 <= found <= 1
