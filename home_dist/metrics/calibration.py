"""Whether probabilities mean what they say: of what is scored 0.1, a tenth should happen."""

import numpy as np
from numpy.typing import ArrayLike

from home_dist.metrics.samples import Samples, counted, probabilities


def calibration_ratio(labels: ArrayLike, scores: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Sum of predictions / sum of labels: 1 is right, 1.2 promises a fifth too much. NaN without positives."""
    return calibration_ratio_of(counted(labels, scores, weights))


def expected_calibration_error(labels: ArrayLike, scores: ArrayLike, weights: ArrayLike | None = None, bins: int = 20) -> float:
    """Mean over samples of |mean prediction - share of positives| of their bin. NaN without samples.

    Bins hold equal numbers of samples, ordered by score: with bins of equal width all samples of a rare task would lie
    in the first. Equal scores share a bin, so that the order of the samples does not matter.
    """
    return calibration_error_of(counted(labels, scores, weights), bins)


def calibration_ratio_of(samples: Samples, task: str | None = None) -> float:
    p = probabilities(samples, task)
    positives = float(samples.weights @ samples.labels)
    return float(samples.weights @ p) / positives if positives else float("nan")


def calibration_error_of(samples: Samples, bins: int = 20, task: str | None = None) -> float:
    if bins < 1:
        raise ValueError(f"bins must be at least 1, not {bins}")
    p = probabilities(samples, task)
    if not p.size:
        return float("nan")
    _, run = np.unique(p, return_inverse=True)
    run_weight = np.bincount(run, samples.weights)
    middle = np.cumsum(run_weight) - run_weight / 2
    total = run_weight.sum()
    bin_of_run = np.minimum((middle / total * bins).astype(np.int64), bins - 1)
    surplus = np.bincount(bin_of_run[run], samples.weights * (p - samples.labels), minlength=bins)
    return float(np.abs(surplus).sum() / total)
