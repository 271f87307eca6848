"""NDCG, MRR and recall: against the mean over all orders of tied rows, and against scikit-learn."""

import importlib
import itertools
import math
import random
from dataclasses import astuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import ndcg_score

from home_dist.errors import DataError
from home_dist.ids.no_group import NO_GROUP
from home_dist.metrics import within_requests
from home_dist.metrics.within_requests import counted_gains


def of_one_order(labels, k: int) -> tuple[float, float, float]:
    """NDCG@k, MRR and recall@k of labels in the order of ranks."""

    def dcg(gains):
        return sum(gain / math.log2(rank + 1) for rank, gain in enumerate(gains[:k], 1))

    positive = [label > 0 for label in labels]
    return dcg(labels) / dcg(sorted(labels, reverse=True)), 1 / (positive.index(True) + 1), sum(positive[:k]) / sum(positive)


def of_all_orders(labels, scores, k: int) -> list[float]:
    """Mean over all orders that scores allow."""
    blocks = [np.flatnonzero(scores == score) for score in sorted(set(scores), reverse=True)]
    orders = itertools.product(*(itertools.permutations(block) for block in blocks))
    return np.mean([of_one_order([labels[i] for block in o for i in block], k) for o in orders], axis=0).tolist()


_KEPT_OR_NOT = st.integers(0, 1)


@st.composite
def tables(draw, weights=_KEPT_OR_NOT, most=12):
    """Labels, scores (coarse, so that ties are common), requests, weights."""
    rows = draw(st.integers(0, most))
    column = lambda values: np.array(draw(st.lists(values, min_size=rows, max_size=rows)), dtype=np.float64)  # noqa: E731
    requests = np.array(draw(st.lists(st.sampled_from([NO_GROUP, -5, 0, 2**62]), min_size=rows, max_size=rows)), np.int64)
    return column(st.sampled_from([0, 0, 0, 1, 1, 0.5, 4])), column(st.integers(0, 2)), requests, column(weights)


def close(left, right) -> bool:
    return left == pytest.approx(right, rel=1e-9, abs=1e-12, nan_ok=True)


def random_table(seed: int) -> tuple[np.ndarray, ...]:
    """Of three requests, each of some six rows: most of them count, many are tied."""
    draw = np.random.default_rng(seed)
    labels = draw.choice([0, 0, 0, 1, 1, 0.5, 4], 18)
    return labels, draw.integers(0, 3, 18), draw.choice([NO_GROUP, -5, 0, 2**62], 18), draw.choice([0, 1, 1, 1], 18)


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_is_the_mean_over_all_orders_of_random_tables(k):
    for seed in range(25):
        check_all_orders(*random_table(10 * seed + k), k)


@settings(max_examples=50)
@given(tables(most=10), st.integers(1, 4))
def test_is_the_mean_over_all_orders(table, k):
    check_all_orders(*table, k)


def check_all_orders(labels, scores, requests, weights, k: int) -> None:
    values, left_out = [], 0
    for request in set(requests[weights > 0].tolist()) - {NO_GROUP}:
        mine = (requests == request) & (weights > 0)
        if (labels[mine] > 0).any():
            values.append(of_all_orders(labels[mine], scores[mine], k))
        else:
            left_out += 1
    found = within_requests(labels, scores, requests, weights, k)
    assert (found.requests_used, found.requests_left_out) == (len(values), left_out)
    expected = np.mean(values, axis=0).tolist() if values else [math.nan] * 3
    assert close([found.ndcg, found.mrr, found.recall], expected)


@settings(max_examples=60)
@given(tables(weights=st.integers(0, 3)), st.integers(1, 5), st.randoms(use_true_random=False))
def test_weights_are_repetitions_and_order_does_not_matter(table, k, shuffle):
    check_repetitions(table, k, shuffle)


def test_weights_are_repetitions_in_random_tables():
    for seed in range(40):
        labels, scores, requests, weights = random_table(seed)
        check_repetitions((labels, scores, requests, weights * (1 + seed % 3)), 1 + seed % 5, random.Random(seed))
        check_repetitions(
            ((labels > 0) * 4.0, scores, requests, weights * (1 + labels.astype(int))), 1 + seed % 5, random.Random(seed)
        )


