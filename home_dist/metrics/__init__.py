"""Exact metrics: over all samples of all ranks, with ties counted right."""

from home_dist.metrics.auc import auc
from home_dist.metrics.bootstrap import Bootstrap, Interval, bootstrap, bootstrap_log_loss, mean_bootstrap
from home_dist.metrics.calibration import CalibrationCurve, calibration_curve, calibration_ratio, expected_calibration_error
from home_dist.metrics.evaluation import TaskMetrics, evaluate_tasks, mean_defined, mean_row
from home_dist.metrics.gather import gather_rows
from home_dist.metrics.gauc import GaucResult, gauc
from home_dist.metrics.gauc_over_ranks import gauc_over_ranks, rows_of_own_groups
from home_dist.metrics.log_loss import log_loss, normalized_entropy
from home_dist.metrics.paired import PairedTest, paired_test
from home_dist.metrics.samples import sigmoid
from home_dist.metrics.slices import Slice, evaluate_slices

__all__ = [
    "Bootstrap",
    "CalibrationCurve",
    "GaucResult",
    "Interval",
    "PairedTest",
    "Slice",
    "TaskMetrics",
    "auc",
    "bootstrap",
    "bootstrap_log_loss",
    "calibration_curve",
    "calibration_ratio",
    "evaluate_slices",
    "evaluate_tasks",
    "expected_calibration_error",
    "gather_rows",
    "gauc",
    "gauc_over_ranks",
    "log_loss",
    "mean_bootstrap",
    "mean_defined",
    "mean_row",
    "normalized_entropy",
    "paired_test",
    "rows_of_own_groups",
    "sigmoid",
]
