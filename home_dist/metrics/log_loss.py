"""Log loss, and the same in units of what the base rate alone would give.

Of a logit z the loss is log(1 + exp(-z)) or log(1 + exp(z)), which no rounding of probabilities cuts off.
"""

import numpy as np
from numpy.typing import ArrayLike

from home_dist.metrics.samples import Samples, counted, probabilities

_SMALLEST = 1e-15
"""Probabilities are kept this far from 0 and 1, so that one saturated score does not make the mean infinite."""


def log_loss(labels: ArrayLike, scores: ArrayLike, weights: ArrayLike | None = None, logits: bool = False) -> float:
    """Weighted mean of -log(probability of what happened), in nats. NaN without samples. logits: whether the scores are.

    Raises DataError for scores that are no probabilities.
    """
    return log_loss_of(counted(labels, scores, weights, logits=logits))


def normalized_entropy(labels: ArrayLike, scores: ArrayLike, weights: ArrayLike | None = None, logits: bool = False) -> float:
    """Log loss divided by the entropy of the samples' own base rate: 1 for a model that knows only that rate, 0 for a
    perfect one. NaN where one class is missing. Unlike log loss it compares tasks of different density.
    """
    return normalized_entropy_of(counted(labels, scores, weights, logits=logits))


def log_loss_of(samples: Samples, task: str | None = None) -> float:
    if not samples.labels.size:
        return float("nan")
    if samples.logits:
        nats = np.logaddexp(0.0, np.where(samples.labels == 1, -samples.scores, samples.scores))
    else:
        p = np.clip(probabilities(samples, task), _SMALLEST, 1 - _SMALLEST)
        nats = -np.where(samples.labels == 1, np.log(p), np.log1p(-p))
    return float(np.average(nats, weights=samples.weights))


def normalized_entropy_of(samples: Samples, task: str | None = None) -> float:
    if not samples.labels.size:
        return float("nan")
    rate = float(np.average(samples.labels, weights=samples.weights))
    if not 0 < rate < 1:
        return float("nan")
    entropy = -(rate * np.log(rate) + (1 - rate) * np.log1p(-rate))
    return log_loss_of(samples, task) / float(entropy)
