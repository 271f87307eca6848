"""`home-dist daily`: takes the log's new days, one after the other.

Each step is a command as a user would give it, and leaves a folder or file that is whole or not there: a killed run goes on, by
the same command, at the step that it was in.
"""

import math
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rich.table import Table

from home_dist.daily.daily_section import DailySection
from home_dist.daily.journal import Day, Journal
from home_dist.errors import ConfigError, UserError
from home_dist.export.source import Source
from home_dist.files.json_files import json_text, read_json, with_nan, write_json
from home_dist.files.lock import locked
from home_dist.insight.run_figures import mean_defined
from home_dist.insight.run_files import MEASURES
from home_dist.prepare.days import day_name
from home_dist.prepare.generic.going_on import NothingNew
from home_dist.prepare.generic.log_days import log_days
from home_dist.prepare.generic.state import Base
from home_dist.publish.folder import VersionsFolder
from home_dist.publish.manifest import PublishError
from home_dist.publish.of_checkpoint import is_current
from home_dist.training.sweep import program

Say = Callable[[str], None]
_AGAIN = "Remove it; the same command makes it again."


class DayFailed(UserError):
    exit_code = 6


@dataclass
class Daily:
    section: DailySection
    say: Say
    seconds: dict[str, float] = field(default_factory=dict)
    """Of the steps of the day at hand."""

    @property
    def out(self) -> Path:
        return Path(self.section.out)

    def run(self) -> list[Day]:
        """Takes all days that are not done. Returns all that are. Raises UserError."""
        journal = Journal(self.out)
        with self._claimed():
            days = journal.days() or [self._done(journal, self._first())]
            for day in self._open_days(days[-1]):
                days.append(self._done(journal, self._day(day, days[-1])))
                self._forget(days)
            self.say(f"all days are done, up to {days[-1].day}; the model is {self.out / days[-1].model}")
        return days

    @contextmanager
    def _claimed(self) -> Iterator[None]:
        """Raises ConfigError while another process is at work in the folder, and for a folder of another file."""
        settings = self.out / "daily.json"
        with ExitStack() as lock:
            try:
                self.out.mkdir(parents=True, exist_ok=True)
                busy = ConfigError(f"{self.out}: another `home-dist daily` is at work there. Wait for it, or end it.")
                lock.enter_context(locked(self.out / ".lock", busy))
                self._refuse_other_settings(settings)
            except OSError as error:
                raise ConfigError(f"{self.out}: cannot be written: {error}. Choose another `out`.") from None
            yield

    def _refuse_other_settings(self, settings: Path) -> None:
        """Raises ConfigError if the folder's days are of another description, run, first day or share of users."""
        before = read_json(settings, "Restore it.", ConfigError)
        places = {k: os.path.relpath(getattr(self.section, k), self.out) for k in ("description", "run")}
        wanted = places | {"first_day": str(self.section.first_day), "hold_out": self.section.hold_out}
        other = [k for k in wanted if k in before and before[k] != wanted[k]]
        if other:
            changed = "; ".join(f"{k}: {before[k]!r} there, {wanted[k]!r} now" for k in other)
            raise ConfigError(f"{self.out}: holds days of other settings ({changed}). Choose another `out`.")
        write_json(settings, wanted)

    def _done(self, journal: Journal, day: Day) -> Day:
        try:
            journal.add(day)
        except OSError as error:
            raise ConfigError(f"{journal.path}: cannot be written: {error}. The same command then goes on.") from None
        self.seconds = {}
        return day

    def _open_days(self, newest: Day) -> list[int]:
        """Days, since 1970, that the log holds and that are not done. None is no error: the next one has not come yet."""
        base = Base.open(self.out / newest.data)
        try:
            days = list(log_days(Path(self.section.description), base))
        except NothingNew:
            days = []
        if self.section.leave_newest:
            days = days[:-1]
        if self.section.last_day is not None:
            days = [d for d in days if day_name(d) <= str(self.section.last_day)]
        self.say(f"{len(days)} days to take" + (f": {day_name(days[0])} to {day_name(days[-1])}" if days else ""))
        return days

    def _first(self) -> Day:
        name = str(self.section.first_day)
        data, run = self._prepare(name, []), f"runs/{name}"
        self._train(name, data, [], [])
        self._hand_over(name)
        return Day(name, data, self._rows(data), None, run, True, seconds=self.seconds)

    def _day(self, day: int, before: Day) -> Day:
        name = day_name(day)
        self.say(f"--- {name}")
        began_with = before.model
        options = ["--allow-gap"] * self.section.allow_gap + ["--skip-late"] * self.section.skip_late
        data = self._prepare(name, ["--like", str(self.out / before.data), *options])
        scored = self._figures(began_with, data, f"figures/{name}.scored.json", "--pooled")
        self._train(name, data, ["--from", str(self.out / began_with)], [p for s in self.section.set for p in ("--set", s)])
        kept, held_out = True, {}
        if (self.out / data / "validation").exists():  # on a small day nobody may be held out
            held_out = {
                "before": self._figures(began_with, data, f"figures/{name}.before.json", "--split", "validation"),
                "after": _means(read_json(self.out / "runs" / name / "evaluation.json", _AGAIN)["validation"]),
            }
            metric = self.section.rule.metric
            values = [held_out[which][metric] for which in ("before", "after")]
            kept = None in values or self.section.rule.keeps(*(float(v or 0) for v in values))
            verdict = "kept" if kept else f"rejected: it is worse by more than {self.section.rule.worse_by:g}"
            self.say(f"{name}: {metric} on held-out users {values[0]} before, {values[1]} after: {verdict}")
        if kept:
            self._hand_over(name)
        model = f"runs/{name}" if kept else began_with
        return Day(name, data, self._rows(data), began_with, model, kept, scored, held_out, self.seconds)

    def _prepare(self, name: str, options: Sequence[str]) -> str:
        data = f"data/{name}"
        if not (self.out / data).exists():
            given = [
                "--last-day",
                name,
                "--hold-out",
                f"{self.section.hold_out:g}",
                *([] if self.section.page else ["--no-page"]),
            ]
            self._call("prepare", 1, "prepare", self.section.description, self.out / data, *given, *options)
        return data

    def _train(self, name: str, data: str, begin: Sequence[str], options: Sequence[str]) -> None:
        validation = "validation" if (self.out / data / "validation").exists() else ""
        places = {
            "data.path": self.out / data,
            "run.dir": self.out / "runs" / name,
            "data.validation": validation,
            "data.test": "",
        }
        settings = [part for key, value in places.items() for part in ("--set", f"{key}={_toml(str(value))}")]
        settings += ["--set", "metrics.of_training=false"]
        self._call("train", self.section.ranks, "train", self.section.run, *options, *settings, *begin)

    def _figures(self, run: str, data: str, file: str, *options: str) -> dict[str, float | None]:
        """Means over tasks of a run's model on a day's data."""
        path = self.out / file
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            self._call(
                "score", self.section.ranks, "evaluate", self.out / run, "--data", self.out / data, "--out", path, *options
            )
        tree = read_json(path, _AGAIN)
        split = next(key for key in tree if key not in ("step", "samples", "calibration", "slices"))
        return _means(tree[split])

    def _hand_over(self, name: str) -> None:
        self._export(name)
        self._publish(name)

    def _publish(self, name: str) -> None:
        wanted, run = self.section.publish, self.out / "runs" / name
        if wanted is None:
            return
        try:
            there = is_current(VersionsFolder(wanted.to), Source.open(run), wanted.rows)
        except PublishError as error:  # damaged: a newer version helps
            self.say(f"{error}")
            there = False
        if not there:
            options = ["--rows", wanted.rows, "--keep", str(wanted.keep)]
            self._call("publish", 1, "publish", run, "--to", wanted.to, *options)

    def _export(self, name: str) -> None:
        wanted = self.section.export
        if wanted is None:
            return
        out = self.out / "exports" / name
        if not out.exists():
            out.parent.mkdir(exist_ok=True)
            options = ["--format", wanted.format, "--embeddings", wanted.embeddings] if wanted.format == "program" else []
            self._call("export", 1, "export", self.out / "runs" / name, "--out", out, *options)
        link = out.parent / "current.new"
        link.unlink(missing_ok=True)
        link.symlink_to(name)
        link.rename(out.parent / "current")

    def _call(self, step: str, ranks: int, *arguments: object) -> None:
        began = time.monotonic()
        command = [*program(ranks), *map(str, arguments)]
        self.say(f"home-dist {' '.join(map(str, arguments))}")
        code = subprocess.run(command).returncode
        self.seconds[step] = self.seconds.get(step, 0.0) + time.monotonic() - began
        if code:
            raise DayFailed(
                f"home-dist {arguments[0]} ended with exit code {code}; what it printed tells why. The same command goes on "
                f"there."
            )

    def _rows(self, data: str) -> int:
        return int(read_json(self.out / data / "report.json", "Restore it.")["rows_out"])

    def _forget(self, days: Sequence[Day]) -> None:
        """Removes what days before the last `keep_days` left, but not the newest kept model."""
        if self.section.keep_days is None:
            return
        for day in days[: -self.section.keep_days]:
            if days[-1].model != f"runs/{day.day}":
                for folder in (day.data, f"runs/{day.day}", f"exports/{day.day}"):
                    shutil.rmtree(self.out / folder, ignore_errors=True)


