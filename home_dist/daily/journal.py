"""What has been done of each day: days.json in the folder of `home-dist daily`. A day is done once its entry is there."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from home_dist.errors import DataError
from home_dist.files.json_files import read_json, write_json


@dataclass(frozen=True)
class Day:
    """A day that is done."""

    day: str
    data: str
    """Folder of its prepared data, below the journal's."""
    rows: int
    began_with: str | None
    """Run whose model scored the day and was trained on; None for the first day."""
    model: str
    """Run of the newest model that was kept, after this day."""
    kept: bool
    """Whether the day's own model was."""
    scored: dict[str, float | None] = field(default_factory=dict)
    """Means over tasks of the day's rows, before they were trained on."""
    held_out: dict[str, dict[str, float | None]] = field(default_factory=dict)
    """Means over tasks on the held-out users: "before" of the model that the day began with, "after" of its own."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Of each step, in the process that finished it."""


class Journal:
    def __init__(self, folder: Path):
        self.path = folder / "days.json"

    def days(self) -> list[Day]:
        """Oldest first. Raises DataError for a damaged file."""
        tree = read_json(self.path, "Restore it: it tells which days are done.", DataError)
        try:
            return [Day(**entry) for entry in tree.get("days", [])]
        except TypeError as error:
            raise DataError(f"{self.path}: damaged: {error}. Restore it: it tells which days are done.") from None

    def add(self, day: Day) -> None:
        """Raises OSError."""
        self._write([*self.days(), day])

    def _write(self, days: Sequence[Day]) -> None:
        tree: dict[str, Any] = {"days": [asdict(day) for day in days]}
        write_json(self.path, tree)
