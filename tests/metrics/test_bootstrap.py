"""Intervals: against the slow way, and against what they must mean."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from home_dist.metrics import Interval, bootstrap, evaluate_tasks

TASKS = ["click", "like"]


def data(seed: int = 0, users: int = 60, rows: int = 900):
    random = np.random.default_rng(seed)
    scores = np.round(random.random((rows, 2)), 2)
    labels = (random.random((rows, 2)) < [0.4, 0.1] * (0.5 + scores)).astype(float)
    weights = random.choice([0.0, 1.0, 2.0], (rows, 2))
    return labels, weights, scores, random.integers(0, users, rows)


def test_draws_equal_metrics_of_the_repeated_rows():
    labels, weights, scores, users = data()
    area, grouped = bootstrap(TASKS, labels, weights, scores, users, resamples=5, seed=3)
    random = np.random.default_rng(3)
    names = np.unique(users)
    rows_of = {user: np.flatnonzero(users == user) for user in names}
    for draw in range(5):
        chosen = names[random.integers(0, len(names), len(names))]
        # A user drawn twice is two users: within-user pairs stay within each copy.
        rows = np.concatenate([rows_of[user] for user in chosen])
        copies = np.concatenate([np.full(len(rows_of[user]), i) for i, user in enumerate(chosen)])
        for k, m in enumerate(evaluate_tasks(TASKS, labels[rows], weights[rows], scores[rows], copies)):
            assert area.draws[draw, k] == pytest.approx(m.auc, abs=1e-12)
            assert grouped.draws[draw, k] == pytest.approx(m.gauc, abs=1e-12)


def test_days_cut_users_for_gauc_and_a_draw_takes_a_user_with_all_days():
    labels, weights, scores, users = data()
    days = np.random.default_rng(9).integers(0, 4, len(users)) * 7
    area, grouped = bootstrap(TASKS, labels, weights, scores, users, resamples=5, seed=3, within=days)
    random, names = np.random.default_rng(3), np.unique(users)
    for draw in range(-1, 5):
        chosen = names if draw < 0 else names[random.integers(0, len(names), len(names))]
        rows = np.concatenate([np.flatnonzero(users == user) for user in chosen])
        copies = np.repeat(np.arange(len(chosen)), [int((users == user).sum()) for user in chosen])
        for k in range(len(TASKS)):
            known = weights[rows, k] > 0
            y, s, w = (a[rows, k][known] for a in (labels, scores, weights))
            found = (area.estimate[k], grouped.estimate[k]) if draw < 0 else (area.draws[draw, k], grouped.draws[draw, k])
            assert found[0] == pytest.approx(roc_auc_score(y, s, sample_weight=w), abs=1e-12)
            won = shown = 0.0
            for copy in np.unique(copies):
                for day in np.unique(days):
                    here = (copies[known] == copy) & (days[rows][known] == day)
                    if len(set(y[here])) == 2:
                        won += w[here].sum() * roc_auc_score(y[here], s[here], sample_weight=w[here])
                        shown += w[here].sum()
            assert found[1] == pytest.approx(won / shown, abs=1e-12)


def test_estimates_are_the_metrics_and_lie_inside():
    labels, weights, scores, users = data()
    found = evaluate_tasks(TASKS, labels, weights, scores, users)
    for result, name in zip(bootstrap(TASKS, labels, weights, scores, users), ("auc", "gauc"), strict=True):
        for k, task in enumerate(TASKS):
            interval = result.interval(task)
            assert interval.estimate == pytest.approx(getattr(found[k], name))
            assert interval.low < interval.estimate < interval.high
        mean = result.interval()
        assert mean.estimate == pytest.approx(np.mean([getattr(m, name) for m in found]))
        assert mean.high - mean.low < result.interval("like").high - result.interval("like").low
        assert mean.draws == 200


def test_a_seed_fixes_the_draws():
    first, again, other = (bootstrap(TASKS, *data(), resamples=20, seed=s)[0] for s in (1, 1, 2))
    np.testing.assert_array_equal(first.draws, again.draws)
    assert not np.array_equal(first.draws, other.draws)


def test_more_users_narrow_the_interval():
    widths = []
    for users, rows in ((60, 900), (960, 14_400)):
        interval = bootstrap(TASKS, *data(1, users, rows))[0].interval()
        widths.append(interval.high - interval.low)
    assert 3 < widths[0] / widths[1] < 5.5  # sixteen times the users: a quarter of the width


def test_difference_of_two_models_is_narrower_than_either():
    labels, weights, scores, users = data(2)
    better = np.clip(scores + 0.05 * labels, 0, 1)
    a, b = (bootstrap(TASKS, labels, weights, s, users)[0] for s in (scores, better))
    gain = b.minus(a).interval()
    assert gain.estimate == pytest.approx(b.interval().estimate - a.interval().estimate)
    assert gain.low > 0
    assert gain.high - gain.low < (a.interval().high - a.interval().low) / 2


def test_rare_tasks_and_undefined_ones():
    labels, weights, scores, users = data()
    weights[:] = 1
    labels[:, 1] = 0
    area, grouped = bootstrap(TASKS, labels, weights, scores, users)
    assert area.interval("like") == Interval(pytest.approx(np.nan, nan_ok=True), *[pytest.approx(np.nan, nan_ok=True)] * 2, 0)
    assert area.interval().estimate == area.interval("click").estimate
    labels[5, 1] = 1  # one user has the one positive: about a third of all draws miss it
    area, _ = bootstrap(TASKS, labels, weights, scores, users)
    assert 90 < area.interval("like").draws < 160
    nothing, _ = bootstrap(TASKS, np.empty((0, 2)), np.empty((0, 2)), np.empty((0, 2)), np.empty(0, int), resamples=3)
    assert nothing.interval().draws == 0
    assert grouped.interval("like").draws == 0


def test_misuse():
    area, _ = bootstrap(TASKS, *data(), resamples=2)
    with pytest.raises(ValueError, match="no task 'follow'; there are click, like"):
        area.interval("follow")
    with pytest.raises(ValueError, match="level"):
        area.interval(level=95)
    with pytest.raises(ValueError, match="same tasks and number of draws"):
        area.minus(bootstrap(TASKS, *data(), resamples=3)[0])
