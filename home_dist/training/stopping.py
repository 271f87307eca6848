"""The early end of a run (`train.stop`): its best checkpoint becomes its newest."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from home_dist.distributed.ranks import together
from home_dist.files.json_files import read_json, write_json
from home_dist.training.checkpoint.folder import Checkpoints, step_of
from home_dist.training.checkpoint.loading import load
from home_dist.training.checkpoint.state import TrainState
from home_dist.training.run import Run


def end_on_the_best(run: Run, last: TrainState) -> tuple[TrainState, str]:
    """Fills the model from the best checkpoint, and removes those after it. Collective. Returns its state, and a line about it.
    last: the state in which training ended."""
    stop, best = run.inputs.config.train.stop, together(run.checkpoints.best)
    if best is None or stop is None:
        return last, "train.stop: no checkpoint could be measured; the last one stays."
    state = load(best, run.built.model, run.built.optimizer)
    value = stop.signed(state.metrics["validation/stop"])
    entry = {"step": state.step, "trained_to": last.step, "metric": stop.metric, "value": value}

    def settle() -> None:
        if run.ranks.first:
            write_json(run.folder.stopped, entry)  # first: a kill in between must not let the run go on
            run.checkpoints.end_at(state.step)

    together(settle)
    return state, _told(entry)


def settle_stopped(record: Path, checkpoints: Checkpoints) -> str | None:
    """A line about the early end of a run; None for one that goes on. Removes checkpoints after the best one that a kill left
    behind. Raises ConfigError for a record that is damaged."""
    entry, newest = read_json(record, "Remove it, and the run goes on."), checkpoints.newest()
    if not entry or newest is None or entry["step"] > step_of(newest):
        return None
    checkpoints.end_at(entry["step"])
    return _told(entry)


def _told(entry: Mapping[str, Any]) -> str:
    return (
        f"train.stop: no better {entry['metric']} than {entry['value']:.4f} of step {entry['step']:,} up to step "
        f"{entry['trained_to']:,}. The run ends on that checkpoint."
    )
