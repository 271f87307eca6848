"""Finds, lists and prunes a run's checkpoints for the command line. Reads no tensors and does not import torch."""

import math
from contextlib import nullcontext
from pathlib import Path

from rich.table import Table

from home_dist.config import CheckpointSection, config_of_run, load_section
from home_dist.errors import CheckpointError
from home_dist.training.checkpoint.folder import ASIDE, WRITING, Checkpoints, read_record, step_of
from home_dist.training.checkpoint.manifest import MANIFEST, read_manifest
from home_dist.training.checkpoint.state import Record
from home_dist.training.run_folder import RunFolder


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


def listing(run: Path) -> Table:
    """Table of a run's checkpoints, including ones being written or set aside. Verifies none of them."""
    checkpoints = checkpoints_of(run)
    kept, best, complete = checkpoints.kept(), checkpoints.best(), checkpoints.complete()
    records: dict[Path, Record | str] = {}
    for path in complete:
        try:
            records[path] = read_record(path)
        except CheckpointError as error:
            records[path] = str(error)
    metrics = sorted({name for r in records.values() if isinstance(r, Record) for name in r.state.metrics})
    table = Table(title=f"checkpoints of {run}")
    table.add_column("checkpoint", no_wrap=True)
    for name in ("samples", "epoch+steps", "ranks", "MB", *(m.removeprefix("validation/") for m in metrics)):
        table.add_column(name, justify="right")
    table.add_column("")
    for path, record in records.items():
        if isinstance(record, str):
            table.add_row(path.name, *[""] * (4 + len(metrics)), "damaged: home-dist checkpoints verify tells more")
            continue
        state = record.state
        labels = (("newest", path == complete[-1]), ("best", path == best), ("not kept", path not in kept))
        marks = [label for label, applies in labels if applies]
        measured = [number(state.metrics.get(name)) for name in metrics]
        size = f"{sum(e['bytes'] for e in read_manifest(path).values()) / 1e6:,.1f}"
        where = f"{state.position.epoch}+{state.position.steps}"
        table.add_row(path.name, f"{state.samples:,}", where, str(state.world_size), size, *measured, ", ".join(marks))
    for path in sorted(p for ending in (WRITING, ASIDE) for p in checkpoints.folder.glob(f"step-*{ending}")):
        note = "unfinished; the next save removes it" if path.name.endswith(WRITING) else "damaged, set aside"
        table.add_row(path.name, *[""] * (4 + len(metrics)), note)
    return table


def pruned(run: Path, keep_last: int | None, keep_every: int | None, dry: bool) -> list[str]:
    """Removes checkpoints that the run's rules do not keep; keep_last and keep_every, if given, replace the run's. Returns
    lines for the screen. Raises ConfigError while a process trains into the run."""
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
