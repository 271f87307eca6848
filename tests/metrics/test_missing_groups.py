"""Rows whose group's key is missing: in no group, and drawn one by one."""

import numpy as np
import pytest

from home_dist.ids.no_group import NO_GROUP
from home_dist.metrics import evaluate_tasks, gauc
from home_dist.metrics.bootstrap import bootstrap


def rows():
    random = np.random.default_rng(0)
    groups = random.integers(0, 9, 300)
    missing = random.random(300) < 0.3
    return random.integers(0, 2, 300), random.random(300), np.where(missing, NO_GROUP, groups), missing


def test_gauc_is_of_the_rows_that_have_a_key():
    labels, scores, groups, missing = rows()
    expected = gauc(labels[~missing], scores[~missing], groups[~missing])
    assert gauc(labels, scores, groups) == expected
    [task] = evaluate_tasks(["a"], labels[:, None], np.ones((300, 1)), scores[:, None], groups)
    assert task.gauc == expected.value
    assert task.samples == 300
    one_group = gauc(labels, scores, np.where(missing, -1, groups))  # as they would count if they had one
    assert one_group.value != expected.value


def test_a_bootstrap_draws_rows_without_a_key_one_by_one():
    labels, scores, groups, missing = rows()
    named = np.where(missing, 1000 + np.arange(300), groups)
    given = [a[:, None] for a in (labels, np.ones(300), scores)]
    ours, expected = (bootstrap(["a"], *given, names, resamples=50) for names in (groups, named))
    for own, other in zip(ours, expected, strict=True):
        assert own.estimate[0] == pytest.approx(other.estimate[0])
        assert own.draws.std() == pytest.approx(other.draws.std(), rel=0.4)
    with_one_user = bootstrap(["a"], *given, np.where(missing, -1, groups), resamples=50)
    assert with_one_user[1].estimate[0] != pytest.approx(ours[1].estimate[0])
