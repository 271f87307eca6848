"""The records of a run, in its folder `insight/`: names.json, curves.jsonl, findings.jsonl, and one .npz per sampled step.

The first rank writes them. A run that resumes from a checkpoint drops records of later steps: it will write them again.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from home_dist.errors import ConfigError
from home_dist.files.json_files import append_entries, json_text, read_entries, read_json, with_nan, write_json
from home_dist.files.whole import whole_file, write_whole
from home_dist.insight.run_files import CURVES, FINDINGS, TABLES, VALIDATIONS

Floats = NDArray[np.float64]
Figures = dict[str, Floats]
"""Figures of a sampled step by name: see figures.py."""


@dataclass(frozen=True)
class PartNames:
    """Names in a part of a model, as figures use them; see models/anatomy.py."""

    experts: list[str]
    kinds: list[str]
    """E: shared, group or task."""
    owners: list[str]
    """E: the owner's name."""
    gates: list[str]
    gate_tasks: list[int | None]
    """K: the task that reads the gate's state."""
    sees: list[list[bool]]
    """(K, E)"""
    inputs: list[str]
    reads_features: bool


@dataclass(frozen=True)
class Names:
    tasks: list[str]
    groups: list[str]
    """The task group of each task."""
    parts: list[PartNames]
    features: list[str]
    scalers: list[str] = field(default_factory=list)

    @staticmethod
    def from_json(tree: dict[str, Any]) -> "Names":
        return Names(**{**tree, "parts": [PartNames(**p) for p in tree["parts"]]})

    def to_json(self) -> dict[str, Any]:
        return {**self.__dict__, "parts": [p.__dict__ for p in self.parts]}


@dataclass(frozen=True)
class StepRecord:
    step: int
    figures: Figures


class InsightStore:
    def __init__(self, folder: Path):
        self.folder = folder

    def begin(self, names: Names, step: int) -> None:
        """Prepares the folder for a run that continues after `step`; removes records of later steps."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / "names.json", names.to_json())
        for path in self._files():
            if _step(path) > step:
                path.unlink()
        for name in (CURVES, FINDINGS, TABLES, VALIDATIONS):
            kept = [entry for entry in self.lines(name) if entry["step"] <= step]
            if (self.folder / name).is_file():
                write_whole(self.folder / name, "".join(json_text(entry, indent=None) + "\n" for entry in kept))

    def write(self, record: StepRecord) -> None:
        path = self.folder / f"step-{record.step:08d}.npz"
        with whole_file(path) as file:
            np.savez(file, allow_pickle=False, **{name: x.astype(np.float32) for name, x in record.figures.items()})

    def append(self, name: str, entry: Mapping[str, Any]) -> None:
        append_entries(self.folder / name, [entry])

    def names(self) -> Names | None:
        tree = read_json(self.folder / "names.json", "Remove it; the run writes it anew when it goes on.", ConfigError)
        return Names.from_json(tree) if tree else None

    def records(self) -> list[StepRecord]:
        """In the order of steps."""
        records = []
        for path in self._files():
            with np.load(path, allow_pickle=False) as content:
                records.append(StepRecord(_step(path), {name: content[name] for name in content.files}))
        return records

    def steps(self) -> list[int]:
        """Steps of the records."""
        return [_step(path) for path in self._files()]

    def lines(self, name: str) -> list[dict[str, Any]]:
        """Entries of a .jsonl file, with NaN for undefined numbers. A line that a kill cut off is left out."""
        return [with_nan(entry) for entry in read_entries(self.folder / name)]

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("step-*.npz"))


def _step(path: Path) -> int:
    return int(path.stem.partition("-")[2])
