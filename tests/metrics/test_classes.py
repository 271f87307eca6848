"""Metrics of a choice among classes: against scikit-learn, and what must hold for any data."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as oracle

from home_dist.errors import DataError
from home_dist.metrics import auc, class_accuracy, class_auc, class_log_loss
from home_dist.metrics.classes import class_probabilities, counted_classes

CLASSES = 3


_WEIGHTS = st.sampled_from([0.0, 0.5, 1.0, 3.0])


@st.composite
def tables(draw, weights=_WEIGHTS):
    """Labels, logits (coarse, so that ties are common), weights."""
    rows = draw(st.integers(0, 25))
    column = lambda values, size: np.array(draw(st.lists(values, min_size=size, max_size=size)), dtype=np.float64)  # noqa: E731
    logits = column(st.integers(-2, 2), rows * CLASSES).reshape(rows, CLASSES)
    return column(st.integers(0, CLASSES - 1), rows), logits, column(weights, rows)


def softmax(logits):
    p = np.exp(logits)
    return p / p.sum(axis=1, keepdims=True)


def everything(labels, logits, weights) -> list[float]:
    metrics = (class_log_loss, class_auc)
    return [class_accuracy(labels, logits, weights), *(m(labels, logits, weights, logits=True) for m in metrics)]


def close(left, right) -> bool:
    return left == pytest.approx(right, rel=1e-9, abs=1e-12, nan_ok=True)


@given(tables())
def test_against_sklearn(table):
    labels, logits, weights = (c[table[2] > 0] for c in table)
    found = everything(*table)
    if not labels.size:
        assert np.isnan(found).all()
        return
    p = softmax(logits)
    area = class_auc(labels, p, weights)
    lowest = [max(range(CLASSES), key=lambda c: (row[c], -c)) for row in logits]
    assert close(found[0], oracle.accuracy_score(labels, lowest, sample_weight=weights))
    assert close(found[1], oracle.log_loss(labels, p, sample_weight=weights, labels=range(CLASSES)))
    assert close(class_log_loss(labels, p, weights), found[1])
    assert class_auc(labels, class_probabilities(counted_classes(labels, logits, logits=True)), weights) == pytest.approx(
        found[2], nan_ok=True
    )
    present = set(labels)
    if len(present) == CLASSES:
        whole = oracle.roc_auc_score(labels, p, sample_weight=weights, multi_class="ovr", average="macro")
        assert close(area, whole)
    elif len(present) == 2:  # scikit-learn refuses this
        assert close(area, np.mean([auc(labels == c, p[:, int(c)], weights) for c in present]))
    else:
        assert math.isnan(area)


@settings(max_examples=50)
@given(tables(weights=st.integers(0, 3)), st.randoms(use_true_random=False))
def test_weights_are_repetitions_and_order_does_not_matter(table, random):
    order = np.array(random.sample(range(len(table[0])), len(table[0])), int)
    times = table[2].astype(int)
    assert close(everything(*table), everything(*(c[order] for c in table)))
    assert close(everything(*table), everything(*(np.repeat(c, times, axis=0) for c in table[:2]), np.ones(times.sum())))


def test_huge_logits():
    logits = [[1e308, -1e308, 0], [0, 1000, 999]]
    assert class_log_loss([0, 1], logits, logits=True) == pytest.approx(math.log1p(math.exp(-1)) / 2)
    assert class_log_loss([2, 0], logits, [0, 1], logits=True) == pytest.approx(1000 + math.log1p(math.exp(-1)))
    assert class_log_loss([1], [[1.0, 0.0]]) == pytest.approx(-math.log(1e-15))  # a probability of 0 costs this much
    assert class_accuracy([0, 0], [[1, 1], [0, 1]]) == 0.5  # of equal scores the lowest class wins


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 3], "1 of 2 labels are no classes, for example 3: classes are whole numbers from 0 to 2, as there are 3 scores"),
        ([0, -1], "1 of 2 labels are no classes, for example -1"),
        ([1.5, 0], "1 of 2 labels are no classes, for example 1.5"),
        ([math.nan, math.inf], "2 of 2 labels are no classes, for example nan"),
    ],
)
def test_labels_must_be_classes(labels, message):
    scores = np.full((2, 3), 1 / 3)
    with pytest.raises(DataError, match=f"task 'kind': {message}"):
        counted_classes(labels, scores, task="kind")
    for metric in (class_accuracy, class_log_loss, class_auc):
        with pytest.raises(DataError, match=message):
            metric(labels, scores)
    weights = [float(y in (0, 1, 2)) for y in labels]
    assert counted_classes(labels, scores, weights).labels.tolist() == [y for y in labels if y in (0, 1, 2)]


def test_other_faults():
    with pytest.raises(DataError, match="1 of 4 scores are NaN"):
        class_accuracy([0, 1], [[1, math.nan], [0, 1]])
    with pytest.raises(DataError, match="weights are negative"):
        class_accuracy([0, 1], [[1, 0], [0, 1]], [1, -1])
    with pytest.raises(DataError, match=r"1 of 2 samples are no probabilities.* not to 4\. Are they logits"):
        class_log_loss([0, 1], [[1, 3], [0, 1]])
    with pytest.raises(DataError, match="no probabilities"):
        class_auc([0, 1], [[2, -1], [0, 1]])
    with pytest.raises(DataError, match="1 of 4 logits are infinite"):
        class_log_loss([0, 1], [[math.inf, 3], [0, 1]], logits=True)
    with pytest.raises(ValueError, match=r"scores \(2,\) \(N, classes\)"):
        class_accuracy([0, 1], [0, 1])
    assert np.isnan(everything(np.empty(0), np.empty((0, 0)), np.empty(0))).all()
