"""Metrics that are exact: over all samples, over all ranks, with ties counted right."""

from home_dist.metrics.auc import auc
from home_dist.metrics.bootstrap import Bootstrap, Interval, bootstrap
from home_dist.metrics.calibration import calibration_ratio, expected_calibration_error
from home_dist.metrics.evaluation import TaskMetrics, evaluate_tasks, mean_defined, mean_row
from home_dist.metrics.gather import gather_rows
from home_dist.metrics.gauc import GaucResult, gauc
from home_dist.metrics.log_loss import log_loss, normalized_entropy

__all__ = [
    "Bootstrap",
    "GaucResult",
    "Interval",
    "TaskMetrics",
    "auc",
    "bootstrap",
    "calibration_ratio",
    "evaluate_tasks",
    "expected_calibration_error",
    "gather_rows",
    "gauc",
    "log_loss",
    "mean_defined",
    "mean_row",
    "normalized_entropy",
]
