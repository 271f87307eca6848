"""Values, against scikit-learn and against a plain count of pairs."""

import math

import numpy as np
import pytest
from sklearn import metrics as oracle
from sklearn.calibration import calibration_curve as sklearn_curve

from home_dist.metrics import (
    auc,
    calibration_curve,
    calibration_ratio,
    evaluate_tasks,
    expected_calibration_error,
    gauc,
    log_loss,
    mean_row,
    normalized_entropy,
)


def sample(rows: int, seed: int, levels: int | None = None) -> tuple[np.ndarray, ...]:
    """Labels, scores, weights, users; `levels` makes that many distinct scores, so that there are ties."""
    random = np.random.default_rng(seed)
    scores = random.random(rows)
    if levels:
        scores = (np.floor(scores * levels) + 0.5) / levels
    labels = (random.random(rows) < 0.1 + 0.5 * scores).astype(np.float32)
    weights = random.choice([0.0, 0.5, 1.0, 3.0], rows)
    return labels, scores.astype(np.float32), weights, random.integers(0, rows // 12 + 1, rows)


@pytest.mark.parametrize("levels", [None, 40, 3, 1])
@pytest.mark.parametrize("seed", range(3))
def test_auc_and_log_loss(levels, seed):
    labels, scores, weights, _ = sample(3000, seed, levels)
    assert auc(labels, scores) == pytest.approx(oracle.roc_auc_score(labels, scores), abs=1e-12)
    expected = oracle.roc_auc_score(labels, scores, sample_weight=weights)
    assert auc(labels, scores, weights) == pytest.approx(expected, abs=1e-12)
    expected = oracle.log_loss(labels, scores.astype(np.float64), sample_weight=weights)
    assert log_loss(labels, scores, weights) == pytest.approx(expected, rel=1e-9)


def test_auc_counts_pairs():
    labels, scores, weights, _ = sample(200, 5, levels=9)
    won = all_pairs = 0.0
    for i in np.flatnonzero(labels == 1):
        for j in np.flatnonzero(labels == 0):
            pair = weights[i] * weights[j]
            all_pairs += pair
            won += pair * (float(scores[i] > scores[j]) + 0.5 * float(scores[i] == scores[j]))
    assert auc(labels, scores, weights) == pytest.approx(won / all_pairs, abs=1e-12)


@pytest.mark.parametrize("levels", [None, 5])
def test_gauc_group_by_group(levels):
    labels, scores, weights, users = sample(3000, 1, levels)
    for w in (np.ones(3000), weights):
        values, sizes, left_out = [], [], 0
        for user in np.unique(users[w > 0]):
            mine = (users == user) & (w > 0)
            if len(set(labels[mine])) < 2:
                left_out += 1
                continue
            values.append(oracle.roc_auc_score(labels[mine], scores[mine], sample_weight=w[mine]))
            sizes.append(w[mine].sum())
        found = gauc(labels, scores, users, w)
        assert found.value == pytest.approx(np.average(values, weights=sizes), abs=1e-12)
        assert (found.groups_used, found.groups_left_out) == (len(values), left_out)
        assert found.impressions_used == pytest.approx(sum(sizes))


def test_gauc_by_hand():
    """User 7: 0.2 < 0.9, right; user 3: one of two pairs right; user 5 has no positive."""
    labels, scores, users = [1, 0, 1, 0, 0, 0], [0.9, 0.2, 0.5, 0.4, 0.8, 0.1], [7, 7, 3, 3, 3, 5]
    found = gauc(labels, scores, users)
    assert found.value == pytest.approx((2 * 1.0 + 3 * 0.5) / 5)
    assert (found.groups_used, found.groups_left_out, found.impressions_used) == (2, 1, 5.0)


def test_groups_may_be_strings_and_huge_integers():
    labels, scores, _, users = sample(600, 2)
    expected = gauc(labels, scores, users)
    assert gauc(labels, scores, users + 2**60) == expected
    named = gauc(labels, scores, users.astype(str))  # in another order
    assert named.value == pytest.approx(expected.value, abs=1e-12)
    assert named.groups_used == expected.groups_used


def test_calibration_by_hand():
    labels, scores = [1, 0, 0, 1], [0.5, 0.25, 0.5, 0.75]
    assert calibration_ratio(labels, scores) == pytest.approx(1.0)
    assert calibration_ratio(labels, scores, [1, 1, 1, 0]) == pytest.approx(1.25)
    # Two bins: 0.25 and, since equal scores stay together, 0.5, 0.5 and 0.75.
    assert expected_calibration_error(labels, scores, bins=2) == pytest.approx((0.25 + abs(1.75 - 2)) / 4)
    assert expected_calibration_error(labels, scores, bins=1) == pytest.approx(0.0)


def test_calibration_curve_against_sklearn():
    """Quantile bins of as many distinct scores as there are samples hold the same samples."""
    labels, scores, _, _ = sample(1000, 7)
    rate, prediction = sklearn_curve(labels, scores, n_bins=10, strategy="quantile")
    curve = calibration_curve(labels, scores, bins=10)
    assert curve.weight.tolist() == [100] * 10
    assert curve.prediction == pytest.approx(prediction)
    assert curve.rate == pytest.approx(rate)
    assert calibration_curve([], []).weight.size == 0
    weighted = calibration_curve([1, 0, 1], [0.2, 0.2, 0.9], [1, 3, 2], bins=2)
    assert (weighted.weight.tolist(), weighted.rate.tolist()) == ([4, 2], [0.25, 1])


def test_calibration_error_of_a_calibrated_model_is_small():
    random = np.random.default_rng(0)
    scores = random.beta(1, 30, 200_000)
    labels = random.random(scores.size) < scores
    assert expected_calibration_error(labels, scores) < 0.002
    assert expected_calibration_error(labels, scores * 1.5) == pytest.approx(0.5 * scores.mean(), rel=0.1)


def test_normalized_entropy_is_one_for_the_base_rate():
    labels, scores, weights, _ = sample(1000, 3)
    rate = np.average(labels, weights=weights)
    assert normalized_entropy(labels, np.full(1000, rate), weights) == pytest.approx(1.0)
    entropy = -(rate * np.log(rate) + (1 - rate) * np.log(1 - rate))
    assert normalized_entropy(labels, scores, weights) == pytest.approx(log_loss(labels, scores, weights) / entropy)


def test_evaluate_tasks_ties_them_together():
    columns = [sample(800, seed) for seed in range(3)]
    labels, scores, weights = (np.stack([c[i] for c in columns], axis=1) for i in range(3))
    users = columns[0][3]
    tasks = ["click", "like", "follow"]
    found = evaluate_tasks(tasks, labels, weights, scores, users)
    assert [m.task for m in found] == tasks
    for k, m in enumerate(found):
        task = labels[:, k], scores[:, k]
        grouped = gauc(*task, users, weights[:, k])
        assert (m.auc, m.gauc) == (auc(*task, weights[:, k]), grouped.value)
        assert (m.gauc_groups, m.gauc_groups_left_out) == (grouped.groups_used, grouped.groups_left_out)
        assert m.log_loss == log_loss(*task, weights[:, k])
        assert m.normalized_entropy == normalized_entropy(*task, weights[:, k])
        assert m.calibration == calibration_ratio(*task, weights[:, k])
        assert m.calibration_error == expected_calibration_error(*task, weights[:, k])
        assert m.samples == (weights[:, k] > 0).sum()
        assert m.positives == labels[weights[:, k] > 0, k].sum()
    mean = mean_row(found)
    assert mean.auc == pytest.approx(np.mean([m.auc for m in found]))
    assert mean.samples == sum(m.samples for m in found)


def test_mean_row_skips_what_is_not_defined():
    labels = np.array([[1, 0], [0, 0]])
    found = evaluate_tasks(["like", "follow"], labels, np.ones((2, 2)), np.array([[0.6, 0.1], [0.3, 0.1]]))
    assert math.isnan(found[1].auc)
    mean = mean_row(found)
    assert mean.auc == 1.0
    assert math.isnan(mean.gauc)
    assert mean.log_loss == pytest.approx((found[0].log_loss + found[1].log_loss) / 2)
