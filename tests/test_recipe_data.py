"""benchmarks/recipe_data.py: what it adds to the sample's data knows nothing of the future, and is what loops give."""

import numpy as np
import pytest

from benchmarks.recipe_data import HALF_LIFE_MS, WIDTH, co_watch_vectors, decayed_rates, rates_by_hour
from home_dist.prepare.kuairand.log import GROUPS, Log

BEHAVIOURS = (*GROUPS["interaction"], *GROUPS["watch"])


def made_log(rows=400, seed=0):
    rng = np.random.default_rng(seed)
    known = (rng.random(rows) < 0.9).astype(np.int8)
    happened = {b: (rng.random(rows) < 0.3).astype(np.int8) for b in BEHAVIOURS}
    for b in GROUPS["watch"]:
        happened[b] *= known
    time = np.sort(rng.integers(0, 40, rows)) * 5_000_000 + 1_650_000_000_000  # many at one time
    ids = rng.integers(0, [[12], [20], [3]], (3, rows))
    return Log(*ids[:2], time, ids[2], known.astype(int) * 9000, known.astype(int) * 100, happened, known, rows, 0, 0)


def of_loops(log, ids, behaviour, strength, weight_of, same=lambda i, j: True):
    """(count, rate) of the events of a key before each row."""
    watch = behaviour in GROUPS["watch"]
    counts, rates = [], []
    for i in range(len(log)):
        seen = [j for j in range(len(log)) if log.time[j] < log.time[i]]
        of_all = sum(1 for j in seen if not watch or log.watch_known[j])
        base = (sum(int(log.happened[behaviour][j]) for j in seen) + 1.0) / (of_all + 100.0)
        own = [(j, weight_of(log.time[i] - log.time[j])) for j in seen if ids[j] == ids[i] and same(i, j)]
        count, known = sum(w for _, w in own), sum(w for j, w in own if not watch or log.watch_known[j])
        happened = sum(w for j, w in own if log.happened[behaviour][j])
        counts.append(np.log1p(count))
        odds = (happened + strength * base) / (known - happened + strength * (1 - base))
        rates.append(np.log(odds) if known > 0 else np.nan)
    return np.array(counts), np.array(rates)


@pytest.mark.parametrize(
    ("name", "behaviour", "strength"), [("video", "like", 20), ("user", "long_view", 5), ("tab", "complete_view", 20)]
)
def test_decayed_rates_are_those_of_loops(name, behaviour, strength):
    log = made_log()
    found = decayed_rates(log)
    count, rate = of_loops(log, getattr(log, name), behaviour, strength, lambda age: 2.0 ** (-age / HALF_LIFE_MS))
    np.testing.assert_allclose(found[f"{name}_decayed_count"], count, atol=1e-5)
    np.testing.assert_allclose(found[f"{name}_decayed_{behaviour}"], rate, atol=1e-5)


def test_rates_by_hour_are_those_of_loops():
    log = made_log(seed=1)
    part = (log.time // 3_600_000 + 8) % 24 // 4
    found = rates_by_hour(log)
    count, rate = of_loops(log, log.user, "long_view", 5, lambda age: 1, lambda i, j: part[i] == part[j])
    np.testing.assert_allclose(found["user_hours_count"], count)
    np.testing.assert_allclose(found["user_hours_long_view"], rate)


def test_videos_that_are_watched_together_have_near_vectors():
    rng = np.random.default_rng(0)
    camp = rng.integers(0, 20, 1500)  # each user watches one of 20 camps of 10 videos
    video = (camp[:, None] * 10 + rng.integers(0, 10, (1500, 8)) + 1).ravel()
    video[rng.random(len(video)) < 0.05] = 0
    vectors, known = co_watch_vectors(video, np.repeat(np.arange(1500), 8), 203)
    assert vectors.shape == (203, WIDTH)
    assert known[1:201].all()
    assert not known[[0, 201, 202]].any()
    near = vectors[1:201] @ vectors[1:201].T
    same = np.equal.outer(np.arange(200) // 10, np.arange(200) // 10)
    in_space = [c for c in range(20) if near[c * 10, c * 10 + 1] > 0.9]  # 16 of 20 camps have a direction
    assert len(in_space) >= 14
    assert near[same].mean() > near[~same].mean() + 0.5
