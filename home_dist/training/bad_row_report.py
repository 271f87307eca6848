"""Tells how many rows a run left out as they could not be used, and why, of every split that it reads."""

from collections import Counter, defaultdict
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch.distributed as dist

from home_dist.data import Reader
from home_dist.distributed.ranks import Ranks
from home_dist.errors import UserError
from home_dist.files.json_files import read_json, write_json
from home_dist.screen import Screen
from home_dist.training.events import EventLog

_TOLD = 5
"""Reasons that the screen names, the most frequent ones."""

Row = tuple[str, int, int, str]
"""File, row group, row within it, column and reason."""


@dataclass
class BadRowsOfSplit:
    """Of one split, over all epochs, rounds and restarts of a run: each row once."""

    reasons: Counter[str] = field(default_factory=Counter)
    rows: dict[str, dict[str, set[int]]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(set)))
    """By file and row group. A row that is read again, as in another epoch or after a restart, is known by it."""

    def add(self, rows: list[Row]) -> bool:
        """Returns whether there were new ones."""
        before = self.reasons.total()
        for file, group, row, reason in rows:
            known = self.rows[file][str(group)]
            if row not in known:
                known.add(row)
                self.reasons[reason] += 1
        return self.reasons.total() > before

    def to_json(self) -> dict[str, Any]:
        rows = {file: {group: sorted(known) for group, known in groups.items()} for file, groups in self.rows.items()}
        return {"rows": self.reasons.total(), "reasons": self.reasons, "rows_by_file": rows}

    @staticmethod
    def from_json(tree: dict[str, Any]) -> "BadRowsOfSplit":
        split = BadRowsOfSplit(Counter(tree["reasons"]))
        for file, groups in tree["rows_by_file"].items():
            for group, known in groups.items():
                split.rows[file][group] = set(known)
        return split


class BadRowReport:
    """Every rank has one and calls it for the same splits at the same steps; the first rank tells. Does nothing where bad rows
    are errors."""

    def __init__(self, ranks: Ranks, screen: Screen, log: EventLog | None = None, file: Path | None = None):
        """file: bad_rows.json of the run, which this goes on with; None writes nothing."""
        self.ranks, self.screen, self.log, self.file = ranks, screen, log, file
        self.splits: dict[str, BadRowsOfSplit] = defaultdict(BadRowsOfSplit)
        if ranks.first and file is not None:
            # One that an older home_dist wrote, or left cut, names no rows: counts begin anew.
            with suppress(UserError, KeyError, TypeError, AttributeError):
                self.splits |= {s: BadRowsOfSplit.from_json(tree) for s, tree in read_json(file, "")["splits"].items()}

    def __call__(self, split: str, reader: Reader, step: int) -> None:
        if reader.bad_rows is None:
            return
        of_ranks: list[list[Row]] = [[] for _ in range(self.ranks.world_size)]
        dist.all_gather_object(of_ranks, [(*r[:3], f"{r.column}: {r.reason}") for r in reader.bad_rows.take_news()])
        if not self.ranks.first:
            return
        left_out = self.splits[split]
        changed = left_out.add([row for rows in of_ranks for row in rows])
        if self.log is not None:
            self.log.bad_rows(step, split, left_out.reasons.total())
        if changed:
            reasons = "; ".join(f"{reason} ({count:,})" for reason, count in left_out.reasons.most_common(_TOLD))
            self.screen.say(f"bad rows: {left_out.reasons.total():,} of {split} are left out so far: {reasons}")
            self._write(step)

    def _write(self, step: int) -> None:
        if self.file is None:
            return
        reasons = sum((s.reasons for s in self.splits.values()), Counter[str]())
        splits = {name: s.to_json() for name, s in self.splits.items() if s.reasons}
        write_json(self.file, {"step": step, "rows": reasons.total(), "reasons": reasons, "splits": splits})
