"""`home-dist train`, as every rank runs it."""

import shlex
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import torch

from home_dist.config import RunConfig
from home_dist.config.objective import OBJECTIVES
from home_dist.config.stopping import FAMILIES
from home_dist.data.inputs import Inputs, open_inputs
from home_dist.data.side_files import schema_of
from home_dist.distributed.preemption import Preemption
from home_dist.distributed.ranks import Ranks, together
from home_dist.errors import ConfigError, UserError
from home_dist.evaluation.record import recorded
from home_dist.evaluation.split import slice_columns
from home_dist.screen import Screen
from home_dist.training import stopping
from home_dist.training.checkpoint.folder import Checkpoints
from home_dist.training.checkpoint.loading import read_offering, set_damaged_aside
from home_dist.training.following import Epochs, Following
from home_dist.training.handover import Handover, HandoverContext
from home_dist.training.opening import derived, detected, kept_together
from home_dist.training.run import Run, Start
from home_dist.training.run_folder import RunFolder
from home_dist.training.table_starts import TableStarts
from home_dist.training.tracking import Trackers, check_installed
from home_dist.training.trainer import Trainer


def train(
    config: RunConfig,
    ranks: Ranks,
    profile_steps: int = 0,
    handover: Callable[[RunConfig, Ranks], HandoverContext] | None = None,
) -> None:
    """Starts a run, resumes an interrupted one, or says that it is complete. handover: whom the run hands over to while it
    trains. Raises UserError."""
    screen = Screen(ranks.first)
    screen.say(together(lambda: detected(ranks, config.kernel)))
    schema = together(lambda: schema_of(config))
    splits = ("validation", "test") if config.data.follow else ("train", "validation", "test")
    inputs = together(lambda: open_inputs(config, schema, splits))
    together(lambda: slice_columns(inputs.layout, config.metrics.slices))
    together(lambda: _check_best(inputs))
    together(lambda: check_installed(config.log) if ranks.first else None)
    folder = RunFolder(config.run.dir)
    # What is wrong with vectors to begin with is told before the folder is taken.
    together(lambda: None if Checkpoints(folder.checkpoints, config.checkpoint).newest() else TableStarts(inputs))
    with ExitStack() as claim:
        together(lambda: claim.enter_context(folder.claimed(config, schema)) if ranks.first else None)
        taker = None
        if handover is not None:
            taker = claim.enter_context(together(partial(handover, config, ranks)))
        trackers = claim.enter_context(Trackers(config, screen)) if ranks.first else None
        _train(config, ranks, screen, inputs, folder, profile_steps, taker, trackers)


def _check_best(inputs: Inputs) -> None:
    """Raises ConfigError if the data does not allow the metric of `[checkpoint] best` or `train.stop`."""
    best, stop = inputs.config.checkpoint.best, inputs.config.train.stop
    if best is None:
        return
    if "validation" not in inputs.files:
        raise ConfigError("checkpoint.best needs a validation split: set data.validation, or leave checkpoint.best out")
    key, measure = ("train.stop.metric", stop.name) if best == "stop" and stop is not None else ("checkpoint.best", best)
    told = f'{key} = "{measure if key != "train.stop.metric" else f"validation/{measure}"}"'
    if measure in ("gauc", "user_xauc") and inputs.schema.group_column is None:
        raise ConfigError(
            f"{told} needs a column to group by, and the schema has no group_column: name the users' column there, or choose "
            'another measure, such as "auc" or "log_loss"'
        )
    if measure in ("ndcg", "mrr", "recall") and not inputs.config.data.request_columns:
        raise ConfigError(f"{told} is measured within requests: name their column in data.request")
    kinds = {t.name: inputs.config.objective_of(t.name, t.kind).kind for t in inputs.schema.task}
    chosen = stop.tasks if key == "train.stop.metric" and stop is not None and stop.tasks else tuple(kinds)
    if not any(OBJECTIVES.find(kinds[t]).measured in FAMILIES[measure] for t in chosen if t in kinds):
        raise ConfigError(
            f"{told}: none of the tasks {', '.join(chosen)} has this measure, by their kinds "
            f"({', '.join(kinds[t] for t in chosen)}). Choose one that they have"
        )


