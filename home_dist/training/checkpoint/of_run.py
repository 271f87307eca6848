"""Finds, lists and prunes a run's checkpoints for the command line. Reads no tensors and does not import torch."""

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from home_dist.config import CheckpointSection, config_of_run, load_section
from home_dist.errors import CheckpointError
from home_dist.training.checkpoint.folder import ASIDE, WRITING, Checkpoints, read_record, step_of
from home_dist.training.checkpoint.manifest import MANIFEST, read_manifest


def checkpoints_of(run: Path) -> Checkpoints:
    """The checkpoints of a run's folder, with the run's rules. Raises CheckpointError for a folder without a run."""
    config = config_of_run(run, CheckpointError)
    return Checkpoints(run / "checkpoints", load_section(config, "checkpoint", CheckpointSection))


def find(path: Path) -> Path:
    """The checkpoint that a user's path means: its own folder, RUN (the newest) or RUN/best. Raises CheckpointError."""
    if (path / MANIFEST).exists() or path.name.startswith("step-"):
        return path
    run, best = (path.parent, True) if path.name == "best" and not path.exists() else (path, False)
    checkpoints = checkpoints_of(run)
    checkpoint = checkpoints.best() if best else checkpoints.newest()
    if checkpoint is None:
        problem = (
            "no checkpoint was measured; set checkpoint.best"
            if best
            else "no complete checkpoint yet; run `home-dist train` first"
        )
        raise CheckpointError(f"{checkpoints.folder}: {problem}.")
    return checkpoint


@dataclass(frozen=True)
class ListedCheckpoint:
    """A checkpoint in a run's list; none of its files is verified."""

    checkpoint: str
    """Its folder's name."""
    path: str
    problem: str | None
    """Why it is none that a run goes on from: unfinished, set aside, or not readable. What follows is then None."""
    step: int | None = None
    samples: int | None = None
    epoch: int | None = None
    steps_of_epoch: int | None = None
    ranks: int | None = None
    """That wrote it."""
    bytes: int | None = None
    metrics: dict[str, float] | None = None
    newest: bool | None = None
    best: bool | None = None
    kept: bool | None = None
    """Whether the run's rules keep it."""


def listed(run: Path) -> list[ListedCheckpoint]:
    """A run's checkpoints, including ones being written or set aside."""
    checkpoints = checkpoints_of(run)
    kept, best, complete = checkpoints.kept(), checkpoints.best(), checkpoints.complete()
    found = []
    for path in complete:
        try:
            state = read_record(path).state
        except CheckpointError:
            found.append(ListedCheckpoint(path.name, str(path), "damaged: home-dist checkpoints verify tells more"))
            continue
        found.append(
            ListedCheckpoint(
                checkpoint=path.name,
                path=str(path),
                problem=None,
                step=state.step,
                samples=state.samples,
                epoch=state.position.epoch,
                steps_of_epoch=state.position.steps,
                ranks=state.world_size,
                bytes=sum(e["bytes"] for e in read_manifest(path).values()),
                metrics=state.metrics,
                newest=path == complete[-1],
                best=path == best,
                kept=path in kept,
            )
        )
    for path in sorted(p for ending in (WRITING, ASIDE) for p in checkpoints.folder.glob(f"step-*{ending}")):
        note = "unfinished; the next save removes it" if path.name.endswith(WRITING) else "damaged, set aside"
        found.append(ListedCheckpoint(path.name, str(path), note))
    return found


def listing(run: Path, checkpoints: Sequence[ListedCheckpoint]) -> Table:
    """One row per checkpoint."""
    metrics = sorted({name for c in checkpoints for name in c.metrics or {}})
    table = Table(title=f"checkpoints of {run}")
    table.add_column("checkpoint", no_wrap=True)
    for name in ("samples", "epoch+steps", "ranks", "MB", *(m.removeprefix("validation/") for m in metrics)):
        table.add_column(name, justify="right")
    table.add_column("")
    for c in checkpoints:
        if c.metrics is None:
            table.add_row(c.checkpoint, *[""] * (4 + len(metrics)), c.problem)
            continue
        marks = [label for label, applies in (("newest", c.newest), ("best", c.best), ("not kept", not c.kept)) if applies]
        measured = [number(c.metrics.get(name)) for name in metrics]
        figures = f"{c.samples:,}", f"{c.epoch}+{c.steps_of_epoch}", str(c.ranks), f"{(c.bytes or 0) / 1e6:,.1f}"
        table.add_row(c.checkpoint, *figures, *measured, ", ".join(marks))
    return table


def pruned(run: Path, keep_last: int | None, keep_every: int | None, dry: bool) -> list[str]:
    """Removes checkpoints that the run's rules do not keep; keep_last and keep_every, if given, replace the run's. Returns
    lines for the screen. Raises ConfigError while a process trains into the run."""
    from home_dist.training.run_folder import RunFolder  # imports pyarrow, which takes longer than a list of checkpoints

    of_run = checkpoints_of(run)
    given = {k: v for k, v in (("keep_last", keep_last), ("keep_every", keep_every)) if v is not None}
    checkpoints = Checkpoints(of_run.folder, CheckpointSection.model_validate(of_run.keep.model_dump(by_alias=True) | given))
    with nullcontext() if dry else RunFolder(run).locked():
        gone = checkpoints.prune(dry)
    verb = "would remove" if dry else "removed"
    lines = [f"{verb} {path}" for path in gone] or ["nothing to remove"]
    return [*lines, f"kept: {', '.join(str(step_of(p)) for p in sorted(checkpoints.kept(), key=step_of)) or 'none'}"]


def number(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.4g}"