def _means(of_tasks: Mapping[str, Mapping[str, float | None]]) -> dict[str, float | None]:
    """Per measure, its mean over the tasks for which it is defined; None if it is for none."""
    # Log losses of classes would weigh more than those of yes or no.
    counted = {m: [t for t in of_tasks.values() if m != "log_loss" or "auc" in t] for m in MEASURES}
    means = {m: mean_defined(with_nan(task.get(m)) for task in tasks) for m, tasks in counted.items()}
    return {measure: None if math.isnan(mean) else mean for measure, mean in means.items()}


def days_table(days: Sequence[Day]) -> Table:
    """A row per day, oldest first."""
    table = Table(title="days: scored before they were trained on; held-out users before and after")
    table.add_column("day", no_wrap=True)
    for name in ("rows", "AUC", "GAUC", "AUC before", "after", "model", "s"):
        table.add_column(name, justify="right")
    for day in days:
        held_out = [day.held_out.get(which, {}).get("auc") for which in ("before", "after")]
        figures = [_number(v) for v in (day.scored.get("auc"), day.scored.get("gauc"), *held_out)]
        verdict = "first" if day.began_with is None else "kept" if day.kept else "rejected"
        table.add_row(day.day, f"{day.rows:,}", *figures, verdict, f"{sum(day.seconds.values()):,.0f}")
    return table


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _toml(text: str) -> str:
    return json_text(text, indent=None)
