"""What a sweep found: settings ranked on validation, how far the best one is ahead, and apart from that the test split."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from home_dist.config.stopping import SMALLER_IS_BETTER
from home_dist.insight.differences import Difference, Differences, chance, interval_json
from home_dist.insight.kept_scores import RESAMPLES
from home_dist.insight.run_files import MEASURES
from home_dist.insight.settings import Setting, SplitOfSettings
from home_dist.insight.sweep_tables import differences_table, equal_seeds, settings_table, spread
from home_dist.metrics import Interval
from home_dist.screen import Screen

_EQUAL = (
    "equal seeds: runs of different train.seed measured exactly the same. The seed changed nothing there: such runs are worth "
    "one, and the spread over seeds is not known"
)

_WORDS = ("ahead of", "difference is chance", "equal to", "behind", "without an interval")
"""About the best setting, before the names of others."""


@dataclass(frozen=True)
class _Part:
    """One split."""

    measured: SplitOfSettings
    differences: list[Difference]
    """The best setting minus each other one."""


class SweepReport:
    """by: the measure that decides which setting is best, one of MEASURES."""

    def __init__(self, settings: Sequence[Setting], by: str):
        self._by, self._label = by, f"mean {MEASURES[by]}"
        self._splits = [s for s in ("validation", "test", "train") if _all_have(settings, s)]
        self._chosen_on = "validation" if "validation" in self._splits else None
        self.settings = list(settings)
        """The best first; in the order given where nothing ranks them."""
        self._best: Setting | None = None
        if self._chosen_on:
            measured = SplitOfSettings(self._chosen_on, self.settings)
            self.settings = measured.ranked(by)
            if not math.isnan(measured.mean(self.settings[0], by)):
                self._best = self.settings[0]
        self._parts = [self._part(split) for split in self._splits]

    def _part(self, split: str) -> _Part:
        measured = SplitOfSettings(split, self.settings)
        between = Differences(measured)
        best = self._best
        return _Part(measured, [between.between(best, s) for s in self.settings if s is not best] if best else [])

    def show(self, name: str, screen: Screen) -> None:
        """name: of the sweep."""
        if not self._parts:
            screen.say(f"note: no table of {name}: its runs have no split in common that they were evaluated on")
        explained = False
        for part in self._parts:
            split = part.measured.split
            screen.say("")
            screen.table(settings_table(f"{name}: {split}{self._role(split)}", part.measured))
            for note in self._notes(part):
                screen.say(f"note: {note}")
            if not part.differences:
                continue
            screen.table(differences_table(f"{split}: {self.settings[0].name} minus each other setting", part.differences))
            for line in self._verdict(part):
                screen.say(line)
            if not explained and any(not d.no_interval for d in part.differences):
                explained = True
                drawn = next(iter(self.settings[0].runs.values())).drawn
                screen.say(
                    f"intervals: 95 %, {RESAMPLES} draws of {drawn}, the same for both settings; mean over runs of the same "
                    "seed. chance: the interval covers 0. What further seeds would change is not in it"
                )

    def _role(self, split: str) -> str:
        """What a split's table is for."""
        if not self._chosen_on:
            return ", not ranked"
        if split == self._chosen_on:
            return f", ranked by {self._label}" if self._best and len(self.settings) > 1 else ""
        return ", not used to choose" + (" (in the order of validation)" if self._best and len(self.settings) > 1 else "")

    def _notes(self, part: _Part) -> list[str]:
        measured, split = part.measured, part.measured.split
        notes = measured.notes()
        if any(equal_seeds(measured.values(s, m)) for s in self.settings for m in MEASURES):
            notes.append(_EQUAL)
        if not self._chosen_on:
            without = [s.name for s in self.settings if not _all_have([s], "validation")]
            of = "" if len(without) == len(self.settings) else f" of {'; '.join(without)}"
            notes.append(
                f"the runs{of} have no validation split (data.validation): the settings stand in the order of the sweep. Who "
                f"picks one by this table has chosen on {split}, and its figures are then too good for rows not seen"
            )
        elif split == self._chosen_on and self._best is None:
            notes.append(f"no run has a {self._label} on {split}: the settings stand in the order of the sweep")
        elif split == self._chosen_on and "test" not in self._splits:
            notes.append(
                "not all runs have a test split (data.test): how good the best one is on rows not used to choose is open"
            )
        return notes

    def _verdict(self, part: _Part) -> list[str]:
        """Lines below the table of differences."""
        split, best = part.measured.split, self.settings[0]
        seeds = {s.name: set(s.runs) for s in self.settings}
        by_word: dict[str, list[str]] = {word: [] for word in _WORDS}
        for d in part.differences:
            by_word[self._word(d.intervals[self._by])].append(d.other)
        chosen = split == self._chosen_on
        lines = [f"best on {split} by {self._label}: {best.name}" if chosen else f"{best.name} on {split}, by {self._label}"]
        lines += [f"  {word}: {'; '.join(others)}" for word, others in by_word.items() if others]
        for d in part.differences:
            if d.no_interval:
                lines.append(f"note: no interval for {d.other} on {split}: {d.no_interval}")
                continue
            defined = min(interval.draws for m, interval in d.intervals.items() if part.measured.tasks(m))
            if defined < RESAMPLES:
                lines.append(f"note: {d.other} on {split}: {defined} of {RESAMPLES} draws have both labels of every task")
            if set(d.seeds) != seeds[best.name] | seeds[d.other]:
                lines.append(f"note: {d.other} on {split}: of seeds {', '.join(map(str, d.seeds))} alone, which both have")
        return lines

    def _word(self, interval: Interval) -> str:
        """One of _WORDS."""
        if math.isnan(interval.low):
            return "without an interval"
        if interval.low == interval.high == 0:
            return "equal to"
        if chance(interval):
            return "difference is chance"
        return "ahead of" if (interval.estimate > 0) == (self._by not in SMALLER_IS_BETTER) else "behind"

    def to_json(self) -> dict[str, Any]:
        """chosen_on, by and best: how the best setting was chosen, null where nothing ranks. tasks: what means are over, by
        split and measure. settings, the best first: seeds, and by split and measure the mean, standard deviation and value of
        each seed. differences, by split and other setting: best minus other, with intervals."""
        settings: dict[str, Any] = {s.name: {"seeds": list(s.runs)} for s in self.settings}
        tasks, differences = {}, {}
        for part in self._parts:
            split = part.measured.split
            tasks[split] = {m: part.measured.tasks(m) for m in MEASURES}
            for s in self.settings:
                settings[s.name][split] = {m: _spread_json(part.measured.values(s, m)) for m in MEASURES}
            differences[split] = {d.other: _difference_json(d) for d in part.differences}
        best = self._best.name if self._best else None
        chosen = {"chosen_on": self._chosen_on, "by": self._by, "best": best}
        return {**chosen, "tasks": tasks, "settings": settings, "differences": differences}


def _all_have(settings: Sequence[Setting], split: str) -> bool:
    return all(split in run.evaluation for setting in settings for run in setting.runs.values())


def _spread_json(values: Sequence[float]) -> dict[str, Any]:
    mean, deviation = spread(values)
    return {"mean": mean, "standard_deviation": deviation, "runs": values, "equal_seeds": equal_seeds(values)}


def _difference_json(difference: Difference) -> dict[str, Any]:
    by_measure = {m: interval_json(i) for m, i in difference.intervals.items()}
    return {"seeds": list(difference.seeds), **by_measure, "no_interval": difference.no_interval or None}
