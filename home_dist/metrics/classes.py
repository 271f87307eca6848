"""Metrics of a choice among C classes: accuracy, log loss, and the mean of the classes' AUC."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from home_dist.errors import DataError
from home_dist.metrics.auc import auc_of
from home_dist.metrics.log_loss import SMALLEST
from home_dist.metrics.over_ranks import ALONE, OverRanks
from home_dist.metrics.samples import Floats, Samples, counted_rows, prefix

_TOLERANCE = 1e-3
"""Probabilities of a sample sum to 1 up to the rounding of half precision."""


def class_accuracy(labels: ArrayLike, scores: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Share of samples whose class has the highest score; of equal scores the lowest class wins. NaN without samples.

    Labels: (N,) classes 0 to C - 1; scores: (N, C) probabilities or logits; weights: (N,). Like all functions of this module
    it raises DataError for labels that are not whole numbers from 0 to C - 1, scores that are NaN, and weights that are
    negative, infinite or NaN.
    """
    return class_accuracy_of(counted_classes(labels, scores, weights))


def class_log_loss(labels: ArrayLike, scores: ArrayLike, weights: ArrayLike | None = None, logits: bool = False) -> float:
    """Weighted mean of -log(probability of the label), in nats. NaN without samples. logits: whether scores (N, C) are logits.

    Raises DataError for scores that are no probabilities, and for infinite logits.
    """
    return class_log_loss_of(counted_classes(labels, scores, weights, logits=logits))


def class_auc(labels: ArrayLike, scores: ArrayLike, weights: ArrayLike | None = None, logits: bool = False) -> float:
    """Mean over classes of the AUC of the class against all others, by the class's probability.

    Classes without samples, and a class that all samples have, are left out of the mean; NaN where none is left. Where every
    class is present this equals scikit-learn's roc_auc_score(multi_class="ovr", average="macro"), which refuses other labels.
    logits: whether scores (N, C) are logits. Raises DataError as class_log_loss does.
    """
    return class_auc_of(counted_classes(labels, scores, weights, logits=logits))


def counted_classes(
    labels: ArrayLike, scores: ArrayLike, weights: ArrayLike | None = None, task: str | None = None, logits: bool = False
) -> Samples:
    """Samples whose weight is not 0, with scores (N, C). Raises DataError, which names `task`."""
    samples = counted_rows(labels, scores, weights, task, logits)
    y, classes = samples.labels, samples.scores.shape[1]
    wrong = ~((y >= 0) & (y < classes) & (y == np.floor(y)))
    if wrong.any():
        raise DataError(
            f"{prefix(task)}{int(wrong.sum()):,} of {y.size:,} labels are no classes, for example {y[wrong][0]:g}: "
            f"classes are whole numbers from 0 to {classes - 1}, as there are {classes} scores per sample"
        )
    return samples


def class_accuracy_of(samples: Samples, over: OverRanks = ALONE) -> float:
    chosen = samples.scores.argmax(axis=1) if samples.labels.size else np.empty(0)
    return over.mean(chosen == samples.labels, samples.weights)


def class_log_loss_of(samples: Samples, task: str | None = None, over: OverRanks = ALONE) -> float:
    label = samples.labels.astype(np.intp)
    if samples.logits:
        shifted, total = over.agreed(lambda: _softmax_terms(samples, task))
        nats = np.log(total) - _of_label(shifted, label)
    else:
        nats = -np.log(np.clip(_of_label(over.agreed(lambda: class_probabilities(samples, task)), label), SMALLEST, 1.0))
    return over.mean(nats, samples.weights)


def class_auc_of(samples: Samples, task: str | None = None, over: OverRanks = ALONE) -> float:
    probabilities = over.agreed(lambda: class_probabilities(samples, task))
    areas = np.array(
        [
            auc_of(Samples((samples.labels == c).astype(np.float64), probabilities[:, c], samples.weights, samples.kept), over)
            for c in range(samples.scores.shape[1])
        ]
    )
    defined = areas[~np.isnan(areas)]
    return float(defined.mean()) if defined.size else float("nan")


def class_probabilities(samples: Samples, task: str | None = None) -> Floats:
    """(N, C): the scores, or the softmax of logits. Raises DataError for scores that are no probabilities."""
    if samples.logits:
        shifted, total = _softmax_terms(samples, task)
        return np.exp(shifted) / total[:, None]
    p = samples.scores
    wrong = (p < 0).any(axis=1) | (np.abs(p.sum(axis=1) - 1) > _TOLERANCE)
    if wrong.any():
        raise DataError(
            f"{prefix(task)}the scores of {int(wrong.sum()):,} of {len(p):,} samples are no probabilities: "
            f"they must be at least 0 and sum to 1, not to {p[wrong][0].sum():g}. Are they logits?"
        )
    return p


def _softmax_terms(samples: Samples, task: str | None) -> tuple[Floats, Floats]:
    """Logits minus the highest of their sample (N, C), which cannot overflow, and the sums of their exponentials (N,)."""
    infinite = int(np.count_nonzero(np.isinf(samples.scores)))
    if infinite:
        raise DataError(f"{prefix(task)}{infinite:,} of {samples.scores.size:,} logits are infinite")
    if not samples.scores.size:
        return samples.scores, np.zeros(len(samples.scores))
    with np.errstate(over="ignore"):  # a difference of -inf is a probability of 0
        shifted = samples.scores - samples.scores.max(axis=1, keepdims=True)
    return shifted, np.exp(shifted).sum(axis=1)


def _of_label(values: Floats, label: NDArray[np.intp]) -> Floats:
    """(N, C) -> (N,): the value of each sample's class."""
    chosen: Floats = np.take_along_axis(values, label[:, None], axis=1)[:, 0]
    return chosen
