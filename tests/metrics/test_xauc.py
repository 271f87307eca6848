"""XAUC: against a plain count of pairs, AUC and scikit-learn, with and without the compiled library."""

import importlib
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from home_dist.errors import DataError
from home_dist.ids.no_group import NO_GROUP
from home_dist.metrics import auc, gauc, grouped_xauc, xauc
from home_dist.metrics.inversions import inversions
from home_dist.metrics.samples import counted_numbers

library = importlib.import_module("home_dist.metrics.inversions")


def by_pairs(labels, predictions, weights) -> float:
    won = pairs = 0.0
    for i in range(len(labels)):
        for j in range(len(labels)):
            if labels[i] > labels[j]:
                pair = weights[i] * weights[j]
                pairs += pair
                won += pair * ((predictions[i] > predictions[j]) + 0.5 * (predictions[i] == predictions[j]))
    return won / pairs if pairs else math.nan


def grouped_by_pairs(labels, predictions, groups, weights) -> tuple[float, int, int, float]:
    won = total = 0.0
    used = left_out = 0
    for group in set(groups[weights > 0].tolist()) - {NO_GROUP}:
        mine = (groups == group) & (weights > 0)
        value = by_pairs(labels[mine], predictions[mine], weights[mine])
        if math.isnan(value):
            left_out += 1
            continue
        used += 1
        won += weights[mine].sum() * value
        total += weights[mine].sum()
    return won / total if total else math.nan, used, left_out, total


_LABELS, _REPETITIONS = st.integers(-1, 4), st.integers(0, 3)


@st.composite
def tables(draw, labels=_LABELS, weights=_REPETITIONS):
    """Labels, predictions (coarse, so that ties are common), groups, weights."""
    rows = draw(st.integers(0, 30))
    column = lambda values: np.array(draw(st.lists(values, min_size=rows, max_size=rows)), dtype=np.float64)  # noqa: E731
    groups = np.array(draw(st.lists(st.sampled_from([NO_GROUP, -5, 0, 2**62]), min_size=rows, max_size=rows)), np.int64)
    return column(labels), column(st.integers(-3, 3)), groups, column(weights)


def close(left, right) -> bool:
    return left == pytest.approx(right, rel=1e-9, abs=1e-12, nan_ok=True)


@pytest.fixture(params=["compiled", "numpy"], scope="module")
def both_ways(request):
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "numpy":
            patch.setattr(library, "native", lambda: None)
        elif library.native() is None:
            pytest.skip("no C++ compiler")
        yield


@settings(max_examples=60)
@given(tables(weights=st.sampled_from([0.0, 0.25, 1.0, 3.0])))
def test_counts_pairs(both_ways, table):
    labels, predictions, groups, weights = table
    assert close(xauc(labels, predictions, weights), by_pairs(labels, predictions, weights))
    found = grouped_xauc(labels, predictions, groups, weights)
    value, used, left_out, total = grouped_by_pairs(labels, predictions, groups, weights)
    assert close(found.value, value)
    assert (found.groups_used, found.groups_left_out, found.impressions_used) == (used, left_out, total)


