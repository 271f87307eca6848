"""The checkpoints in a run's folder: lists them, removes old ones, finds the newest, the best and the newest intact one."""

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from home_dist.config import CheckpointSection
from home_dist.config.stopping import SMALLER_IS_BETTER
from home_dist.errors import CheckpointError
from home_dist.training.checkpoint.manifest import MANIFEST, Damaged, check, damaged, read_manifest, verify
from home_dist.training.checkpoint.state import Record

STATE, WRITING, ASIDE = "state.json", ".writing", ".damaged"


@dataclass(frozen=True)
class Checkpoints:
    """Checkpoints are subfolders `step-00000123`. Subfolders with a suffix are being written, or are damaged and set aside."""

    folder: Path
    keep: CheckpointSection

    def path(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}"

    def complete(self) -> list[Path]:
        """Complete checkpoints, oldest first."""
        if not self.folder.is_dir():
            return []
        named = (p for p in self.folder.glob("step-*") if re.fullmatch(r"step-\d+", p.name))
        return sorted((p for p in named if (p / MANIFEST).is_file()), key=step_of)

    def newest(self) -> Path | None:
        return next(reversed(self.complete()), None)

    def best(self) -> Path | None:
        """Best checkpoint by `[checkpoint] best`; None if no checkpoint was measured."""
        if not self.keep.best:
            return None
        name = f"validation/{self.keep.best}"
        measured = [(value, p) for p in self.complete() if (value := metrics_of(p).get(name)) is not None and value == value]
        if not measured:
            return None
        sign = -1 if self.keep.best in SMALLER_IS_BETTER else 1
        return max(measured, key=lambda m: (sign * m[0], step_of(m[1])))[1]

    def kept(self) -> set[Path]:
        """Checkpoints that the rules keep."""
        complete = self.complete()
        kept = set(complete[-self.keep.keep_last :])
        if self.keep.keep_every:
            kept |= {p for p in complete if step_of(p) % self.keep.keep_every == 0}
        return kept | {p for p in (self.best(),) if p is not None}

    def end_at(self, step: int) -> list[Path]:
        """Removes checkpoints after `step`; returns their former paths."""
        later = [path for path in self.complete() if step_of(path) > step]
        for path in later:
            _remove(path)
        return later

    def prune(self, dry: bool = False) -> list[Path]:
        """Removes checkpoints that the rules do not keep; returns their former paths. dry: only returns them."""
        gone = sorted(set(self.complete()) - self.kept(), key=step_of)
        for old in [] if dry else gone:
            _remove(old)
        return gone

    def clear_unfinished(self) -> list[Path]:
        """Removes folders left by an interrupted save or prune; returns their former paths."""
        unfinished = [p for p in self.folder.glob("step-*") if re.fullmatch(rf"step-\d+{re.escape(WRITING)}", p.name)]
        unfinished += [
            p for p in self.folder.glob("step-*") if re.fullmatch(r"step-\d+", p.name) and not (p / MANIFEST).exists()
        ]
        for path in unfinished:
            shutil.rmtree(path)
        return unfinished

    def newest_intact(self, before: Path | None = None) -> Path | None:
        """Newest checkpoint whose files all agree with its manifest. before: only checkpoints older than this one."""
        for path in reversed(self.complete()):
            if (before is None or step_of(path) < step_of(before)) and problem_of(path) is None:
                return path
        return None

    def set_aside(self, path: Path) -> Path:
        """Renames a damaged checkpoint; returns its new path."""
        aside = path.with_name(path.name + ASIDE)
        if aside.exists():
            shutil.rmtree(aside)
        path.rename(aside)
        return aside

    def with_offer(self, checkpoint: Path, error: Damaged) -> Damaged:
        """The error, with advice on how to continue."""
        intact = self.newest_intact(before=checkpoint)
        if intact is None:
            return Damaged(f"{error} No intact checkpoint is before it. Remove {checkpoint} to start anew.")
        return Damaged(
            f"{error} The newest intact checkpoint is {intact}: --set checkpoint.damaged=skip, or removing {checkpoint}, "
            "goes on from it."
        )


def _remove(checkpoint: Path) -> None:
    # The manifest goes first: a folder without one, such as one removed halfway, is no checkpoint.
    (checkpoint / MANIFEST).unlink()
    shutil.rmtree(checkpoint)


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("step-"))


def read_record(checkpoint: Path) -> Record:
    """state.json, checked against the manifest. Raises Damaged."""
    check(checkpoint, STATE, read_manifest(checkpoint))
    try:
        return Record.from_json(json.loads((checkpoint / STATE).read_text()))
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise damaged(checkpoint, STATE, f"{type(error).__name__}: {error}") from None


def problem_of(checkpoint: Path, share: slice = slice(None)) -> CheckpointError | None:
    """The fault of a checkpoint; None if its files agree with its manifest. share: slice of the sorted file names to check."""
    try:
        verify(checkpoint, sorted(read_manifest(checkpoint))[share])
        read_record(checkpoint)
    except CheckpointError as error:
        return error
    return None


def metrics_of(checkpoint: Path) -> dict[str, float]:
    try:
        return read_record(checkpoint).state.metrics
    except CheckpointError:
        return {}
