"""Exact metrics: over all samples of all ranks, with ties counted right."""

from home_dist.metrics.auc import auc
from home_dist.metrics.bootstrap import Bootstrap, Interval, bootstrap, bootstrap_log_loss, mean_bootstrap
from home_dist.metrics.bootstrap_numbers import bootstrap_errors, bootstrap_xauc
from home_dist.metrics.calibration import CalibrationCurve, calibration_curve, calibration_ratio, expected_calibration_error
from home_dist.metrics.classes import class_accuracy, class_auc, class_log_loss
from home_dist.metrics.evaluation import (
    TaskMetrics,
    evaluate_classes,
    evaluate_number,
    evaluate_task,
    evaluate_tasks,
    mean_defined,
    mean_row,
    with_requests,
    with_users,
)
from home_dist.metrics.gauc import GaucResult, gauc
from home_dist.metrics.gauc_over_ranks import gauc_over_ranks, grouped_xauc_over_ranks
from home_dist.metrics.log_loss import log_loss, normalized_entropy
from home_dist.metrics.over_ranks import ALONE, OverRanks
from home_dist.metrics.own_groups import rows_of_own_groups
from home_dist.metrics.paired import PairedTest, paired_test
from home_dist.metrics.power import Power, power_of_difference
from home_dist.metrics.regression import (
    NumberCalibration,
    mean_absolute_error,
    mean_ratio,
    number_calibration,
    r2,
    root_mean_squared_error,
)
from home_dist.metrics.samples import sigmoid, softmax
from home_dist.metrics.slices import Slice, evaluate_slices, slices_of
from home_dist.metrics.within_requests import RequestMetrics, within_requests, within_requests_over_ranks
from home_dist.metrics.xauc import grouped_xauc, xauc

__all__ = [
    "ALONE",
    "Bootstrap",
    "CalibrationCurve",
    "GaucResult",
    "Interval",
    "NumberCalibration",
    "OverRanks",
    "PairedTest",
    "Power",
    "RequestMetrics",
    "Slice",
    "TaskMetrics",
    "auc",
    "bootstrap",
    "bootstrap_errors",
    "bootstrap_log_loss",
    "bootstrap_xauc",
    "calibration_curve",
    "calibration_ratio",
    "class_accuracy",
    "class_auc",
    "class_log_loss",
    "evaluate_classes",
    "evaluate_number",
    "evaluate_slices",
    "evaluate_task",
    "evaluate_tasks",
    "expected_calibration_error",
    "gauc",
    "gauc_over_ranks",
    "grouped_xauc",
    "grouped_xauc_over_ranks",
    "log_loss",
    "mean_absolute_error",
    "mean_bootstrap",
    "mean_defined",
    "mean_ratio",
    "mean_row",
    "normalized_entropy",
    "number_calibration",
    "paired_test",
    "power_of_difference",
    "r2",
    "root_mean_squared_error",
    "rows_of_own_groups",
    "sigmoid",
    "slices_of",
    "softmax",
    "with_requests",
    "with_users",
    "within_requests",
    "within_requests_over_ranks",
    "xauc",
]
