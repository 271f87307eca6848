"""What a rolling sweep found, beside its pools: each origin's own figures, and what choosing on its validation day alone gives.

The pooled validation days of later origins are test days of earlier ones. A setting that is chosen by them has therefore seen
test labels. What a user of the procedure gets is told by `chosen`: at each origin the setting that is best on that origin's own
validation day, which lies before its test day.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from home_dist.files.whole import whole_file
from home_dist.insight.differences import Difference, Differences, interval_json
from home_dist.insight.rolling_pool import SPLITS, pool
from home_dist.insight.run_figures import RunFigures
from home_dist.insight.run_files import MEASURES
from home_dist.insight.settings import Setting, SplitOfSettings
from home_dist.insight.svg import pyplot
from home_dist.insight.sweep_tables import differences_table
from home_dist.screen import Screen

CHOSEN = "chosen at each origin"
SEVERAL_DAYS = (
    "a later origin's validation day is an earlier one's test day: the order by pooled validation has seen test labels. "
    f'What choosing before each test day gives stands under "{CHOSEN}"'
)

Members = Mapping[str, Mapping[int, Mapping[int, RunFigures]]]
"""By setting, seed and number of the origin."""


@dataclass(frozen=True)
class RollingReport:
    by: str
    origins: Sequence[int]
    days: Mapping[int, str]
    """Each origin's test day, in words."""
    by_origin: Mapping[int, Sequence[Setting]]
    chosen: Mapping[int, str]
    """The setting chosen at each origin; none where none has the measure."""
    differences: Sequence[Difference]
    """The chosen ones minus each setting, on the pooled test days."""
    chosen_means: Mapping[str, float]
    """By measure."""

    @staticmethod
    def of(members: Members, pooled: Sequence[Setting], by: str, days: Mapping[int, str], folder: Path) -> "RollingReport":
        """folder: takes the pool of the chosen runs."""
        origins = list(days)
        by_origin = {
            n: [Setting(name, {seed: runs[n] for seed, runs in seeds.items()}) for name, seeds in members.items()]
            for n in origins
        }
        chosen = {}
        for n, settings in by_origin.items():
            measured = SplitOfSettings("validation", settings)
            best = measured.ranked(by)[0]
            if not math.isnan(measured.mean(best, by)):
                chosen[n] = best.name
        differences: list[Difference] = []
        means: dict[str, float] = {}
        if len(members) > 1 and len(chosen) == len(origins):
            seeds = set.intersection(*(set(runs) for runs in members.values()))
            runs = {
                seed: pool({n: members[chosen[n]][seed][n] for n in origins}, folder / "chosen" / f"seed-{seed}")
                for seed in sorted(seeds)
            }
            if runs:
                whole = Setting(CHOSEN, runs)
                test = SplitOfSettings("test", [whole, *pooled])
                between = Differences(test)
                differences = [between.between(whole, setting) for setting in pooled]
                means = {m: test.mean(whole, m) for m in test.measures}
        return RollingReport(by, origins, days, by_origin, chosen, differences, means)

    def show(self, screen: Screen) -> None:
        several = len(self.by_origin[self.origins[0]]) > 1
        screen.table(self._origins_table())
        if self.differences:
            means = ", ".join(f"{MEASURES[m]} {value:.4f}" for m, value in self.chosen_means.items())
            screen.say(f"{CHOSEN}, by mean {MEASURES[self.by]} on its validation day; pooled test days: {means}")
            screen.table(differences_table(f"test: {CHOSEN} minus each setting", self.differences))
        if several and len(self.origins) > 1:
            screen.say(f"note: {SEVERAL_DAYS}")

    def _origins_table(self) -> Table:
        settings = self.by_origin[self.origins[0]]
        several = len(settings) > 1
        table = Table(
            title=f"each origin's test day: mean AUC / GAUC over tasks{', chosen setting marked *' if several else ''}"
        )
        for name in ("origin", "test day", "rows"):
            table.add_column(name, justify="right")
        for setting in settings:
            table.add_column(escape(setting.name), overflow="fold", justify="right")
        for n in self.origins:
            measured = SplitOfSettings("test", self.by_origin[n])
            cells = []
            for setting in measured.settings:
                mark = "*" if several and self.chosen.get(n) == setting.name else ""
                cells.append(f"{_text(measured.mean(setting, 'auc'))} / {_text(measured.mean(setting, 'gauc'))}{mark}")
            run = next(iter(measured.settings[0].runs.values()))
            rows = max((int(figures.get("samples", 0)) for figures in run.evaluation.get("test", {}).values()), default=0)
            table.add_row(str(n), self.days[n], f"{rows:,}", *cells)
        return table

    def picture(self, path: Path) -> None:
        """Mean AUC and GAUC (or the measure that ranks) of each setting by test day."""
        measures = [m for m in dict.fromkeys(("auc", "gauc", self.by)) if self._defined(m)]
        if not measures:
            return
        figure, panels = pyplot.subplots(1, len(measures), figsize=(4.2 * len(measures), 3.0), squeeze=False)
        for axes, measure in zip(panels[0], measures, strict=True):
            for place, setting in enumerate(self.by_origin[self.origins[0]]):
                means = [
                    SplitOfSettings("test", self.by_origin[n]).mean(self.by_origin[n][place], measure) for n in self.origins
                ]
                axes.plot(range(len(means)), means, marker=".", label=setting.name)
            axes.set_title(f"mean {MEASURES[measure]} by test day")
            axes.set_xticks(range(len(self.origins)), [self.days[n][5:] for n in self.origins])
        panels[0][0].legend(fontsize=6.5)
        with whole_file(path) as file:
            figure.savefig(file, format="png", dpi=120)
        pyplot.close(figure)

    def _defined(self, measure: str) -> bool:
        return any(measure in SplitOfSettings("test", self.by_origin[n]).measures for n in self.origins)

    def to_json(self) -> dict[str, Any]:
        """origins: by number, the test day, the chosen setting, and by split, setting and measure the mean over seeds. chosen:
        the pooled test figures of the chosen ones, and their differences to each setting."""
        origins = {}
        for n in self.origins:
            splits = {}
            for split in SPLITS:
                measured = SplitOfSettings(split, self.by_origin[n])
                splits[split] = {s.name: {m: measured.mean(s, m) for m in measured.measures} for s in measured.settings}
            origins[str(n)] = {"test_day": self.days[n], "chosen": self.chosen.get(n), **splits}
        differences = {d.other: {m: interval_json(i) for m, i in d.intervals.items()} for d in self.differences}
        return {"origins": origins, "chosen": {"test": dict(self.chosen_means), "differences": differences}}


def _text(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4f}"
