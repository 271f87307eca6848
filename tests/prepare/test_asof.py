"""Sums over earlier events where keys and times are so many that their product leaves 64 bits."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from home_dist.prepare.asof import AsOf

FAR = 1 << 40  # ms: some 35 years
KEYS = 1 << 24


@given(st.integers(0, 1000))
def test_far_keys_and_times_give_what_near_ones_give(seed):
    """Times an hour apart or the like, with one event of 1970; keys once as codes, once as if there were millions of others."""
    random = np.random.default_rng(seed)
    key, time = random.integers(-1, 4, 60), FAR + random.integers(0, 30, 60)
    time[random.integers(0, 60)] = 0
    asked, moment = random.integers(-1, 5, 40), FAR + random.integers(-2, 33, 40)
    moment[:2] = [0, 1]
    value = random.integers(0, 5, 60)
    near, far = (AsOf(k, time, q, moment) for k, q in ((key, asked), (_far(key), _far(asked))))
    for one, two in ((near, far), (near.since(7), far.since(7)), (near.forgetting(3), far.forgetting(3))):
        assert one.sum(value).tolist() == two.sum(value).tolist()
        assert one.newest().tolist() == two.newest().tolist()
        assert [x.tolist() for x in one.latest(3)] == [x.tolist() for x in two.latest(3)]
    expected = [int(value[(key == q) & (q >= 0) & (time < t)].sum()) for q, t in zip(asked, moment, strict=True)]
    assert far.sum(value).tolist() == expected


def _far(keys):
    return np.where(keys < 0, keys, keys * KEYS)
