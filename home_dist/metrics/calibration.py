"""Calibration: of the samples scored 0.1, a tenth should be positive."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from home_dist.metrics.levels import bin_edges, bin_of, levels
from home_dist.metrics.over_ranks import ALONE, OverRanks
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
    return error_of(calibration_curve_of(counted(labels, scores, weights, logits=logits), bins))


def calibration_ratio_of(samples: Samples, task: str | None = None, over: OverRanks = ALONE) -> float:
    p = probabilities(samples, task)
    # Not a product of BLAS, whose threads take longer to wake up than the sum takes.
    predicted, positives = over.sums(float((samples.weights * p).sum()), float((samples.weights * samples.labels).sum()))
    return predicted / positives if positives else float("nan")


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


def calibration_curve_of(samples: Samples, bins: int = 20) -> CalibrationCurve:
    return curve_within(samples, edges_of(samples, bins))


def curve_within(samples: Samples, edges: Floats, task: str | None = None, over: OverRanks = ALONE) -> CalibrationCurve:
    """edges: each bin's lowest score but the first's. Collective."""
    p, bins = probabilities(samples, task), edges.size + 1
    terms = samples.weights, samples.weights * p, samples.weights * samples.labels
    weight, predicted, positive = over.totals(*sums_by_bin(bin_of(samples.scores, edges), bins, *terms))
    used = weight > 0
    return CalibrationCurve(weight[used], predicted[used] / weight[used], positive[used] / weight[used])


def error_of(curve: CalibrationCurve) -> float:
    if not curve.weight.size:
        return float("nan")
    return float(curve.weight @ np.abs(curve.prediction - curve.rate) / curve.weight.sum())


def edges_of(samples: Samples, bins: int, over: OverRanks = ALONE) -> Floats:
    """Edges of bins, see levels.bin_edges. Bins hold equal weights of samples, in the order of scores. Equal scores share a
    bin, so that bins can be uneven or empty. Collective."""
    if bins < 1:
        raise ValueError(f"bins must be at least 1, not {bins}")
    of = levels(samples.scores, samples.weights, over=over)
    return bin_edges(of.scores, of.sums[0], bins, over)


def sums_by_bin(bin_of_sample: NDArray[np.int64], bins: int, *values: Floats) -> list[Floats]:
    """(bins,) of each of the values (N,)."""
    return [np.bincount(bin_of_sample, value, minlength=bins).astype(np.float64) for value in values]
