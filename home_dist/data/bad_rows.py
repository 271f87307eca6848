"""Bad rows that a run skips: counted per reason and, in quarantine mode, written to a file."""

import threading
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from home_dist.errors import DataError
from home_dist.files.json_files import append_entries, read_entries


class BadRow(NamedTuple):
    file: str
    row_group: int
    row: int
    """Index within the row group."""
    column: str
    reason: str
    value: str


class BadRowLog:
    """Bad rows of one rank and split. Thread-safe. A row that is read again, as in another epoch, counts once."""

    def __init__(self, file: Path | None = None):
        """file: SPLIT.RANK.jsonl, appended to. Rows that the split's files in its folder already hold are not written again."""
        self.file, self.counts = file, Counter[str]()
        self._lock = threading.Lock()
        self._seen: set[tuple[str, int, int]] = set()
        self._news: list[BadRow] = []
        self._written = set(self._there()) if file is not None else set()

    def _there(self) -> list[tuple[str, int, int]]:
        if self.file is None or not self.file.parent.is_dir():
            return []
        files = self.file.parent.glob(f"{self.file.name.split('.')[0]}.*.jsonl")
        entries = (e for path in files for e in read_entries(path) if e.keys() >= {"file", "row_group", "row"})
        return [(e["file"], e["row_group"], e["row"]) for e in entries]

    def take_news(self) -> list[BadRow]:
        """Rows that were added since the last call."""
        with self._lock:
            news, self._news = self._news, []
        return news

    def add(self, rows: list[BadRow]) -> None:
        """Counts and writes rows that are new. Raises DataError when they cannot be written."""
        with self._lock:
            new = [r for r in rows if r[:3] not in self._seen]
            self._seen.update(r[:3] for r in new)
            self._news += new
            self.counts.update(f"{r.column}: {r.reason}" for r in new)
            new = [r for r in new if r[:3] not in self._written]
            if self.file is None or not new:
                return
            try:
                self.file.parent.mkdir(parents=True, exist_ok=True)
                append_entries(self.file, [r._asdict() for r in new])
            except OSError as error:
                raise DataError(
                    f"{self.file}: bad rows cannot be written down: {error}. Make room, or set on_bad_row."
                ) from None


def shown(value: Any) -> str:
    """A bad row's value as text, of 200 characters at most."""
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:197]}..."
