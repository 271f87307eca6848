"""Paired test of two models on the same rows, from draws of users: the test that belongs to the bootstrap's interval."""

from dataclasses import dataclass

import numpy as np

from home_dist.metrics.bootstrap import Bootstrap, Interval


@dataclass(frozen=True)
class PairedTest:
    """Test of the difference first - second."""

    interval: Interval
    p: float
    """Two-sided: twice the share of draws whose difference lies on the other side of 0. Never below 2 / (draws + 1), as few
    draws cannot show rarer events. NaN where the metric is not defined."""

    @property
    def differs(self) -> bool:
        """Whether 0 lies outside the interval."""
        return self.interval.low > 0 or self.interval.high < 0


def paired_test(first: Bootstrap, second: Bootstrap, task: str | None = None, level: float = 0.95) -> PairedTest:
    """Tests one task, or (task None) the mean over tasks. Both must come from the same rows, number of draws and seed."""
    difference = first.minus(second)
    interval = difference.interval(task, level)
    columns = ~np.isnan(difference.estimate) if task is None else np.array([t == task for t in difference.tasks])
    draws = difference.draws[:, columns].mean(axis=1) if columns.any() else np.empty(0)
    draws = draws[~np.isnan(draws)]
    if not draws.size or np.isnan(interval.estimate):
        return PairedTest(interval, float("nan"))
    beyond = min(int((draws <= 0).sum()), int((draws >= 0).sum()))
    return PairedTest(interval, min(1.0, 2 * (beyond + 1) / (draws.size + 1)))
