"""Reads a configuration of another library, and writes what it says of columns as a draft."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tomli_w

from home_dist.errors import ConfigError
from home_dist.files.whole import write_whole
from home_dist.prepare.fit.draft import load_draft

_NAMES = {"name", "table", "target", "group"}
_FIELDS = ("table", "feature", "sequence", "task")


@dataclass
class Conversion:
    """A draft in the making."""

    source: Path
    tables: dict[str, dict[str, Any]] = field(default_factory=dict)
    features: list[dict[str, Any]] = field(default_factory=list)
    sequences: list[dict[str, Any]] = field(default_factory=list)
    tasks: list[dict[str, Any]] = field(default_factory=list)
    group_column: str | None = None
    notes: list[str] = field(default_factory=list)
    """What was left out or changed, with what to do."""

    def table(self, name: str, entry: dict[str, Any]) -> str:
        """The table of that name; features that share it must ask for the same."""
        before = self.tables.setdefault(name, entry)
        if before != entry:
            self.notes.append(f"table {name}: its features ask for {before} and {entry}; the first is taken")
        return name

    def write(self, out: Path) -> None:
        """Writes the draft. Raises ConfigError if there is nothing to write, or if names do not do in home_dist."""
        if not self.features or not self.tasks:
            lacking = "feature" if not self.features else "label"
            raise ConfigError(f"{self.source}: no {lacking} in it that can be converted.{self._told()}")
        tables = [{"name": name, **entry} for name, entry in self.tables.items()]
        entries = (tables, self.features, self.sequences, self.tasks)
        for kind, entry in ((kind, entry) for kind, these in zip(_FIELDS, entries, strict=True) for entry in these):
            if missing := [key for key, value in entry.items() if value is None]:
                there = ", ".join(f"{key} {value!r}" for key, value in entry.items() if value is not None)
                raise ConfigError(f"{self.source}: a {kind} has no {missing[0]} ({there}). Correct it.")
        lists = {field: [self._named(entry) for entry in these] for field, these in zip(_FIELDS, entries, strict=True)}
        tree = {"group_column": self.group_column} if self.group_column else {}
        text = tomli_w.dumps(tree | {name: entries for name, entries in lists.items() if entries})
        comments = "".join(
            f"# {note}\n" for note in [f"Converted from {self.source.name}. Read it and correct it.", *self.notes]
        )
        write_whole(out, (comments + text).encode())
        try:
            load_draft(out)
        except ConfigError:
            out.unlink()
            raise

    def _named(self, entry: dict[str, Any]) -> dict[str, Any]:
        """The entry with names that home_dist takes: letters, digits and underscores."""
        changed = dict(entry)
        for key in _NAMES & entry.keys():
            name = re.sub(r"\W", "_", str(entry[key]), flags=re.ASCII)
            changed[key] = f"_{name}" if name[:1].isdigit() else name
            if changed[key] != entry[key] and key == "name":
                self.notes.append(f"{entry[key]!r}: its name becomes {changed[key]!r}")
        if "events" in entry:
            changed["events"] = [self._named(event) for event in entry["events"]]
        return changed

    def _told(self) -> str:
        return "".join(f"\n  {note}" for note in self.notes)


def convert(source: Path, dataset: str | None = None) -> Conversion:
    """source: a pipeline.config of TorchEasyRec, or a dataset_config.yaml of FuxiCTR; dataset: the entry of the latter, where
    it has several. Raises ConfigError."""
    from home_dist.prepare.convert import fuxictr, torcheasyrec

    try:
        text = source.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{source}: cannot be read: {error}") from None
    is_yaml = source.suffix in (".yaml", ".yml")
    if dataset is not None and not is_yaml:
        raise ConfigError(f"--dataset {dataset}: names an entry of FuxiCTR's dataset_config.yaml; {source} is none")
    try:
        return fuxictr.converted(source, text, dataset) if is_yaml else torcheasyrec.converted(source, text)
    except (AttributeError, KeyError, TypeError, ValueError) as error:  # another library's file may have any form
        library = "FuxiCTR" if is_yaml else "TorchEasyRec"
        raise ConfigError(
            f"{source}: an entry is not as {library} reads it ({type(error).__name__}: {error}). Correct it, or write the "
            "draft by hand: docs/howto/schema.md"
        ) from None
