"""Reports, for each split that a run reads, how many unusable rows it left out, and why."""

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
"""Reasons on the screen at most, the most frequent first."""

Row = tuple[str, int, int, str]
"""File, row group, row within it, column and reason."""


@dataclass
class BadRowsOfSplit:
    """Bad rows of one split over all epochs, rounds and restarts of a run; each row counts once."""

    reasons: Counter[str] = field(default_factory=Counter)
    rows: dict[str, dict[str, set[int]]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(set)))
    """By file and row group: rows already counted, so that a row read again in another epoch or after a restart counts once."""

    def add(self, rows: list[Row]) -> bool:
        """Returns whether any of the rows is new."""
        before = self.reasons.total()
        for file, row_group, row, reason in rows:
            known = self.rows[file][str(row_group)]
            if row not in known:
                known.add(row)
                self.reasons[reason] += 1
        return self.reasons.total() > before

    def to_json(self) -> dict[str, Any]:
        rows = {file: {n: sorted(known) for n, known in row_groups.items()} for file, row_groups in self.rows.items()}
        return {"rows": self.reasons.total(), "reasons": self.reasons, "rows_by_file": rows}

    @staticmethod
    def from_json(tree: dict[str, Any]) -> "BadRowsOfSplit":
        split = BadRowsOfSplit(Counter(tree["reasons"]))
        for file, row_groups in tree["rows_by_file"].items():
            for row_group, known in row_groups.items():
                split.rows[file][row_group] = set(known)
        return split


class BadRowReport:
    """Every rank has one and calls it for the same splits at the same steps; the first rank reports. Does nothing if bad rows
    are errors."""

    def __init__(self, ranks: Ranks, screen: Screen, log: EventLog | None = None, file: Path | None = None):
        """file: the run's bad_rows.json, whose counts continue; None writes nothing."""
        self.ranks, self.screen, self.log, self.file = ranks, screen, log, file
        self.splits: dict[str, BadRowsOfSplit] = defaultdict(BadRowsOfSplit)
        if ranks.first and file is not None:
            # A file that is damaged, or that an older home_dist wrote without rows, cannot be continued: counts start anew.
            with suppress(UserError, KeyError, TypeError, AttributeError):
                self.splits |= {s: BadRowsOfSplit.from_json(tree) for s, tree in read_json(file, "")["splits"].items()}

    def __call__(self, split: str, reader: Reader, step: int) -> None:
        if reader.bad_rows is None:
            return
        rows_by_rank: list[list[Row]] = [[] for _ in range(self.ranks.world_size)]
        dist.all_gather_object(rows_by_rank, [(*r[:3], f"{r.column}: {r.reason}") for r in reader.bad_rows.take_news()])
        if not self.ranks.first:
            return
        left_out = self.splits[split]
        changed = left_out.add([row for rows in rows_by_rank for row in rows])
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
