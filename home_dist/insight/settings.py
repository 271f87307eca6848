"""Settings of a sweep: each has a run per seed. Their means over tasks, and their order by a measure."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from home_dist.config.stopping import SMALLER_IS_BETTER
from home_dist.insight.run_figures import RunFigures, mean_defined
from home_dist.insight.run_files import MEASURES


@dataclass(frozen=True)
class Setting:
    name: str
    """What differs from the other settings, such as "model.kind=ple"."""
    runs: Mapping[int, RunFigures]
    """By seed."""


@dataclass(frozen=True)
class SplitOfSettings:
    """What all settings measured on one split. Means are over the same tasks in all of them: others cannot be compared."""

    split: str
    settings: Sequence[Setting]

    def tasks(self, measure: str) -> list[str]:
        """Tasks for which the measure is defined in each run, but for runs in which it is not defined at all."""
        by_run = [self._defined(run, measure) for setting in self.settings for run in setting.runs.values()]
        measured = [tasks for tasks in by_run if tasks]
        return [t for t in measured[0] if all(t in tasks for tasks in measured)] if measured else []

    @property
    def measures(self) -> list[str]:
        """Measures that a run has of some task."""
        runs = [run for setting in self.settings for run in setting.runs.values()]
        return [m for m in MEASURES if any(self._defined(run, m) for run in runs)]

    def values(self, setting: Setting, measure: str) -> list[float]:
        """Means over tasks, one per seed; NaN where not defined."""
        tasks = self.tasks(measure)
        return [run.mean(self.split, measure, tasks) for run in setting.runs.values()]

    def mean(self, setting: Setting, measure: str) -> float:
        """Mean over tasks and over the seeds for which it is defined."""
        return mean_defined(self.values(setting, measure))

    def ranked(self, measure: str) -> list[Setting]:
        """The best first; settings without the measure last; equal ones in the order given."""
        sign = 1 if measure in SMALLER_IS_BETTER else -1
        means = {s.name: self.mean(s, measure) for s in self.settings}
        return sorted(self.settings, key=lambda s: (math.isnan(means[s.name]), sign * means[s.name]))

    def notes(self) -> list[str]:
        """Runs and tasks that the means leave out."""
        runs = [(f"{s.name}, seed {seed}", run) for s in self.settings for seed, run in s.runs.items()]
        known = list(dict.fromkeys(t for _, run in runs for t in run.tasks))
        measures_by_note: dict[str, list[str]] = {}
        for measure, label in MEASURES.items():
            tasks = self.tasks(measure)
            without = [name for name, run in runs if not self._defined(run, measure)]
            left_out = [t for t in known if t not in tasks]
            if len(without) == len(runs):
                continue  # an empty column: there is no group_column, say
            if without:
                note = f"no {{}} of {'; '.join(without)}: the means are of the other runs"
                measures_by_note.setdefault(note, []).append(label)
            if left_out:
                of = f"the means are of {', '.join(tasks)}" if tasks else "without a task that all have there is no mean"
                measures_by_note.setdefault(f"not every run has {{}} of {', '.join(left_out)}: {of}", []).append(label)
        return [f"{self.split}: {note.format(', '.join(labels))}" for note, labels in measures_by_note.items()]

    def _defined(self, run: RunFigures, measure: str) -> list[str]:
        return [t for t in run.tasks if not math.isnan(run.metric(self.split, t, measure))]
