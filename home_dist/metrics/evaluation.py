"""All metrics of all tasks from the scores of a split."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from home_dist.metrics.auc import auc_by_group, auc_of
from home_dist.metrics.calibration import calibration_error_of, calibration_ratio_of
from home_dist.metrics.gauc import gauc_of
from home_dist.metrics.log_loss import log_loss_of, normalized_entropy_of
from home_dist.metrics.samples import counted


@dataclass(frozen=True)
class TaskMetrics:
    """Metrics of one task over the samples whose label weight is not 0. NaN: the metric is not defined for these samples."""

    task: str
    samples: int
    positives: int
    auc: float
    """NaN where one class is missing."""
    gauc: float
    """NaN without groups, or where no group has both classes."""
    gauc_groups: int
    """Groups with both classes."""
    gauc_groups_left_out: int
    """Groups with samples of one class only."""
    log_loss: float
    """Nats per sample."""
    normalized_entropy: float
    """Log loss / entropy of the base rate."""
    calibration: float
    """Sum of predictions / sum of labels."""
    calibration_error: float
    """Mean of |mean prediction - share of positives| over 20 bins with equal numbers of samples."""


_MEANS = ("auc", "gauc", "log_loss", "normalized_entropy", "calibration", "calibration_error")


def evaluate_tasks(
    task_names: Sequence[str],
    labels: ArrayLike,
    weights: ArrayLike,
    scores: ArrayLike,
    groups: ArrayLike | None = None,
    logits: bool = False,
) -> list[TaskMetrics]:
    """One entry per task, from labels, label weights and scores (N, K) and groups (N,), normally users. logits: whether the
    scores are logits, not probabilities.

    A sample of weight w counts as w samples, a sample of weight 0 not at all. Raises DataError, which names the task, for
    scores that are NaN or no probabilities, labels other than 0 and 1, and weights that are negative or not finite.
    """
    y, w, p, names = as_tables(task_names, labels, weights, scores, groups)
    return [_evaluate(task, y[:, k], w[:, k], p[:, k], names, logits) for k, task in enumerate(task_names)]


def mean_row(metrics: Sequence[TaskMetrics]) -> TaskMetrics:
    """Each metric's mean over the tasks for which it is defined; counts are summed."""
    means = {name: mean_defined([getattr(m, name) for m in metrics]) for name in _MEANS}
    return TaskMetrics(
        task="mean",
        samples=sum(m.samples for m in metrics),
        positives=sum(m.positives for m in metrics),
        gauc_groups=sum(m.gauc_groups for m in metrics),
        gauc_groups_left_out=sum(m.gauc_groups_left_out for m in metrics),
        **means,
    )


def mean_defined(values: Sequence[float]) -> float:
    """Mean of the values that are not NaN; NaN if there are none."""
    defined = [v for v in values if not math.isnan(v)]
    return math.fsum(defined) / len(defined) if defined else math.nan


def as_tables(
    task_names: Sequence[str], labels: ArrayLike, weights: ArrayLike, scores: ArrayLike, groups: ArrayLike | None
) -> tuple[NDArray[np.generic], NDArray[np.generic], NDArray[np.generic], NDArray[np.generic] | None]:
    """Labels, weights and scores as arrays (N, K), and groups (N,). Raises ValueError where shapes do not fit."""
    y, w, p = np.asarray(labels), np.asarray(weights), np.asarray(scores)
    names = None if groups is None else np.asarray(groups)
    if y.ndim != 2 or y.shape[1] != len(task_names) or not y.shape == w.shape == p.shape:
        raise ValueError(
            f"labels {y.shape}, weights {w.shape} and scores {p.shape} must all be (N, {len(task_names)}): "
            f"one column per task ({', '.join(task_names)})"
        )
    if names is not None and names.shape != (y.shape[0],):
        raise ValueError(f"groups {names.shape} must be ({y.shape[0]},), one per row of labels")
    return y, w, p, names


def _evaluate(
    task: str,
    labels: NDArray[np.generic],
    weights: NDArray[np.generic],
    scores: NDArray[np.generic],
    groups: NDArray[np.generic] | None,
    logits: bool,
) -> TaskMetrics:
    samples = counted(labels, scores, weights, task, logits)
    grouped = None if groups is None else gauc_of(auc_by_group(samples, groups[samples.kept]))
    return TaskMetrics(
        task=task,
        samples=samples.labels.size,
        positives=int(samples.labels.sum()),
        auc=auc_of(samples),
        gauc=math.nan if grouped is None else grouped.value,
        gauc_groups=0 if grouped is None else grouped.groups_used,
        gauc_groups_left_out=0 if grouped is None else grouped.groups_left_out,
        log_loss=log_loss_of(samples, task),
        normalized_entropy=normalized_entropy_of(samples, task),
        calibration=calibration_ratio_of(samples, task),
        calibration_error=calibration_error_of(samples, task=task),
    )
