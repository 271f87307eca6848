"""Bins hold whole requests and little padding."""

import hypothesis.strategies as st
import numpy as np
from hypothesis import given

from home_dist.data.bins import fill, next_fit


@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=60), more=st.integers(0, 9))
def test_next_fit_fills_bins_one_by_one(sizes, more):
    capacity, bins, room = max(sizes) + more, [], 0
    for place, size in enumerate(sizes):
        if size > room:
            bins.append(place)
            room = capacity
        room -= size
    assert next_fit(np.array(sizes), capacity).tolist() == [*bins, len(sizes)]


@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=60), more=st.integers(0, 9))
def test_bins_hold_each_request_once_and_no_more_than_fit(sizes, more):
    capacity = max(sizes) + more
    order, bins = fill(np.array(sizes), capacity)
    assert sorted(order.tolist()) == list(range(len(sizes)))
    assert bins[0] == 0
    assert bins[-1] == len(sizes)
    rows = np.add.reduceat(np.array(sizes)[order], bins[:-1])
    assert (np.diff(bins) > 0).all()
    assert rows.max() <= capacity


def test_bins_of_those_held_back_are_spread_among_the_others():
    """They hold larger requests than others do."""
    sizes = np.random.default_rng(0).integers(1, 31, 4000)
    order, bins = fill(sizes, 32)
    largest = np.maximum.reduceat(sizes[order], bins[:-1])
    parts = [part.mean() for part in np.array_split(largest, 8)]
    assert max(parts) - min(parts) < 1.5


def test_bins_waste_less_than_next_fit_does():
    sizes = np.minimum(np.random.default_rng(0).geometric(1 / 8, 2000), 30)
    padding = [1 - sizes.sum() / (128 * (len(bins) - 1)) for bins in (fill(sizes, 128)[1], next_fit(sizes, 128))]
    assert padding[0] < 0.015 < 0.045 < padding[1]
