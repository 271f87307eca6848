"""A calibration layer for exported programs, fitted on the run's validation split by scikit-learn.

platt: q = sigmoid(scale * logit(p) + shift), a logistic regression of the labels on the logit (Platt 1999), without penalty. It
keeps the order of impressions while scale is above 0.
isotonic: q rises with p in steps, the regression of the labels on p that never falls, with lines between its knots (Zadrozny
and Elkan, KDD 2002). It gives equal values to impressions that p tells apart, which costs AUC, and needs many positives.

Binary tasks are calibrated, each by itself; other predictions pass as they are.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from home_dist.errors import ConfigError
from home_dist.evaluation.scores import Scored
from home_dist.export.numbers import Inputs

Method = Literal["platt", "isotonic"]
_EPS = 1e-7
"""Probabilities are kept so far from 0 and 1 before their logit is taken."""


@dataclass(frozen=True)
class TaskCalibration:
    """Of one binary task."""

    samples: int
    positives: int
    before: float
    """Sum of predictions / sum of labels, on the rows that it is fitted on."""
    after: float
    scale: float = 1.0
    shift: float = 0.0
    knots: tuple[float, ...] = field(default=())
    """Isotonic: predictions, increasing; below the first and above the last its value holds."""
    values: tuple[float, ...] = field(default=())
    """Isotonic: probability at each knot."""


@dataclass(frozen=True)
class Calibration:
    method: Method
    columns: Mapping[int, TaskCalibration]
    """By column of the program's result."""

    def to_json(self, names: Sequence[str]) -> dict[str, Any]:
        """names: of the program's predictions."""
        unused = ("knots", "values") if self.method == "platt" else ("scale", "shift")
        told = {}
        for column, task in self.columns.items():
            told[names[column]] = {key: value for key, value in asdict(task).items() if key not in unused}
        return {"method": self.method, "split": "validation", "tasks": told}


def fit_calibration(scored: Scored, tasks: Sequence[str], method: Method) -> tuple[Calibration, list[str]]:
    """Fits on scored rows, and notes the tasks that stay as they are. Raises ConfigError without scikit-learn, and where no
    task can be calibrated."""
    predicted, columns, notes = scored.predictions, dict[int, TaskCalibration](), list[str]()
    for k in scored.families.tasks("binary"):
        column = scored.families.columns(k).start
        known = scored.weights[:, k] > 0
        labels, weights = (a[known, k].astype(np.float64) for a in (scored.labels, scored.weights))
        if len(np.unique(labels)) < 2:
            notes.append(f"task {tasks[k]}: the validation split has rows of one class alone; its predictions stay as they are")
            continue
        columns[column] = fit_task(predicted[known, column], labels, weights, method)
        if columns[column].scale <= 0:
            notes.append(f"task {tasks[k]}: its calibration turns the order round (scale {columns[column].scale:.3g})")
    if not columns:
        raise ConfigError("--calibrate: the validation split has no binary task with labels of both classes. Leave it out.")
    return Calibration(method, columns), notes


def fit_task(
    predictions: NDArray[np.float64], labels: NDArray[np.float64], weights: NDArray[np.float64], method: Method
) -> TaskCalibration:
    """predictions: probabilities (n,); labels: 0 or 1, both there; weights: above 0."""
    try:
        from sklearn.isotonic import IsotonicRegression
        from sklearn.linear_model import LogisticRegression
    except ImportError:
        raise ConfigError("--calibrate needs scikit-learn: pip install 'home_dist[calibrate]'") from None
    facts: dict[str, Any] = {"samples": len(labels), "positives": int(labels.sum())}
    facts["before"] = float((predictions * weights).sum() / (labels * weights).sum())
    if method == "platt":
        logits = _logit(predictions)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            model = LogisticRegression(C=np.inf, tol=1e-8, max_iter=1000).fit(logits[:, None], labels, weights)
        after = model.predict_proba(logits[:, None])[:, 1]
        facts |= {"scale": float(model.coef_[0, 0]), "shift": float(model.intercept_[0])}
    else:
        rising = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(predictions, labels, weights)
        after = rising.predict(predictions)
        facts |= {"knots": tuple(map(float, rising.X_thresholds_)), "values": tuple(map(float, rising.y_thresholds_))}
    return TaskCalibration(**facts, after=float((after * weights).sum() / (labels * weights).sum()))


def _logit(predictions: NDArray[np.float64]) -> NDArray[np.float64]:
    p = np.clip(predictions, _EPS, 1 - _EPS)
    return np.log(p / (1 - p))


class Calibrated(nn.Module):
    """A scoring model with a calibration behind it."""

    def __init__(self, model: nn.Module, calibration: Calibration):
        super().__init__()
        self.model, self.method = model, calibration.method
        self.columns = dict(calibration.columns)
        for column, task in self.columns.items():
            if self.method == "isotonic":
                self.register_buffer(f"knots_{column}", torch.tensor(task.knots, dtype=torch.float32))
                self.register_buffer(f"values_{column}", torch.tensor(task.values, dtype=torch.float32))
        self.eval()

    def forward(self, inputs: Inputs) -> torch.Tensor:
        """(B, P), as the model's."""
        predicted: torch.Tensor = self.model(inputs)
        of_columns = [self._calibrated(predicted[:, c], c) for c in range(predicted.shape[1])]
        return torch.stack(of_columns, 1)

    def _calibrated(self, p: torch.Tensor, column: int) -> torch.Tensor:
        """(B,)"""
        task = self.columns.get(column)
        if task is None:
            return p
        if self.method == "platt":
            return torch.sigmoid(task.scale * torch.logit(p, _EPS) + task.shift)
        return interpolated(p, getattr(self, f"knots_{column}"), getattr(self, f"values_{column}"))


def interpolated(p: torch.Tensor, knots: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """(B,) values at p (B,), on lines between knots (m,); as numpy.interp."""
    if len(knots) == 1:
        return values.expand(p.shape[0]).clone()
    right = torch.bucketize(p.contiguous(), knots, right=True).clamp(1, knots.shape[0] - 1)
    left = right - 1
    width = knots.index_select(0, right) - knots.index_select(0, left)
    share = ((p - knots.index_select(0, left)) / width.clamp(min=torch.finfo(torch.float32).tiny)).clamp(0, 1)
    low, high = values.index_select(0, left), values.index_select(0, right)
    return low + share * (high - low)
