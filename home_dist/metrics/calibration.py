"""Calibration: of the samples scored 0.1, a tenth should be positive."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from home_dist.metrics.samples import Floats, Samples, counted, probabilities


def calibration_ratio(labels: ArrayLike, scores: ArrayLike, weights: ArrayLike | None = None, logits: bool = False) -> float:
    """Sum of predictions / sum of labels: 1 is right, 1.2 predicts a fifth too many positives. NaN without positives."""
    return calibration_ratio_of(counted(labels, scores, weights, logits=logits))


def expected_calibration_error(
    labels: ArrayLike, scores: ArrayLike, weights: ArrayLike | None = None, bins: int = 20, logits: bool = False
) -> float:
    """Mean over samples of |mean prediction - share of positives| in the sample's bin. NaN without samples.

    Bins hold equal numbers of samples, ordered by score: in bins of equal width all samples of a rare task would fall into the
    first. Equal scores share a bin, so that the order of the samples does not matter.
    """
    return calibration_error_of(counted(labels, scores, weights, logits=logits), bins)


def calibration_ratio_of(samples: Samples, task: str | None = None) -> float:
    p = probabilities(samples, task)
    positives = float(samples.weights @ samples.labels)
    return float(samples.weights @ p) / positives if positives else float("nan")


@dataclass(frozen=True)
class CalibrationCurve:
    """One entry per bin that holds samples, in the order of predictions."""

    weight: Floats
    """Sum of the samples' weights."""
    prediction: Floats
    """Mean prediction of the samples."""
    rate: Floats
    """Share of positives among the samples."""


def calibration_curve(
    labels: ArrayLike, scores: ArrayLike, weights: ArrayLike | None = None, bins: int = 20, logits: bool = False
) -> CalibrationCurve:
    """Mean prediction and share of positives per bin; bins as in expected_calibration_error. Empty without samples."""
    return calibration_curve_of(counted(labels, scores, weights, logits=logits), bins)


def calibration_error_of(samples: Samples, bins: int = 20, task: str | None = None) -> float:
    curve = calibration_curve_of(samples, bins, task)
    if not curve.weight.size:
        return float("nan")
    return float(curve.weight @ np.abs(curve.prediction - curve.rate) / curve.weight.sum())


def calibration_curve_of(samples: Samples, bins: int = 20, task: str | None = None) -> CalibrationCurve:
    p = probabilities(samples, task)
    bin_of_sample = equal_bins(samples, bins)
    if not p.size:
        return CalibrationCurve(*np.empty((3, 0)))
    terms = (samples.weights, samples.weights * p, samples.weights * samples.labels)
    sums = np.stack([np.bincount(bin_of_sample, term, minlength=bins) for term in terms]).astype(np.float64)
    weight, predicted, positive = (s[sums[0] > 0] for s in sums)
    return CalibrationCurve(weight, predicted / weight, positive / weight)


def equal_bins(samples: Samples, bins: int) -> NDArray[np.int64]:
    """(N,): each sample's bin, 0 to bins - 1. Bins hold equal weights of samples, in the order of scores. Equal scores share a
    bin, so that bins can be uneven or empty."""
    if bins < 1:
        raise ValueError(f"bins must be at least 1, not {bins}")
    if not samples.scores.size:
        return np.empty(0, np.int64)
    _, run = np.unique(samples.scores, return_inverse=True)
    run_weight = np.bincount(run, samples.weights)
    middle = np.cumsum(run_weight) - run_weight / 2
    bin_of_run = np.minimum((middle / run_weight.sum() * bins).astype(np.int64), bins - 1)
    return bin_of_run[run]
