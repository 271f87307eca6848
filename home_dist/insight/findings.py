"""Findings: signs that stay. What, where, since which step, how bad, what to try."""

from dataclasses import asdict, dataclass
from typing import Any

from home_dist.config.insight import RulesSection
from home_dist.insight.rules import Sign, signs, table_signs
from home_dist.insight.store import TABLES, InsightStore, Names, StepRecord
from home_dist.insight.table_figures import TableFigures


@dataclass(frozen=True)
class Finding:
    sign: Sign
    """As it was when last seen."""
    since: int
    """The step of the first record of those in a row in which it held."""
    last: int
    """The step of the latest record in which it held."""

    def __str__(self) -> str:
        return f"{headline(self.sign)} Since step {self.since:,}. Try: {self.sign.advice}."

    def to_json(self, step: int) -> dict[str, Any]:
        return {"step": step, "since": self.since, **asdict(self.sign)}


def headline(sign: Sign) -> str:
    measured = f"{sign.value:.3g}, threshold {sign.threshold:.3g}"
    return f"{sign.rule} at {sign.where}: {sign.what} ({measured})."


class Judge:
    """Takes records in the order of steps, and keeps what it has found."""

    def __init__(self, names: Names, rules: RulesSection):
        self.names, self.rules = names, rules
        self._streaks: dict[tuple[str, ...], tuple[int, int]] = {}  # since, records in a row
        self._found: dict[tuple[str, ...], Finding] = {}

    def record(self, record: StepRecord) -> list[Finding]:
        """Returns the findings that are new."""
        return self._take(record.step, signs(record.figures, self.names, self.rules), self.rules.patience, "experts")

    def tables(self, step: int, tables: list[TableFigures], epoch_over: bool) -> list[Finding]:
        """What tables tell is no matter of luck of a few samples: it is told at once."""
        return self._take(step, list(table_signs(tables, epoch_over, self.rules)), 1, "tables")

    def replay(self, store: InsightStore) -> None:
        """Takes what a run has recorded so far: it goes on, or is looked at afterwards."""
        for record in store.records():
            self.record(record)
        for entry in store.lines(TABLES):
            self.tables(entry["step"], [TableFigures(**t) for t in entry["tables"]], entry["epoch_over"])

    def findings(self) -> list[Finding]:
        """All of them, those that still hold first, each kind in the order in which they came up."""
        return sorted(self._found.values(), key=lambda f: (-f.last, f.since))

    def _take(self, step: int, found: list[Sign], patience: int, kind: str) -> list[Finding]:
        new = []
        keys = {(kind, *sign.key): sign for sign in found}
        for key in [k for k in self._streaks if k[0] == kind and k not in keys]:
            del self._streaks[key]
        for key, sign in keys.items():
            since, times = self._streaks.get(key, (step, 0))
            self._streaks[key] = (since, times + 1)
            if times + 1 < patience:
                continue
            before = self._found.get(key)
            self._found[key] = Finding(sign, since if before is None else before.since, step)
            if before is None:
                new.append(self._found[key])
        return new
