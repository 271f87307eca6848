"""Metrics of predicted numbers, such as watch time: errors, the share of explained variance, and calibration.

Labels and predictions are real numbers in the same unit. A weight is a number of repetitions, as in samples.py.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from home_dist.errors import DataError
from home_dist.metrics.calibration import edges_of, sums_by_bin
from home_dist.metrics.levels import bin_of
from home_dist.metrics.over_ranks import ALONE, OverRanks
from home_dist.metrics.samples import Floats, Samples, counted_numbers, prefix


def mean_absolute_error(labels: ArrayLike, predictions: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Weighted mean of |prediction - label|, all (N,), in the labels' unit. NaN without samples.

    Like all functions of this module it raises DataError for labels or predictions that are infinite or NaN and for weights
    that are negative, infinite or NaN.
    """
    return mean_absolute_error_of(finite_numbers(labels, predictions, weights))


def root_mean_squared_error(labels: ArrayLike, predictions: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Root of the weighted mean of (prediction - label)^2, all (N,), in the labels' unit. NaN without samples."""
    return root_mean_squared_error_of(finite_numbers(labels, predictions, weights))


def r2(labels: ArrayLike, predictions: ArrayLike, weights: ArrayLike | None = None) -> float:
    """1 - sum of squared errors / sum of the labels' squared distances from their weighted mean; all (N,).

    1 is perfect, 0 is as good as the mean. NaN where all labels are equal.
    """
    return r2_of(finite_numbers(labels, predictions, weights))


def mean_ratio(labels: ArrayLike, predictions: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Sum of predictions / sum of labels: 1 is right, 1.2 predicts a fifth too much. NaN where the labels' sum is 0."""
    return mean_ratio_of(finite_numbers(labels, predictions, weights))


@dataclass(frozen=True)
class NumberCalibration:
    """One entry per bin that holds samples, in the order of predictions."""

    weight: Floats
    """Sum of the samples' weights."""
    prediction: Floats
    """Mean prediction of the samples."""
    label: Floats
    """Mean label of the samples."""
    label_deviation: Floats
    """Standard deviation of the labels within the bin, with the sum of weights as divisor."""


def number_calibration(
    labels: ArrayLike, predictions: ArrayLike, weights: ArrayLike | None = None, bins: int = 20
) -> NumberCalibration:
    """Mean prediction and mean label per bin. Bins hold equal numbers of samples, in the order of predictions; equal
    predictions share a bin. Empty without samples."""
    return number_calibration_of(finite_numbers(labels, predictions, weights), bins)


def finite_numbers(
    labels: ArrayLike, predictions: ArrayLike, weights: ArrayLike | None = None, task: str | None = None
) -> Samples:
    """`counted_numbers`, with predictions that are finite. Raises DataError, which names `task`, for others."""
    samples = counted_numbers(labels, predictions, weights, task)
    infinite = int(np.count_nonzero(np.isinf(samples.scores)))
    if infinite:
        raise DataError(f"{prefix(task)}{infinite:,} of {samples.scores.size:,} predictions are infinite")
    return samples


def mean_absolute_error_of(samples: Samples, over: OverRanks = ALONE) -> float:
    return over.mean(np.abs(samples.scores - samples.labels), samples.weights)


def root_mean_squared_error_of(samples: Samples, over: OverRanks = ALONE) -> float:
    largest, mean_square = _mean_square(samples.scores - samples.labels, samples.weights, over)
    return largest * float(np.sqrt(mean_square))


def r2_of(samples: Samples, over: OverRanks = ALONE) -> float:
    y = samples.labels
    if over.smallest(y) >= over.largest(y):  # without samples they are infinite
        return float("nan")
    largest_error, error = _mean_square(samples.scores - y, samples.weights, over)
    largest, variance = _mean_square(y - over.mean(y, samples.weights), samples.weights, over)
    with np.errstate(over="ignore"):
        return float(1 - np.square(np.float64(largest_error) / largest) * (error / variance))


def mean_ratio_of(samples: Samples, over: OverRanks = ALONE) -> float:
    predicted, total = over.sums(
        float((samples.weights * samples.scores).sum()), float((samples.weights * samples.labels).sum())
    )
    return predicted / total if total else float("nan")


def number_calibration_of(samples: Samples, bins: int = 20, over: OverRanks = ALONE) -> NumberCalibration:
    edges, w = edges_of(samples, bins, over), samples.weights
    place = bin_of(samples.scores, edges)

    def sums(*values: Floats) -> list[Floats]:
        return over.totals(*sums_by_bin(place, edges.size + 1, *values))

    weight, prediction, label = sums(w, w * samples.scores, w * samples.labels)
    used = weight > 0
    with np.errstate(invalid="ignore"):
        label /= weight
    distance = samples.labels - label[place]
    largest = max(over.largest(np.abs(distance)), np.finfo(np.float64).tiny)  # as in _mean_square
    [square] = sums(w * np.square(distance / largest))
    deviation = largest * np.sqrt(square[used] / weight[used])
    return NumberCalibration(weight[used], prediction[used] / weight[used], label[used], deviation)


def _mean_square(values: Floats, weights: Floats, over: OverRanks) -> tuple[float, float]:
    """(m, q): the weighted mean of values^2 is m^2 q. m is the largest |value|, so that no square overflows or vanishes."""
    largest = over.largest(np.abs(values))
    if largest <= 0:  # -inf without values
        return 1.0, 0.0 if largest == 0 else float("nan")
    return largest, over.mean(np.square(values / largest), weights)
