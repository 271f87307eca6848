"""Summaries in one pass against numpy over all values, and boundaries cut from them."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from home_dist.prepare.boundaries import Buckets, choose_boundaries, fit_statistic
from home_dist.prepare.sketch import SIZE, Sketch

SHARES = np.linspace(0, 1, 41)[1:-1]


def filled(values, batch=1000, size=SIZE) -> Sketch:
    sketch = Sketch(size)
    for at in range(0, len(values), batch):
        sketch.add(np.asarray(values[at : at + batch], np.float64))
    return sketch


@settings(max_examples=60)
@given(
    st.integers(0, 10**6),
    st.sampled_from(["normal", "sorted", "falling", "heavy", "few", "saw"]),
    st.integers(1, 6000),
    st.sampled_from([16, 64, 256]),
    st.integers(1, 500),
)
def test_ranks_of_quantiles_are_within_the_bound(seed, kind, count, size, batch):
    rng = np.random.default_rng(seed)
    values = {
        "normal": lambda: rng.normal(size=count),
        "sorted": lambda: np.sort(rng.normal(size=count)),
        "falling": lambda: -np.sort(rng.normal(size=count)),
        "heavy": lambda: rng.pareto(0.5, count),
        "few": lambda: rng.integers(0, 4, count).astype(float),
        "saw": lambda: np.arange(count) % size * 1.0,
    }[kind]()
    sketch = filled(values, batch, size)
    weighted, counts = sketch.weighted()
    assert counts.sum() == count == sketch.count
    levels = max(0, int(np.ceil(np.log2(count / size))) + 1)
    bound = count * levels / size
    ordered = np.sort(values)
    for share, found in zip(SHARES, sketch.quantiles(SHARES), strict=True):
        wanted = np.ceil(share * count)
        below, up_to = np.searchsorted(ordered, found, "left"), np.searchsorted(ordered, found, "right")
        assert below - bound < wanted <= up_to + bound + 1e-9
    if count < size:
        assert sketch.quantiles(SHARES).tolist() == np.quantile(values, SHARES, method="inverted_cdf").tolist()
    assert (sketch.low, sketch.high) == (values.min(), values.max())
    assert set(weighted) <= set(values)


@given(st.integers(1, 900), st.integers(1, 900))
def test_batches_change_nothing(first, second):
    values = np.random.default_rng(0).normal(size=5000)
    one, other = filled(values, first, 64), filled(values, second, 64)
    assert one.quantiles(SHARES).tolist() == other.quantiles(SHARES).tolist()
    assert one.mean == pytest.approx(other.mean, abs=1e-12)


def test_memory_is_bounded_and_a_million_values_are_cut_into_equal_parts():
    values = np.random.default_rng(1).lognormal(3, 2, 1_000_000)
    sketch = filled(values, 50_000)
    assert sketch._sample.held < SIZE * 8
    cut = choose_boundaries(Buckets(count=20), sketch)
    shares = np.bincount(np.searchsorted(cut, values, "right"), minlength=20) / len(values)
    assert np.abs(shares - 0.05).max() < 0.001


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60), st.integers(1, 7), st.floats(0, 1e9))
def test_moments_are_numpys(values, batch, shift):
    values = np.array(values) + shift
    sketch = filled(values, batch)
    assert sketch.mean == pytest.approx(values.mean(), rel=1e-12, abs=1e-9)
    assert sketch.std == pytest.approx(values.std(), rel=1e-6, abs=1e-6)


def test_missing_values_are_counted_apart():
    sketch = Sketch()
    sketch.add(np.array([np.nan, 1.0, np.nan, 3.0]))
    sketch.add(np.array([np.nan]))
    assert (sketch.count, sketch.missing, sketch.mean) == (2, 3, 2.0)
    assert choose_boundaries(Buckets(), Sketch()) == ()


VALUES = st.lists(st.floats(-1e6, 1e6).map(lambda x: round(x, 3)), min_size=1, max_size=80)


@given(VALUES, st.sampled_from(["quantile", "equal_width", "logarithmic"]), st.integers(2, 12))
def test_boundaries_increase_and_cut_inside_the_range(values, by, count):
    cut = choose_boundaries(Buckets(by=by, count=count), filled(values))
    assert list(cut) == sorted(set(cut))
    assert len(cut) <= count - 1 + (by == "logarithmic")
    assert all(min(values) < b <= max(values) for b in cut)
    if len(set(values)) > 1 and not (by == "logarithmic" and max(values) <= 0):
        assert cut  # what differs is told apart


def test_each_kind_of_boundary():
    values = [0.0, -5.0, 1.0, 10.0, 100.0, 1000.0]
    assert choose_boundaries(Buckets(by="equal_width", count=3), filled(values)) == (330.0, 665.0)
    assert choose_boundaries(Buckets(by="logarithmic", count=3), filled(values)) == pytest.approx((1.0, 10.0, 100.0))
    assert choose_boundaries(Buckets(by="logarithmic", count=3), filled(values[2:])) == pytest.approx((10.0, 100.0))
    assert choose_boundaries(Buckets(by="quantile", count=3), filled(values)) == (0.0, 10.0)
    assert choose_boundaries(Buckets(by="quantile", count=4), filled([1.0] * 99 + [2.0])) == (2.0,)
    assert choose_boundaries(Buckets(by="quantile"), filled([1.0] * 99)) == ()


def test_a_statistic_takes_chosen_or_given_boundaries():
    training = np.array([0, 10, np.nan, 20, 90], np.float32)
    chosen = fit_statistic("x", "x", training, cut=Buckets(by="equal_width", count=3))
    given_ones = fit_statistic("x", "x", training, cut=(5.0, 6.0))
    assert (chosen.boundaries, given_ones.boundaries) == ((30.0, 60.0), (5.0, 6.0))
    assert chosen.mean == given_ones.mean == 30
    assert fit_statistic("x", "x", training, buckets=2).boundaries == (10.0,)
