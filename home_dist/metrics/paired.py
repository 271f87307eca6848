"""Whether one of two models is better on the same rows, by drawing users: the test that goes with the bootstrap's interval."""

from dataclasses import dataclass

import numpy as np

from home_dist.metrics.bootstrap import Bootstrap, Interval


@dataclass(frozen=True)
class PairedTest:
    """Of the difference first - second."""

    interval: Interval
    p: float
    """Two-sided: the share of draws whose difference lies on the other side of 0, doubled; NaN where nothing is defined. Never
    below 2 / (draws + 1): few draws tell nothing of what is rarer."""

    @property
    def differs(self) -> bool:
        """Whether 0 lies outside of the interval."""
        return self.interval.low > 0 or self.interval.high < 0


def paired_test(first: Bootstrap, second: Bootstrap, task: str | None = None, level: float = 0.95) -> PairedTest:
    """Of one task, or of the mean over tasks. Both must come from the same rows, number of draws and seed."""
    difference = first.minus(second)
    interval = difference.interval(task, level)
    columns = ~np.isnan(difference.estimate) if task is None else np.array([t == task for t in difference.tasks])
    draws = difference.draws[:, columns].mean(axis=1) if columns.any() else np.empty(0)
    draws = draws[~np.isnan(draws)]
    if not draws.size or np.isnan(interval.estimate):
        return PairedTest(interval, float("nan"))
    beyond = min(int((draws <= 0).sum()), int((draws >= 0).sum()))
    return PairedTest(interval, min(1.0, 2 * (beyond + 1) / (draws.size + 1)))
