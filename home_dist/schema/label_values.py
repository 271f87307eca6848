"""Facts about a label's values, which `prepare` fits on the training days, and which objectives read (home_dist/objectives)."""

from itertools import pairwise
from typing import Annotated

from pydantic import Field, field_validator, model_validator

from home_dist.schema.base import Spec

Deviation = Annotated[float, Field(gt=0)]


class LabelValues(Spec):
    """All numbers are in the label's unit, over the training rows that know the label."""

    mean: float = 0.0
    """Mean of the label."""
    std: Deviation = 1.0
    """Standard deviation of the label."""
    log_mean: float = 0.0
    """Of log(1 + y)."""
    log_std: Deviation = 1.0
    """Standard deviation of log(1 + y)."""
    thresholds: tuple[float, ...] = ()
    """Increasing, above 0: an ordinal objective predicts whether y is above each (CREAD, Sun et al., AAAI 2024)."""
    above: tuple[float, ...] = ()
    """Share of rows above each threshold."""
    duration_boundaries: tuple[float, ...] = ()
    """Increasing: group g holds boundaries[g - 1] <= duration < boundaries[g]."""
    quantiles: tuple[tuple[float, ...], ...] = ()
    """For each group of durations, quantiles of y at equal steps from 0 to 1 (D2Q, Zhan et al., KDD 2022)."""
    shares: tuple[float, ...] = ()
    """Share of each class."""

    @field_validator("thresholds", "duration_boundaries")
    @classmethod
    def _strictly_increasing(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        equal = next((a for a, b in pairwise(value) if not a < b), None)
        if equal is not None:
            raise ValueError(
                f"must increase strictly, but {equal:g} is followed by a number that is not above it; leave one out"
            )
        return value

    @model_validator(mode="after")
    def _fit(self) -> "LabelValues":
        if self.thresholds and self.thresholds[0] <= 0:
            raise ValueError(f"thresholds must be above 0, not {self.thresholds[0]:g}")
        if self.above and len(self.above) != len(self.thresholds):
            raise ValueError(f"above has {len(self.above)} shares, but there are {len(self.thresholds)} thresholds")
        if self.quantiles:
            groups, steps = len(self.duration_boundaries) + 1, {len(row) for row in self.quantiles}
            if len(self.quantiles) != groups or len(steps) > 1 or min(steps) < 2:
                raise ValueError(
                    f"quantiles need {groups} lists of one length of at least 2, as there are {groups - 1} duration_boundaries"
                )
            if any(a > b for row in self.quantiles for a, b in pairwise(row)):
                raise ValueError("quantiles of a group must not fall")
        return self
