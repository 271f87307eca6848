"""Intervals of MAE, RMSE and XAUC: against rows that are repeated one by one."""

import numpy as np
import pytest

from home_dist.errors import DataError
from home_dist.ids.no_group import NO_GROUP
from home_dist.metrics import (
    bootstrap,
    bootstrap_errors,
    bootstrap_xauc,
    grouped_xauc,
    mean_absolute_error,
    root_mean_squared_error,
    xauc,
)
from home_dist.metrics.draws import Draws

TASKS = ["seconds", "share"]


def data(seed: int = 0, users: int = 30, rows: int = 400):
    random = np.random.default_rng(seed)
    predictions = random.random((rows, 2)).round(1)
    labels = (predictions + random.normal(0, 1, (rows, 2))).round(1)
    return labels, random.choice([0.0, 0.5, 2.0], (rows, 2)), predictions, random.integers(0, users, rows)


def test_draws_equal_metrics_of_the_repeated_rows():
    labels, weights, predictions, users = data()
    all_found = [*bootstrap_errors(TASKS, *data(), resamples=4, seed=3), *bootstrap_xauc(TASKS, *data(), resamples=4, seed=3)]
    random = np.random.default_rng(3)
    names = np.unique(users)
    rows_of = [np.flatnonzero(users == user) for user in names]
    for draw in range(4):
        chosen = random.integers(0, len(names), len(names))
        rows = np.concatenate([rows_of[user] for user in chosen])
        copies = np.repeat(np.arange(len(names)), [len(rows_of[user]) for user in chosen])  # a user drawn twice is two users
        for k in range(2):
            table = labels[rows, k], predictions[rows, k], weights[rows, k]
            expected = [metric(*table) for metric in (mean_absolute_error, root_mean_squared_error, xauc)]
            expected.append(grouped_xauc(*table[:2], copies, table[2]).value)
            assert [found.draws[draw, k] for found in all_found] == pytest.approx(expected, abs=1e-12)


def test_estimates_are_the_metrics_and_lie_inside():
    labels, weights, predictions, users = data(1)
    for k, task in enumerate(TASKS):
        table = labels[:, k], predictions[:, k], weights[:, k]
        expected = [metric(*table) for metric in (mean_absolute_error, root_mean_squared_error, xauc)]
        expected.append(grouped_xauc(*table[:2], users, table[2]).value)
        for found, value in zip([*bootstrap_errors(TASKS, *data(1)), *bootstrap_xauc(TASKS, *data(1))], expected, strict=True):
            interval = found.interval(task)
            assert interval.estimate == pytest.approx(value)
            assert interval.low < interval.estimate < interval.high


def test_of_two_labels_it_is_the_bootstrap_of_the_area():
    labels, weights, predictions, users = data(2)
    table = (labels > 0.5).astype(float), weights, predictions, np.where(users < 3, NO_GROUP, users)
    for one, other in zip(bootstrap_xauc(TASKS, *table, 20), bootstrap(TASKS, *table, 20), strict=True):
        np.testing.assert_allclose(one.draws, other.draws, rtol=1e-12)


def test_undefined_and_huge():
    nothing = np.empty((0, 2))
    for found in (bootstrap_errors, bootstrap_xauc):
        for result in found(TASKS, nothing, nothing, nothing, np.empty(0, np.int64), 3):
            assert np.isnan(result.draws).all()
            assert result.interval().draws == 0
    labels, weights, predictions, users = data(3)
    small, huge = (bootstrap_errors(TASKS, labels * u, weights, predictions * u, users, 3)[1] for u in (1.0, 2.0**900))
    np.testing.assert_allclose(huge.draws / 2.0**900, small.draws, rtol=1e-12)
    predictions[5, 1], weights[5, 1] = np.nan, 1
    with pytest.raises(DataError, match="task 'share': 1 of"):
        bootstrap_xauc(TASKS, labels, weights, predictions, users)
    # One user has both labels: a draw without that user has no pair.
    users = np.array([0, 0, 1, 2])
    table = np.array([[1.0], [2.0], [2.0], [2.0]])
    pooled, _ = bootstrap_xauc(["a"], table, np.ones((4, 1)), table, users, 50)
    missing = (Draws.of(users, 50).times[0] == 0).numpy()
    assert 0 < missing.sum() < 50
    np.testing.assert_array_equal(np.isnan(pooled.draws[:, 0]), missing)
