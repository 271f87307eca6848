"""All metrics of all tasks from the scores of a split."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from home_dist.metrics.auc import auc_by_group, levels_of
from home_dist.metrics.calibration import CalibrationCurve, calibration_ratio_of, curve_within, error_of
from home_dist.metrics.classes import class_accuracy_of, class_auc_of, class_log_loss_of, counted_classes
from home_dist.metrics.gauc import GaucResult, gauc_of
from home_dist.metrics.levels import area, bin_edges
from home_dist.metrics.log_loss import log_loss_of, relative_to_base_rate
from home_dist.metrics.over_ranks import ALONE, OverRanks
from home_dist.metrics.regression import (
    NumberCalibration,
    finite_numbers,
    mean_absolute_error_of,
    mean_ratio_of,
    number_calibration_of,
    r2_of,
    root_mean_squared_error_of,
)
from home_dist.metrics.samples import Samples, counted, probabilities
from home_dist.metrics.within_requests import RequestMetrics
from home_dist.metrics.xauc import xauc_by_group, xauc_of

Family = Literal["binary", "number", "class"]
"""What a task predicts: the probability of yes, a number, or the probabilities of classes."""

BINS = 20
"""Of calibration_error."""


@dataclass(frozen=True)
class TaskMetrics:
    """Metrics of one task over the samples whose label weight is not 0. NaN: the metric is not defined for these samples, or
    not for the task's family."""

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
    """Mean of |mean prediction - mean label| over 20 bins with equal numbers of samples."""
    family: Family = "binary"
    mae: float = math.nan
    """Of numbers, as the next two: mean absolute error, in the label's unit."""
    rmse: float = math.nan
    r2: float = math.nan
    xauc: float = math.nan
    """Share of pairs of different labels that are in the right order (D2Q, Zhan et al., KDD 2022)."""
    user_xauc: float = math.nan
    """XAUC within groups, weighted as GAUC."""
    accuracy: float = math.nan
    """Of classes, as the next."""
    macro_auc: float = math.nan
    """Mean over classes of the AUC of a class against the others."""
    ndcg: float = math.nan
    """NDCG@10 within requests, mean over requests with a positive; so are the next two."""
    mrr: float = math.nan
    recall: float = math.nan
    """Recall@10."""
    requests: int = 0
    """Requests with a positive."""
    curve: CalibrationCurve | NumberCalibration | None = field(default=None, compare=False, repr=False)
    """The bins of calibration_error, where it was measured."""

    def to_json(self) -> dict[str, Any]:
        """The metrics of its family."""
        of_requests = _OF_REQUESTS if self.requests else ()
        return {name: getattr(self, name) for name in (*_COUNTS, *_FIELDS[self.family], *of_requests)}


_COUNTS = ("task", "samples")
_FIELDS: dict[Family, tuple[str, ...]] = {
    "binary": (
        "positives",
        "auc",
        "gauc",
        "gauc_groups",
        "gauc_groups_left_out",
        "log_loss",
        "normalized_entropy",
        "calibration",
        "calibration_error",
    ),
    "number": (
        "family",
        "mae",
        "rmse",
        "r2",
        "xauc",
        "user_xauc",
        "gauc_groups",
        "gauc_groups_left_out",
        "calibration",
        "calibration_error",
    ),
    "class": ("family", "accuracy", "log_loss", "macro_auc"),
}
_OF_REQUESTS = ("ndcg", "mrr", "recall", "requests")
_MEANS = (
    *("auc", "gauc", "log_loss", "normalized_entropy", "calibration", "calibration_error"),
    *("mae", "rmse", "r2", "xauc", "user_xauc", "accuracy", "macro_auc", "ndcg", "mrr", "recall"),
)


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
    return [evaluate_task(task, y[:, k], w[:, k], p[:, k], names, logits) for k, task in enumerate(task_names)]


def evaluate_number(
    task: str,
    labels: ArrayLike,
    weights: ArrayLike,
    predictions: ArrayLike,
    groups: NDArray[np.generic] | None = None,
    over: OverRanks = ALONE,
) -> TaskMetrics:
    """Metrics of predicted numbers (N,), in the labels' unit; groups: (N,), normally users. over: whose rows count, see
    evaluate_task.

    Raises DataError, which names the task, for labels and predictions that are not finite.
    """
    samples = over.agreed(lambda: finite_numbers(labels, predictions, weights, task))
    curve = number_calibration_of(samples, over=over)
    error = float(np.average(np.abs(curve.prediction - curve.label), weights=curve.weight)) if curve.weight.size else math.nan
    metrics = replace(
        _undefined(task, samples, over),
        family="number",
        mae=mean_absolute_error_of(samples, over),
        rmse=root_mean_squared_error_of(samples, over),
        r2=r2_of(samples, over),
        xauc=xauc_of(samples, over),
        calibration=mean_ratio_of(samples, over),
        calibration_error=error,
        curve=curve,
    )
    return metrics if groups is None else with_users(metrics, gauc_of(xauc_by_group(samples, groups[samples.kept])))


