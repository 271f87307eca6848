"""Tells how many rows a run left out as they could not be used, and why."""

from collections import Counter
from pathlib import Path

import torch.distributed as dist

from home_dist.data import Reader
from home_dist.files.json_files import write_json
from home_dist.training.events import EventLog
from home_dist.training.ranks import Ranks
from home_dist.training.tables import Screen


class BadRowReport:
    """Every rank calls it at the same steps; the first rank tells. Does nothing where bad rows are errors."""

    def __init__(self, reader: Reader, ranks: Ranks, screen: Screen, log: EventLog, file: Path):
        self.reader, self.ranks, self.screen, self.log, self.file = reader, ranks, screen, log, file
        self._told: Counter[str] = Counter()

    def __call__(self, step: int) -> None:
        if self.reader.bad_rows is None:
            return
        counts: list[Counter[str]] = [Counter() for _ in range(self.ranks.world_size)]
        dist.all_gather_object(counts, Counter(self.reader.bad_rows.counts))
        together = sum(counts, Counter[str]())
        if not self.ranks.first:
            return
        self.log.bad_rows(step, together.total())
        if together != self._told:
            self._told = together
            reasons = "; ".join(f"{reason} ({count:,})" for reason, count in together.most_common(5))
            self.screen.say(f"bad rows: {together.total():,} left out since the start of this process: {reasons}")
            write_json(self.file, {"step": step, "rows": together.total(), "reasons": together})
