"""Checks that all metrics make of their input, and the choice of samples that count.

A weight is a number of repetitions: a sample of weight 2 counts as two samples of weight 1, a sample of weight 0 as none.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from home_dist.errors import DataError

Floats = NDArray[np.float64]


class Samples(NamedTuple):
    """The samples of one task that count, in float64. Columns may be the caller's own arrays: nothing may write to them."""

    labels: Floats
    """(N,): 0 or 1, or real numbers where `counted_numbers` made the choice"""
    scores: Floats
    """(N,), probabilities or logits: higher for samples that are more likely positive; or predictions of the labels"""
    weights: Floats
    """(N,), above 0"""
    kept: NDArray[np.bool_]
    """Mask over all given samples: True for these N"""
    logits: bool = False
    """Whether the scores are logits."""


def counted(
    labels: ArrayLike, scores: ArrayLike, weights: ArrayLike | None = None, task: str | None = None, logits: bool = False
) -> Samples:
    """Labels, scores and weights (N,) of the samples whose weight is not 0. logits: whether the scores are logits.

    Raises DataError, which names `task`, for scores that are NaN, labels other than 0 and 1, and weights that are
    negative, infinite or NaN. Labels and scores of samples with weight 0 are not checked.
    """
    samples = _chosen(labels, scores, weights, task, axes=1)
    y = samples.labels
    other = int(np.count_nonzero((y != 0) & (y != 1)))
    if other:
        example = y[(y != 0) & (y != 1)][0]
        raise DataError(f"{prefix(task)}{other:,} of {y.size:,} labels are neither 0 nor 1, for example {example}")
    return samples._replace(logits=logits)


def counted_numbers(
    labels: ArrayLike, predictions: ArrayLike, weights: ArrayLike | None = None, task: str | None = None
) -> Samples:
    """The same for labels that are real numbers, such as seconds of watch time.

    Raises DataError, which names `task`, for predictions that are NaN, labels that are infinite or NaN, and weights that
    are negative, infinite or NaN.
    """
    samples = _chosen(labels, predictions, weights, task, axes=1)
    unusable = int(np.count_nonzero(~np.isfinite(samples.labels)))
    if unusable:
        raise DataError(f"{prefix(task)}{unusable:,} of {samples.labels.size:,} labels are infinite or NaN")
    return samples


def counted_rows(
    labels: ArrayLike, scores: ArrayLike, weights: ArrayLike | None = None, task: str | None = None, logits: bool = False
) -> Samples:
    """The same for scores (N, C), one per class. Labels are not checked."""
    return _chosen(labels, scores, weights, task, axes=2)._replace(logits=logits)


def _chosen(labels: ArrayLike, scores: ArrayLike, weights: ArrayLike | None, task: str | None, axes: int) -> Samples:
    """Samples whose weight is not 0. Scores: (N,) or (N, C), as `axes` says."""
    y, s = np.asarray(labels), np.asarray(scores)
    w = np.ones(y.shape) if weights is None else np.asarray(weights, dtype=np.float64)
    if y.ndim != 1 or s.ndim != axes or not y.shape == s.shape[:1] == w.shape:
        if axes == 1:
            raise ValueError(f"labels {y.shape}, scores {s.shape} and weights {w.shape} must all be (N,)")
        raise ValueError(f"labels {y.shape} and weights {w.shape} must be (N,), scores {s.shape} (N, classes)")
    unusable = int(np.count_nonzero(~(np.isfinite(w) & (w >= 0))))
    if unusable:
        raise DataError(
            f"{prefix(task)}{unusable:,} of {w.size:,} weights are negative, infinite or NaN; 0 leaves a sample out"
        )
    kept = w > 0
    if not kept.all():
        y, s, w = y[kept], s[kept], w[kept]
    y, s = y.astype(np.float64, copy=False), s.astype(np.float64, copy=False)
    nan = int(np.count_nonzero(np.isnan(s)))
    if nan:
        raise DataError(
            f"{prefix(task)}{nan:,} of {s.size:,} scores are NaN. The model has diverged, or its input holds NaN: "
            "lower the learning rate, or look for NaN in dense features and in the loss."
        )
    return Samples(y, s, w, kept)


def prefix(task: str | None) -> str:
    """Start of an error's message."""
    return f"task {task!r}: " if task is not None else ""


def probabilities(samples: Samples, task: str | None = None) -> Floats:
    """(N,) float64: the scores, or the sigmoid of logits. Raises DataError for scores outside 0 .. 1 that are no logits."""
    if samples.logits:
        return sigmoid(samples.scores)
    outside = int(np.count_nonzero((samples.scores < 0) | (samples.scores > 1)))
    if outside:
        raise DataError(f"{prefix(task)}{outside:,} of {samples.scores.size:,} scores are no probabilities between 0 and 1")
    return samples.scores


def softmax(logits: ArrayLike) -> Floats:
    """Softmax over the last dimension, in float64."""
    z = np.asarray(logits, dtype=np.float64)
    terms = np.exp(z - z.max(axis=-1, keepdims=True))
    shares: Floats = terms / terms.sum(axis=-1, keepdims=True)
    return shares


def sigmoid(logits: ArrayLike) -> Floats:
    """Sigmoid in float64, exact to the last digits for very small and very large logits."""
    with np.errstate(invalid="ignore"):  # NaN stays NaN
        return np.exp(-np.logaddexp(0.0, -np.asarray(logits, dtype=np.float64)))