def evaluate_classes(
    task: str, labels: ArrayLike, weights: ArrayLike, logits: ArrayLike, over: OverRanks = ALONE
) -> TaskMetrics:
    """Metrics of one of C classes. labels, weights: (N,); logits: (N, C). Raises DataError, which names the task."""
    samples = over.agreed(lambda: counted_classes(labels, logits, weights, task, logits=True))
    return replace(
        _undefined(task, samples, over),
        family="class",
        log_loss=class_log_loss_of(samples, task, over),
        accuracy=class_accuracy_of(samples, over),
        macro_auc=class_auc_of(samples, task, over),
    )


def with_requests(metrics: TaskMetrics, within: RequestMetrics) -> TaskMetrics:
    """With metrics within requests."""
    return replace(metrics, ndcg=within.ndcg, mrr=within.mrr, recall=within.recall, requests=within.requests_used)


def _undefined(task: str, samples: Samples, over: OverRanks) -> TaskMetrics:
    return TaskMetrics(
        task, over.count(samples.labels.size), 0, math.nan, math.nan, 0, 0, math.nan, math.nan, math.nan, math.nan
    )


def with_users(metrics: TaskMetrics, by_user: GaucResult) -> TaskMetrics:
    """With the family's metric within users."""
    counted_users = replace(metrics, gauc_groups=by_user.groups_used, gauc_groups_left_out=by_user.groups_left_out)
    if metrics.family == "number":
        return replace(counted_users, user_xauc=by_user.value)
    return replace(counted_users, gauc=by_user.value)


def mean_row(metrics: Sequence[TaskMetrics]) -> TaskMetrics:
    """Each metric's mean over the tasks for which it is defined; counts are summed."""
    means: dict[str, Any] = {name: mean_defined([getattr(m, name) for m in metrics]) for name in _MEANS}
    return TaskMetrics(
        task="mean",
        samples=sum(m.samples for m in metrics),
        positives=sum(m.positives for m in metrics),
        gauc_groups=sum(m.gauc_groups for m in metrics),
        gauc_groups_left_out=sum(m.gauc_groups_left_out for m in metrics),
        requests=sum(m.requests for m in metrics),
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


def evaluate_task(
    task: str,
    labels: ArrayLike,
    weights: ArrayLike,
    scores: ArrayLike,
    groups: NDArray[np.generic] | None = None,
    logits: bool = False,
    over: OverRanks = ALONE,
) -> TaskMetrics:
    """As evaluate_tasks, of one task: labels, weights, scores and groups are (N,).

    over: the ranks whose rows count, each of which passes its own; all of them get the metrics of all rows, and are told of
    errors. Collective. Metrics within groups are of the rows given: over ranks, give groups to gauc_over_ranks instead.
    """

    def chosen() -> Samples:
        samples = counted(labels, scores, weights, task, logits)
        if not logits:
            probabilities(samples, task)
        return samples

    samples = over.agreed(chosen)
    grouped = None if groups is None else gauc_of(auc_by_group(samples, groups[samples.kept]))
    of = levels_of(samples, over)
    auc, edges = area(of, over), bin_edges(of.scores, of.sums[0] + of.sums[1], BINS, over)
    del of
    curve = curve_within(samples, edges, task, over)
    loss = log_loss_of(samples, task, over)
    return TaskMetrics(
        task=task,
        samples=over.count(samples.labels.size),
        positives=over.count(int(samples.labels.sum())),
        auc=auc,
        gauc=math.nan if grouped is None else grouped.value,
        gauc_groups=0 if grouped is None else grouped.groups_used,
        gauc_groups_left_out=0 if grouped is None else grouped.groups_left_out,
        log_loss=loss,
        normalized_entropy=relative_to_base_rate(loss, samples, over),
        calibration=calibration_ratio_of(samples, task, over),
        calibration_error=error_of(curve),
        curve=curve,
    )
