"""How often a run's experts are examined, by the run's length."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from home_dist.config import InsightSection


@given(st.integers(1, 10**9))
def test_a_run_of_any_length_has_some_fifty_looks_that_cost_little(steps):
    every = InsightSection().interval(steps)
    looks = steps // every
    assert 8 <= every <= 100
    assert looks <= steps / 8  # a look takes some 0.8 times as long as a step
    if 400 <= steps <= 5000:
        assert 49 <= looks <= 60
    if steps > 5000:
        assert every == 100


@pytest.mark.parametrize(("given_steps", "of_run", "every"), [(0, 40, 0), (3, 40, 3), (3, None, 3), (None, None, 100)])
def test_what_is_given_holds(given_steps, of_run, every):
    assert InsightSection(every_steps=given_steps).interval(of_run) == every