def _train(
    config: RunConfig,
    ranks: Ranks,
    screen: Screen,
    inputs: Inputs,
    folder: RunFolder,
    profile_steps: int,
    handover: Handover | None,
    trackers: Trackers | None,
) -> None:
    checkpoints = Checkpoints(folder.checkpoints, config.checkpoint)
    newest, stopped = _newest(checkpoints, folder.stopped, screen, ranks)
    source = Following(inputs, ranks, screen) if config.data.follow else Epochs(inputs, ranks)
    state, preemption, finished = source.begin(), Preemption(), False
    if newest is not None:
        written = together(lambda: read_offering(newest))
        state, finished = written.state, written.state.finished
        for change in written.other_versions():
            screen.say(f"note: {newest} was written with {change}: the run need not go on bit for bit")
    run = None
    begun = partial(Run.begin, inputs, ranks, screen, folder, checkpoints, profile_steps=profile_steps, trackers=trackers)
    if handover is not None and newest is not None and config.data.follow and stopped is None:
        run = begun(Start(state, state.step, newest, finished))
        handover.begin(run)
    with preemption:
        part = source.next(state, preemption, handover.tick if handover is not None and run is not None else None)
    if part is None and not state.step:
        return  # nothing has arrived
    if stopped is not None:
        screen.say(f"{stopped} To train on, remove {folder.stopped}.")
        part = None
    steps = state.step
    if part is not None:
        state, _, steps = part
    splits = _splits_to_evaluate(inputs)
    if state.step >= steps and together(lambda: _has_figures(folder, splits, state.step, ranks)):
        late = handover is not None and run is None and newest is not None and handover.lacks(newest)
        screen.say(
            f"run complete: {folder.path} has trained its {state.step:,} steps; "
            f"{'no version has them yet, and one is published' if late else 'nothing to do'}. "
            f"Its figures: {folder.evaluation}. For more, raise train.epochs; for another run, set run.dir."
        )
        if handover is not None and late:
            run = begun(Start(state, steps, newest, finished))
            handover.begin(run)
        if handover is not None and run is not None:
            handover.end(state)
            run.log.close()
        return
    screen.say(derived(inputs, ranks, steps))
    if part is not None:
        screen.say_if(kept_together(part[1], state.position.epoch))
    if run is None:
        run = begun(Start(state, steps, newest, finished))
        if handover is not None:
            handover.begin(run)
    while part is not None:
        state, reader, steps = part
        trainer = Trainer(run, reader, handover)
        with preemption:
            state = trainer.train(state, steps, preemption)
            part = None if trainer.stopped else source.next(state, preemption, handover.tick if handover else None)
        if trainer.stopped:
            state, told = stopping.end_on_the_best(run, state)
            screen.say(told)
            if handover is not None:
                handover.replaced()
    if handover is not None:
        handover.end(state)
    run.evaluate(splits, state)
    run.log.close()
    screen.say(_written(config, splits, folder, checkpoints.newest()))


def _written(config: RunConfig, splits: Sequence[str], folder: RunFolder, checkpoint: Path | None) -> str:
    """A line for each thing that the run has written, and the commands that come next. splits: that were evaluated."""
    lines = [f"checkpoint:  {checkpoint}"]
    if config.log.tensorboard:
        lines.append(f"tensorboard: {folder.tensorboard}")
    lines.append(f"config:      {folder.config}")
    if splits:
        lines.append(f"figures:     {folder.evaluation}")
    run = shlex.quote(str(folder.path))
    lines += [
        f"next:        home-dist inspect {run}              # what its experts do: a page",
        f"             home-dist evaluate {run} --data DAYS # on other days",
        f"             home-dist export {run} --out OUT     # for others to load; publish and serve answer requests",
    ]
    return "\n".join(lines)


def _splits_to_evaluate(inputs: Inputs) -> list[str]:
    """Splits to evaluate at a run's end: validation and test; without both, the training data, unless they are followed or
    not asked for."""
    return [s for s in inputs.files if s != "train" or (len(inputs.files) == 1 and inputs.config.metrics.of_training)]


def _has_figures(folder: RunFolder, splits: Sequence[str], step: int, ranks: Ranks) -> bool:
    """Whether evaluation.json holds the figures of `step`. The first rank reads it and tells the others."""
    from_first = [ranks.first and (not splits or recorded(folder.evaluation, splits, step))]
    torch.distributed.broadcast_object_list(from_first)
    return from_first[0]


def _newest(checkpoints: Checkpoints, stopped: Path, screen: Screen, ranks: Ranks) -> tuple[Path | None, str | None]:
    """(the checkpoint to resume from, a line about the early end of the run if it has ended so). With `[checkpoint] damaged =
    "skip"`, damaged ones are set aside first. Raises UserError on all ranks."""
    if checkpoints.keep.damaged == "skip":
        set_damaged_aside(checkpoints, screen.say)
    # On a shared file system ranks may see different states of the folder: the first one looks.
    found: list[tuple[Path | None, str | None] | UserError] = [(None, None)]
    if ranks.first:
        try:
            told = stopping.settle_stopped(stopped, checkpoints)
            found = [(checkpoints.newest(), told)]
        except UserError as error:
            found = [error]
    torch.distributed.broadcast_object_list(found)
    [newest] = found
    if isinstance(newest, UserError):
        raise newest
    return newest
