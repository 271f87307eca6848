"""Findings: signs that last over several records. Each says what fails, where, since which step, how badly, and what to try."""

from dataclasses import asdict, dataclass
from typing import Any

from home_dist.config.insight import RulesSection
from home_dist.insight.rules import Sign, signs, table_signs
from home_dist.insight.run_files import TABLES
from home_dist.insight.store import InsightStore, Names, StepRecord
from home_dist.insight.table_figures import TableFigures


@dataclass(frozen=True)
class Finding:
    sign: Sign
    """The sign in the latest record that shows it."""
    since: int
    """Step of the first of the consecutive records that show it."""
    last: int
    """Step of the latest record that shows it."""

    def __str__(self) -> str:
        return f"{headline(self.sign)} Since step {self.since:,}. Try: {self.sign.advice}."

    def to_json(self, step: int) -> dict[str, Any]:
        return {"step": step, "since": self.since, **asdict(self.sign)}


def headline(sign: Sign) -> str:
    measured = f"{sign.value:.3g}, threshold {sign.threshold:.3g}"
    return f"{sign.rule} at {sign.where}: {sign.what} ({measured})."


class Judge:
    """Takes records in the order of steps and keeps the findings."""

    def __init__(self, names: Names, rules: RulesSection):
        self.names, self.rules = names, rules
        self._streaks: dict[tuple[str, ...], tuple[int, int]] = {}  # since, records in a row
        self._findings: dict[tuple[str, ...], Finding] = {}

    def record(self, record: StepRecord) -> list[Finding]:
        """Returns the findings that are new."""
        return self._take(record.step, signs(record.figures, self.names, self.rules), self.rules.patience, "experts")

    def tables(self, step: int, tables: list[TableFigures], epoch_over: bool) -> list[Finding]:
        """Signs of tables become findings at once: they do not depend on a few sampled rows of data."""
        return self._take(step, list(table_signs(tables, epoch_over, self.rules)), 1, "tables")

    def replay(self, store: InsightStore) -> None:
        """Takes all records of a run, to resume it or to inspect it afterwards."""
        for record in store.records():
            self.record(record)
        for entry in store.lines(TABLES):
            self.tables(entry["step"], [TableFigures(**t) for t in entry["tables"]], entry["epoch_over"])

    def findings(self) -> list[Finding]:
        """All findings: the most recently seen first, then in the order in which they began."""
        return sorted(self._findings.values(), key=lambda f: (-f.last, f.since))

    def _take(self, step: int, seen: list[Sign], patience: int, kind: str) -> list[Finding]:
        """Returns the new findings: signs seen for the first time in `patience` consecutive records."""
        new = []
        by_key = {(kind, *sign.key): sign for sign in seen}
        for key in [k for k in self._streaks if k[0] == kind and k not in by_key]:
            del self._streaks[key]
        for key, sign in by_key.items():
            since, times = self._streaks.get(key, (step, 0))
            self._streaks[key] = (since, times + 1)
            if times + 1 < patience:
                continue
            before = self._findings.get(key)
            self._findings[key] = Finding(sign, since if before is None else before.since, step)
            if before is None:
                new.append(self._findings[key])
        return new
