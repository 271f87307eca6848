"""Tables of a sweep: what its settings measured, and how far the best one is ahead."""

import math
import statistics
from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table

from home_dist.insight.differences import Difference, chance
from home_dist.insight.run_files import MEASURES
from home_dist.insight.settings import SplitOfSettings
from home_dist.metrics import Interval


def settings_table(title: str, measured: SplitOfSettings) -> Table:
    """One row per setting: means over tasks, and over seeds with their standard deviation. A sole setting has a row per seed,
    too."""
    several = any(len(setting.runs) > 1 for setting in measured.settings)
    table = Table(title=escape(title) + "\nmeans over tasks" + " ± standard deviation over seeds" * several)
    table.add_column("settings", overflow="fold")
    shown = measured.measures or list(MEASURES)[:3]
    for name in ("runs", *(MEASURES[m] for m in shown)):
        table.add_column(name, justify="right")
    for setting in measured.settings:
        values = [measured.values(setting, measure) for measure in shown]
        if len(measured.settings) == 1 and len(setting.runs) > 1:
            for n, seed in enumerate(setting.runs):
                table.add_row(f"seed {seed}", "1", *(_number(v[n]) for v in values))
            table.add_section()
        table.add_row(escape(setting.name), str(len(setting.runs)), *map(with_spread, values))
    return table


def differences_table(title: str, differences: Sequence[Difference]) -> Table:
    """One row per other setting: the difference of each measure, below it the 95 % interval."""
    table = Table(title=escape(title))
    table.add_column("minus", overflow="fold")
    told = [m for m in MEASURES if any(not math.isnan(d.intervals[m].estimate) for d in differences)]
    shown = told or list(MEASURES)[:3]
    for measure in shown:
        table.add_column(MEASURES[measure], justify="right")
    for difference in differences:
        table.add_row(escape(difference.other), *(_with_interval(difference.intervals[m]) for m in shown))
    return table


def equal_seeds(values: Sequence[float]) -> bool:
    """Whether several seeds measured exactly the same."""
    defined = [v for v in values if not math.isnan(v)]
    return len(defined) > 1 and min(defined) == max(defined)


def spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation of the values that are not NaN; NaN where there are too few."""
    defined = [v for v in values if not math.isnan(v)]
    mean = statistics.fmean(defined) if defined else math.nan
    return mean, statistics.stdev(defined) if len(defined) > 1 else math.nan


def with_spread(values: Sequence[float]) -> str:
    """Mean of seeds with their standard deviation. Equal seeds are counted instead: a deviation of 0 would say nothing."""
    mean, deviation = spread(values)
    if equal_seeds(values):
        return f"{_number(mean)} ({sum(not math.isnan(v) for v in values)} equal seeds)"
    if math.isnan(deviation):
        return _number(mean)
    return f"{_number(mean)} ± " + (f"{deviation:.4f}" if deviation >= 0.00005 else f"{deviation:.0e}")


def _with_interval(interval: Interval) -> str:
    if math.isnan(interval.estimate):
        return "-"
    if math.isnan(interval.low):
        return f"{interval.estimate:+.4f}\nno interval"
    if interval.low == interval.estimate == interval.high == 0:
        return "0\nequal"
    verdict = " chance" if chance(interval) else ""
    return f"{interval.estimate:+.4f}{verdict}\n{interval.low:+.4f} to {interval.high:+.4f}"


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4f}"
