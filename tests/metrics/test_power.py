"""Power by resampling: against the square-root law, and against comparisons that are made anew on larger data."""

import numpy as np
import pytest

from home_dist.metrics import bootstrap, power_of_difference


def pool(users: int, strengths: tuple[float, float], seed: int):
    """Two models of these strengths, twenty impressions a user."""
    random = np.random.default_rng(seed)
    groups = np.repeat(np.arange(users), 20)
    labels = (random.random((len(groups), 1)) < 0.3).astype(float)
    common = random.normal(size=labels.shape)
    scores = [s * labels + common + 0.5 * random.normal(size=labels.shape) for s in strengths]
    return ["like"], labels, np.ones_like(labels), *scores, groups


def test_the_error_falls_with_the_square_root_of_the_size():
    names, y, w, one, two, groups = pool(100, (0.8, 0.8), 0)
    found = power_of_difference(names, y, w, one, two, groups, 0.02, times=(1, 4, 16))
    assert found.impressions == (2000, 8000, 32000)
    assert found.error[0] / found.error[1] == pytest.approx(2, rel=0.2)
    assert found.error[1] / found.error[2] == pytest.approx(2, rel=0.2)
    assert list(found.seen) == sorted(found.seen)


def test_a_planted_difference_is_seen_as_often_as_foretold():
    """The size that a small pool foretells for 80 %: other logs of that size, of two models that truly differ, are compared."""
    gap = []
    for seed in range(20, 30):
        names, y, w, one, two, groups = pool(2000, (0.9, 0.8), seed)
        gap.append(
            bootstrap(names, y, w, one, groups, 1)[1].estimate[0] - bootstrap(names, y, w, two, groups, 1)[1].estimate[0]
        )
    effect = float(np.mean(gap))
    small = pool(150, (0.85, 0.85), 1)
    found = power_of_difference(*small, effect, times=(0.125, 0.25, 0.5, 1, 2, 4), resamples=300)
    users = round(found.needed / 20)
    assert 5 < users < 600
    seen = 0
    for seed in range(100, 180):
        names, y, w, one, two, groups = pool(users, (0.9, 0.8), seed)
        drawn = [bootstrap(names, y, w, s, groups, 200)[1] for s in (one, two)]
        seen += drawn[0].minus(drawn[1]).interval().low > 0
    assert 0.65 < seen / 80 < 0.93


def test_days_count_as_in_the_bootstrap_and_larger_draws_hold_more_users():
    names, y, w, one, _, groups = pool(60, (0.8, 0.8), 2)
    days = np.random.default_rng(0).integers(0, 3, len(groups))
    plain, larger = (bootstrap(names, y, w, one, groups, 100, within=days, times=t)[1] for t in (1, 9))
    assert plain.estimate == larger.estimate
    assert plain.draws.std() / larger.draws.std() == pytest.approx(3, rel=0.3)


def test_beyond_the_sizes_tried_the_law_goes_on():
    names, y, w, one, two, groups = pool(100, (0.8, 0.8), 0)
    found = power_of_difference(names, y, w, one, two, groups, 0.001, times=(1,))
    assert found.needed == pytest.approx(2000 * (found.error[0] * (1.959964 + 0.841621) / 0.001) ** 2, rel=1e-5)


def test_wrong_numbers_are_refused():
    names, y, w, one, two, groups = pool(20, (0.8, 0.8), 0)
    for effect, wanted, second, message in (
        (0, 0.8, two, "effect must be above 0"),
        (0.1, 1, two, "wanted must be between 0 and 1"),
        (0.1, 0.8, one, "do not differ on any drawn pool"),
    ):
        with pytest.raises(ValueError, match=message):
            power_of_difference(names, y, w, one, second, groups, effect, wanted=wanted)
