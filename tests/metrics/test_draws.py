"""A metric in all draws at once: against rows that are repeated one by one."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import log_loss as sklearn_log_loss
from sklearn.metrics import roc_auc_score

from home_dist.ids.no_group import NO_GROUP
from home_dist.metrics import bootstrap, bootstrap_log_loss, mean_bootstrap
from home_dist.metrics import draws as draws_of_users
from home_dist.metrics.draws import Draws
from home_dist.metrics.samples import counted
from tests.metrics.test_properties import tables


def by_hand(labels, scores, weights, groups, draws: Draws, r: int, metric) -> float:
    """The metric of the rows, each as often as its user occurs in draw r."""
    times = draws.times[:, r].numpy()[draws.user].astype(int)
    label, score, weight = (np.repeat(column, times) for column in (labels, scores, weights))
    if not {0.0, 1.0} <= set(label[weight > 0]):
        return float("nan")
    return metric(label[weight > 0], score[weight > 0], sample_weight=weight[weight > 0])


@given(tables(st.sampled_from([0.0, 1.0, 2.0, 0.3])), st.booleans())
def test_auc_is_that_of_repeated_rows(table, few_at_a_time):
    labels, scores, weights, groups = table
    draws = Draws.of(groups, 4, seed=1)
    samples = counted(labels, scores, weights)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(draws_of_users, "_LEVELS", 2 if few_at_a_time else 256)
        found = draws.auc(samples, draws.user[samples.kept])
    expected = [by_hand(labels, scores, weights, groups, draws, r, roc_auc_score) for r in range(4)]
    assert found == pytest.approx(expected, abs=1e-12, nan_ok=True)


@pytest.mark.parametrize("rate", [0.02, 0.5, 0.97])
def test_auc_of_many_levels(rate):
    random = np.random.default_rng(0)
    rows = 5000
    labels = (random.random(rows) < rate).astype(float)
    scores, weights, groups = random.random(rows), random.choice([0.0, 1.0], rows), random.integers(0, 300, rows)
    draws, samples = Draws.of(groups, 3), counted(labels, scores, weights)
    found = draws.auc(samples, draws.user[samples.kept])
    expected = [by_hand(labels, scores, weights, groups, draws, r, roc_auc_score) for r in range(3)]
    assert found == pytest.approx(expected, abs=1e-12)


@given(tables(st.sampled_from([0.0, 1.0, 2.5])))
def test_log_loss_is_that_of_repeated_rows(table):
    labels, scores, weights, groups = table
    probabilities = 0.1 + 0.8 * scores
    found = bootstrap_log_loss(["a"], *(c[:, None] for c in (labels, weights, probabilities)), groups, resamples=3, seed=1)
    draws = Draws.of(groups, 3, seed=1)
    for r in range(3):
        expected = by_hand(labels, probabilities, weights, groups, draws, r, sklearn_log_loss)
        if not np.isnan(expected):
            assert found.draws[r, 0] == pytest.approx(expected, abs=1e-12)


@given(tables(), st.randoms(use_true_random=False))
def test_draws_do_not_depend_on_the_order_of_rows(table, random):
    labels, scores, weights, groups = table
    order = np.array(random.sample(range(len(labels)), len(labels)), int)
    both = []
    for rows in (slice(None), order):
        columns = [c[rows][:, None] for c in (labels, weights, scores)]
        both.append([*bootstrap(["a"], *columns, groups[rows], 5), bootstrap_log_loss(["a"], *columns, groups[rows], 5)])
    for one, other in zip(*both, strict=True):
        np.testing.assert_allclose(one.draws, other.draws, rtol=1e-12)


def test_each_draw_has_as_many_users_as_the_data():
    draws = Draws.of([5, 5, 9, NO_GROUP, NO_GROUP], 50)
    assert draws.times.shape == (4, 50)
    assert draws.user[0] == draws.user[1]
    assert len(set(draws.user.tolist())) == 4
    assert torch.equal(draws.times.sum(0), torch.full((50,), 4.0))


def test_mean_over_seeds_is_taken_draw_by_draw():
    random = np.random.default_rng(3)
    labels, groups = random.integers(0, 2, (300, 1)), random.integers(0, 40, 300)
    both = [bootstrap(["a"], labels, np.ones((300, 1)), random.random((300, 1)), groups, 20)[0] for _ in range(2)]
    mean = mean_bootstrap(both)
    assert mean.estimate == pytest.approx((both[0].estimate + both[1].estimate) / 2)
    assert mean.draws == pytest.approx((both[0].draws + both[1].draws) / 2)
    assert mean.only(["a"]).interval() == mean.interval()
    with pytest.raises(ValueError, match="have a mean"):
        mean_bootstrap([both[0], bootstrap(["a"], labels, labels + 1, labels, groups, 5)[0]])
