"""Metrics of slices are those of their rows alone; the paired test of two models."""

import math

import numpy as np
import pytest
from scipy.stats import norm

from home_dist.metrics import bootstrap, evaluate_slices, evaluate_tasks, paired_test


def rows(seed: int = 0, n: int = 600):
    random = np.random.default_rng(seed)
    labels, weights = random.integers(0, 2, (n, 2)), random.integers(0, 2, (n, 2))
    return labels, weights, random.random((n, 2)), random.integers(0, 30, n), random.integers(0, 4, (n, 2)) * [1, 5]


def test_a_slice_is_its_rows_alone():
    labels, weights, scores, groups, values = rows()
    found = list(evaluate_slices(["tab", "age"], values, ["like", "buy"], labels, weights, scores, groups))
    assert [(s.feature, s.value) for s in found] == [(f, v * m) for f, m in (("tab", 1), ("age", 5)) for v in range(4)]
    for part in found:
        here = values[:, ["tab", "age"].index(part.feature)] == part.value
        assert part.samples == here.sum()
        alone = evaluate_tasks(["like", "buy"], labels[here], weights[here], scores[here], groups[here])
        assert repr(part.tasks) == repr(alone)  # nan among them
    assert sum(s.samples for s in found if s.feature == "tab") == 600


def test_few_rows_are_left_out_and_no_rows_have_no_slices():
    labels, weights, scores, groups, values = rows()
    values[:3, 0] = 9
    found = evaluate_slices(["tab", "age"], values, ["a", "b"], labels, weights, scores, groups, at_least=4)
    assert 9 not in [s.value for s in found if s.feature == "tab"]
    empty = (x[:0] for x in (labels, weights, scores, groups))
    assert list(evaluate_slices(["tab", "age"], values[:0], ["a", "b"], *empty)) == []
    with pytest.raises(ValueError, match=r"values \(600, 2\) must be \(600, 1\)"):
        list(evaluate_slices(["tab"], values, ["a", "b"], labels, weights, scores, groups))


def test_one_class_in_a_slice():
    [part] = evaluate_slices(["tab"], [[3], [3]], ["like"], [[1], [1]], [[1], [1]], [[0.5], [0.6]])
    assert math.isnan(part.tasks[0].auc)


def delong(labels: np.ndarray, first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """Difference of two AUC on the same rows and its two-sided p (DeLong et al. 1988), by pairs."""
    positive, negative = labels == 1, labels == 0
    placements = []
    for scores in (first, second):
        won = (scores[positive][:, None] > scores[negative]) + 0.5 * (scores[positive][:, None] == scores[negative])
        placements.append((won.mean(1), won.mean(0)))
    difference = placements[0][0].mean() - placements[1][0].mean()
    by_positive, by_negative = (placements[0][i] - placements[1][i] for i in range(2))
    variance = by_positive.var(ddof=1) / positive.sum() + by_negative.var(ddof=1) / negative.sum()
    return difference, 2 * norm.sf(abs(difference) / math.sqrt(variance))


@pytest.mark.parametrize("noise", [0.0, 0.15, 0.3])
def test_paired_test_agrees_with_delong_where_rows_are_independent(noise):
    random = np.random.default_rng(5)
    labels = random.integers(0, 2, 1500)
    first = labels + random.normal(0, 2, 1500)
    second = first + random.normal(0, 1 + 6 * noise, 1500)
    both = []
    for scores in (first, second):
        ones = np.ones((1500, 1))
        both.append(bootstrap(["t"], labels[:, None], ones, scores[:, None], np.arange(1500), resamples=800)[0])
    found = paired_test(*both)
    difference, p = delong(labels, first, second)
    assert found.interval.estimate == pytest.approx(difference, abs=1e-12)
    assert found.p == pytest.approx(p, abs=0.04)
    assert found.differs == (found.p < 0.05)


def test_paired_test_of_what_is_not_defined():
    ones = np.ones((4, 1))
    same = bootstrap(["t"], ones, ones, ones / 2, [1, 2, 3, 4], resamples=10)[0]
    found = paired_test(same, same, "t")
    assert math.isnan(found.p)
    assert not found.differs
    labels = np.array([[1], [0], [1], [0]])
    equal = bootstrap(["t"], labels, ones, ones / 2, [1, 1, 2, 2], resamples=10)[0]
    assert paired_test(equal, equal).p == 1.0