def check_repetitions(table, k: int, shuffle: random.Random) -> None:
    order = np.array(shuffle.sample(range(len(table[0])), len(table[0])), int)
    times = table[3].astype(int)
    expected = list(astuple(within_requests(*table, k)))
    assert close(list(astuple(within_requests(*(c[order] for c in table), k))), expected)
    assert close(list(astuple(within_requests(*(np.repeat(c, times) for c in table[:3]), k=k))), expected)
    huge = table[0] * 1e300, (table[1] - 1) * 1e308, *table[2:]  # sums of these labels overflow; some scores are infinite
    assert close(list(astuple(within_requests(*huge, k))), expected)


@pytest.mark.parametrize("levels", [3, 1000])
@pytest.mark.parametrize("k", [1, 10, 10**12])
def test_ndcg_against_sklearn(levels, k):
    """scikit-learn gives tied rows their mean gain, too."""
    random = np.random.default_rng(k % 7)
    labels, scores = random.integers(0, 4, (50, 30)), random.integers(0, levels, (50, 30))
    requests = np.repeat(np.arange(50), 30)
    found = within_requests(labels.ravel(), scores.ravel(), requests, k=k)
    assert found.ndcg == pytest.approx(ndcg_score(labels, scores, k=k), abs=1e-12)


@pytest.mark.parametrize("cells", [1, 7, 1 << 21])
def test_mrr_of_many_tied_rows(cells, monkeypatch):
    """By probabilities from binomial coefficients, some ranks at a time."""
    monkeypatch.setattr(importlib.import_module("home_dist.metrics.within_requests"), "_CELLS", cells)
    labels, scores, requests, expected = [], [], [], []
    for request, (before, size, positives) in enumerate(
        [(0, 40, 1), (3, 60, 7), (5, 1, 1), (0, 9, 9), (11, 300, 150), (2, 2, 1)]
    ):
        labels += [0] * before + [1] * positives + [0] * (size - positives) + [1]
        scores += [9] * before + [5] * size + [1]
        requests += [request] * (before + size + 1)
        chances = [math.comb(size - x, positives - 1) / math.comb(size, positives) for x in range(1, size - positives + 2)]
        assert sum(chances) == pytest.approx(1)
        expected.append(sum(c / (before + x) for x, c in enumerate(chances, 1)))
    assert within_requests(labels, scores, requests).mrr == pytest.approx(np.mean(expected), rel=1e-12)


def test_by_hand():
    found = within_requests([0, 1, 1, 0, 0, 3], [9, 5, 1, 3, 2, 1], [4, 4, 4, 4, 8, -7], k=2)
    ndcg = (1 / math.log2(3)) / (1 + 1 / math.log2(3))
    assert astuple(found) == pytest.approx(((ndcg + 1) / 2, (0.5 + 1) / 2, (0.5 + 1) / 2, 2, 1))


def test_edges():
    for table in (([], [], []), ([0, 0], [1, 2], [1, 1]), ([1, 1], [1, 2], [NO_GROUP] * 2), ([1], [1], [1], [0])):
        found = within_requests(*table)
        assert np.isnan([found.ndcg, found.mrr, found.recall]).all()
        assert found.requests_used == 0
    assert astuple(within_requests([1], [7], [1])) == (1, 1, 1, 1, 0)
    assert astuple(within_requests([1, 0], [math.inf, -math.inf], [1, 1])) == (1, 1, 1, 1, 0)
    many = within_requests([1, 0], [5, 5], [1, 1], [1e12, 3e12], k=4)  # a great many ranks, which nothing holds at a time
    assert many.ndcg == pytest.approx(0.25)
    with pytest.raises(ValueError, match=r"requests \(1,\)"):
        within_requests([1, 2], [1, 2], [1])
    with pytest.raises(ValueError, match="k must be"):
        within_requests([1], [1], [1], k=0)


@pytest.mark.parametrize(
    ("labels", "scores", "weights", "message"),
    [
        ([1, 2], [1, math.nan], None, "1 of 2 scores are NaN"),
        ([1, -2], [1, 1], None, "1 of 2 labels are negative, for example -2"),
        ([1, math.nan], [1, 1], None, "1 of 2 labels are infinite or NaN"),
        ([1, 1], [1, 1], [1, -1], "1 of 2 weights are negative"),
        ([1, 1], [1, 1], [1, 0.5], "1 of 2 weights are no whole numbers, for example 0.5: a rank cannot be shared"),
    ],
)
def test_faults_name_the_task(labels, scores, weights, message):
    with pytest.raises(DataError, match=f"task 'clicks': {message}"):
        counted_gains(labels, scores, weights, "clicks")
    with pytest.raises(DataError, match=message):
        within_requests(labels, scores, [1, 1], weights)
