"""Checks that all metrics make of their input, and the choice of samples that count.

A weight is a number of repetitions: a sample of weight 2 counts as two samples of weight 1, a sample of weight 0 as none.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from home_dist.errors import DataError

Floats = NDArray[np.float64]


class Samples(NamedTuple):
    """The samples of one task that count, in float64."""

    labels: Floats
    """(N,), 0 or 1"""
    scores: Floats
    """(N,), probabilities or logits: higher for samples that are more likely positive"""
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
    y, s = np.asarray(labels), np.asarray(scores)
    w = np.ones(y.shape) if weights is None else np.asarray(weights, dtype=np.float64)
    if y.ndim != 1 or not y.shape == s.shape == w.shape:
        raise ValueError(f"labels {y.shape}, scores {s.shape} and weights {w.shape} must all be (N,)")
    prefix = f"task {task!r}: " if task is not None else ""
    unusable = int(np.count_nonzero(~(np.isfinite(w) & (w >= 0))))
    if unusable:
        raise DataError(f"{prefix}{unusable:,} of {w.size:,} weights are negative, infinite or NaN; 0 leaves a sample out")
    kept = w > 0
    y, s, w = y[kept].astype(np.float64), s[kept].astype(np.float64), w[kept]
    nan = int(np.count_nonzero(np.isnan(s)))
    if nan:
        raise DataError(
            f"{prefix}{nan:,} of {s.size:,} scores are NaN. The model has diverged, or its input holds NaN: "
            "lower the learning rate, or look for NaN in dense features and in the loss."
        )
    other = int(np.count_nonzero((y != 0) & (y != 1)))
    if other:
        raise DataError(f"{prefix}{other:,} of {y.size:,} labels are neither 0 nor 1, for example {y[(y != 0) & (y != 1)][0]}")
    return Samples(y, s, w, kept, logits)


def probabilities(samples: Samples, task: str | None = None) -> Floats:
    """(N,) float64: the scores, or the sigmoid of logits. Raises DataError for scores outside 0 .. 1 that are no logits."""
    if samples.logits:
        return sigmoid(samples.scores)
    outside = int(np.count_nonzero((samples.scores < 0) | (samples.scores > 1)))
    if outside:
        prefix = f"task {task!r}: " if task is not None else ""
        raise DataError(f"{prefix}{outside:,} of {samples.scores.size:,} scores are no probabilities between 0 and 1")
    return samples.scores


def sigmoid(logits: ArrayLike) -> Floats:
    """Sigmoid in float64, exact to the last digits for very small and very large logits."""
    with np.errstate(invalid="ignore"):  # NaN stays NaN
        return np.exp(-np.logaddexp(0.0, -np.asarray(logits, dtype=np.float64)))
