"""Log loss, and normalised entropy: log loss relative to that of the base rate.

For a logit z the loss is log(1 + exp(-z)) or log(1 + exp(z)), which rounding of probabilities cannot cut off.
"""

import numpy as np
from numpy.typing import ArrayLike

from home_dist.metrics.over_ranks import ALONE, OverRanks
from home_dist.metrics.samples import Floats, Samples, counted, probabilities

SMALLEST = 1e-15
"""Probabilities are kept this far from 0 and 1, so that one saturated score does not make the mean infinite."""


def log_loss(labels: ArrayLike, scores: ArrayLike, weights: ArrayLike | None = None, logits: bool = False) -> float:
    """Weighted mean of -log(probability of the label), in nats. NaN without samples. logits: whether the scores are logits.

    Raises DataError for scores that are no probabilities.
    """
    return log_loss_of(counted(labels, scores, weights, logits=logits))


def normalized_entropy(labels: ArrayLike, scores: ArrayLike, weights: ArrayLike | None = None, logits: bool = False) -> float:
    """Log loss / entropy of the samples' base rate: 1 for a model that knows only that rate, 0 for a perfect model. NaN where
    one class is missing. Unlike log loss it is comparable between tasks of different base rates.
    """
    return normalized_entropy_of(counted(labels, scores, weights, logits=logits))


def log_loss_of(samples: Samples, task: str | None = None, over: OverRanks = ALONE) -> float:
    return over.mean(nats(samples, task), samples.weights)


def nats(samples: Samples, task: str | None = None) -> Floats:
    """(N,) -log(probability of the label)"""
    if samples.logits:
        return np.logaddexp(0.0, np.where(samples.labels == 1, -samples.scores, samples.scores))
    p = np.clip(probabilities(samples, task), SMALLEST, 1 - SMALLEST)
    return -np.where(samples.labels == 1, np.log(p), np.log1p(-p))


def normalized_entropy_of(samples: Samples, task: str | None = None) -> float:
    return relative_to_base_rate(log_loss_of(samples, task), samples)


def relative_to_base_rate(loss: float, samples: Samples, over: OverRanks = ALONE) -> float:
    """loss: the log loss of the samples, in nats."""
    rate = over.mean(samples.labels, samples.weights)
    if not 0 < rate < 1:
        return float("nan")
    entropy = -(rate * np.log(rate) + (1 - rate) * np.log1p(-rate))
    return loss / float(entropy)