@pytest.mark.parametrize("rows", [13, 64, 65, 200])
def test_counts_pairs_of_many_rows(both_ways, rows):
    """Beyond the length from which the library merges."""
    random = np.random.default_rng(rows)
    labels = random.integers(0, rows // 3, rows).astype(float)
    predictions = labels + random.normal(0, rows / 4, rows).round()
    weights = random.choice([0.0, 0.5, 1.0, 2.0], rows)
    assert xauc(labels, predictions, weights) == pytest.approx(by_pairs(labels, predictions, weights), abs=1e-12)
    groups = random.integers(0, 5, rows) * 3
    expected = grouped_by_pairs(labels, predictions, groups, weights)[0]
    assert grouped_xauc(labels, predictions, groups, weights).value == pytest.approx(expected, abs=1e-12)
    assert grouped_xauc(labels, predictions, groups.astype(str), weights).value == pytest.approx(expected, abs=1e-12)


@pytest.mark.skipif(library.native() is None, reason="no C++ compiler")
def test_numpy_is_equal_to_the_library(monkeypatch):
    random = np.random.default_rng(0)
    starts = np.array([0, 1, 3, 3 + 17, 3 + 17 + 5000])
    values, weights = random.integers(0, 900, 9000).astype(float), random.integers(1, 4, 9000).astype(float)
    compiled = inversions(values, weights, starts)
    monkeypatch.setattr(library, "native", lambda: None)
    for one, other in zip(compiled, inversions(values, weights, starts), strict=True):
        np.testing.assert_array_equal(one, other)  # whole numbers are exact; the sort is stable in both


@settings(max_examples=50)
@given(tables(labels=st.integers(0, 1)))
def test_of_two_labels_is_the_area_under_the_curve(table):
    labels, predictions, groups, weights = table
    assert close(xauc(labels, predictions, weights), auc(labels, predictions, weights))
    one, other = grouped_xauc(labels, predictions, groups, weights), gauc(labels, predictions, groups, weights)
    assert close(one.value, other.value)
    assert (one.groups_used, one.groups_left_out) == (other.groups_used, other.groups_left_out)
    if {0.0, 1.0} <= set(labels[weights > 0]):
        assert close(xauc(labels, predictions, weights), roc_auc_score(labels, predictions, sample_weight=weights))


@settings(max_examples=50)
@given(tables(), st.randoms(use_true_random=False))
def test_weights_are_repetitions_and_order_does_not_matter(table, random):
    labels, predictions, _, weights = table
    order = np.array(random.sample(range(len(labels)), len(labels)), int)
    times = weights.astype(int)
    for columns in ([c[order] for c in table], [*(np.repeat(c, times) for c in table[:3]), np.ones(times.sum())]):
        assert close(xauc(columns[0], columns[1], columns[3]), xauc(labels, predictions, weights))
        assert close(grouped_xauc(*columns).value, grouped_xauc(*table).value)
    assert close(xauc(labels, -predictions, weights), 1 - xauc(labels, predictions, weights))
    monotone = predictions**3 * 1e300  # also infinite at the ends
    assert close(xauc(labels * 1e-300, monotone, weights), xauc(labels, predictions, weights))


def test_edges():
    for labels, predictions in (([], []), ([3.0], [1.0]), ([2.0, 2.0], [1.0, 5.0])):
        assert math.isnan(xauc(labels, predictions))
        assert math.isnan(grouped_xauc(labels, predictions, np.zeros(len(labels), np.int64)).value)
    assert xauc([1, 2, 2], [0, 5, math.inf]) == 1
    assert xauc([1, 2], [7, 7]) == 0.5
    assert xauc([1, 2, 9], [1, 2, math.nan], [1, 1, 0]) == 1
    nobody = grouped_xauc([1, 2], [1, 2], np.full(2, NO_GROUP))
    assert (nobody.groups_used, nobody.groups_left_out) == (0, 0)
    with pytest.raises(ValueError, match=r"groups \(1,\)"):
        grouped_xauc([1, 2], [1, 2], [1])


@pytest.mark.parametrize(
    ("labels", "predictions", "weights", "message"),
    [
        ([1, 2], [1, math.nan], None, "1 of 2 scores are NaN"),
        ([1, math.inf], [1, 1], None, "1 of 2 labels are infinite"),
        ([1, 2], [1, 1], [math.nan, 1], "1 of 2 weights are negative, infinite or NaN"),
    ],
)
def test_faults_name_the_task(labels, predictions, weights, message):
    with pytest.raises(DataError, match=f"task 'seconds': {message}"):
        counted_numbers(labels, predictions, weights, "seconds")
    with pytest.raises(DataError, match=message):
        xauc(labels, predictions, weights)
    with pytest.raises(DataError, match=message):
        grouped_xauc(labels, predictions, [1, 1], weights)
