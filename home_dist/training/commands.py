"""`home-dist train` and `home-dist evaluate`, as every rank runs them."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import torch
from torch import nn

from home_dist.config import RunConfig, config_tree
from home_dist.data.side_files import with_local_schema
from home_dist.embeddings.sharding import plan_rows
from home_dist.errors import ConfigError
from home_dist.files.json_files import write_json
from home_dist.metrics import mean_row
from home_dist.schema import load_schema
from home_dist.screen import Screen
from home_dist.training.bad_rows import BadRowReport
from home_dist.training.build import Inputs, build, open_inputs
from home_dist.training.checkpoint.folder import Checkpoints
from home_dist.training.checkpoint.loading import load, read_offering, set_damaged_aside
from home_dist.training.checkpoint.of_run import find
from home_dist.training.checkpoint.saver import Saver
from home_dist.training.evaluate import Evaluation, evaluate, record, recorded, slice_columns
from home_dist.training.events import EventLog
from home_dist.training.following import Epochs, Following
from home_dist.training.observer import Observer
from home_dist.training.optimizers import Schedule
from home_dist.training.preemption import Preemption
from home_dist.training.profiling import Profile
from home_dist.training.ranks import Ranks, together
from home_dist.training.run_folder import RunFolder
from home_dist.training.table_rows import vocabulary_hashes
from home_dist.training.tables import derived, detected, evaluation_table, kernel_taken, plan_table, slice_table
from home_dist.training.trainer import Trainer
from home_dist.training.warm_start import WarmStart


def train(config: RunConfig, ranks: Ranks, profile_steps: int = 0) -> None:
    """Starts a run, goes on with one that was interrupted, or says that it is complete. Raises UserError."""
    screen = Screen(ranks.first)
    screen.say(detected(ranks, config.kernel))
    schema = together(lambda: load_schema(with_local_schema(config).schema_path()))
    splits = ("validation", "test") if config.data.follow else ("train", "validation", "test")
    inputs = together(lambda: open_inputs(config, schema, splits))
    together(lambda: slice_columns(inputs.layout, config.metrics.slices))
    together(lambda: _check_best(inputs))
    folder = RunFolder(config.run.dir)
    with ExitStack() as claim:
        together(lambda: claim.enter_context(folder.claimed(config, schema)) if ranks.first else None)
        _train(config, ranks, screen, inputs, folder, profile_steps)


def _check_best(inputs: Inputs) -> None:
    """Raises ConfigError where `[checkpoint] best` names what this data cannot be measured by."""
    best = inputs.config.checkpoint.best
    if best and "validation" not in inputs.files:
        raise ConfigError("checkpoint.best needs a validation split: set data.validation, or leave checkpoint.best out")
    if best == "gauc" and inputs.schema.group_column is None:
        raise ConfigError(
            'checkpoint.best = "gauc" needs a column to group by, and the schema has no group_column: name the users\' column '
            'there, or choose "auc" or "log_loss"'
        )


def _train(config: RunConfig, ranks: Ranks, screen: Screen, inputs: Inputs, folder: RunFolder, profile_steps: int) -> None:
    checkpoints = Checkpoints(folder.checkpoints, config.checkpoint)
    newest = _newest(checkpoints, screen, ranks)
    source = Following(inputs, ranks, screen) if config.data.follow else Epochs(inputs, ranks)
    state, preemption = source.begin(), Preemption()
    if newest is not None:
        written = together(lambda: read_offering(newest))
        state = written.state
        for change in written.other_versions():
            screen.say(f"note: {newest} was written with {change}: the run need not go on bit for bit")
    with preemption:
        part = source.next(state, preemption)
    if part is None and not state.step:
        return  # nothing has arrived
    steps = state.step
    if part is not None:
        state, _, steps = part
    splits = _splits_to_evaluate(inputs)
    if state.step >= steps and together(lambda: _has_figures(folder, splits, state.step, ranks)):
        screen.say(
            f"run complete: {folder.path} has trained its {state.step:,} steps; nothing to do. "
            f"Its figures: {folder.evaluation}. For more, raise train.epochs; for another run, set run.dir."
        )
        return
    screen.say(derived(inputs, ranks, steps))
    built = together(lambda: build(inputs, ranks))
    screen.say_if(kernel_taken(ranks, config.kernel, built.kernel))
    screen.table(plan_table(plan_rows(built.plan, inputs.layout)))
    if newest is not None:
        load(newest, built.model, built.optimizer)
        screen.say(f"resuming from {newest}: step {state.step:,} of {steps:,}")
        if written.state.finished and state.step < steps and config.train.decay != "none":
            rate = config.train.lr * Schedule(built.optimizer, config.train, steps).factor(state.step)
            screen.say(
                f"note: the run had ended at step {state.step:,}, at the end of the {config.train.decay} decay of its learning "
                f"rate. Over {steps:,} steps the rate is {rate:.3g} again, and falls to 0 from there: one run of that length "
                "would not have fallen in between."
            )
    elif config.checkpoint.warm_start is not None:
        section = config.checkpoint.warm_start
        for line in together(lambda: WarmStart(section, inputs).fill(built.model)):
            screen.say(line)
    if newest is None:
        together(lambda: write_json(folder.vocabularies, vocabulary_hashes(config, inputs.schema)) if ranks.first else None)
    log = EventLog(folder.tensorboard if ranks.first and config.log.tensorboard else None, state.step)
    observer = Observer(built, inputs.schema, config, folder.insight, log, ranks, screen, state.step)
    saver = Saver(checkpoints, config_tree(config), config.checkpoint.asynchronous, config.distributed.timeout)
    bad_rows = BadRowReport(ranks, screen, log, folder.bad_rows)
    validate = _validation(inputs, built.model, ranks, bad_rows) if config.checkpoint.best else None
    schedule = Schedule(built.optimizer, config.train, steps)
    profile = Profile(built.model, profile_steps, folder.profile, ranks, screen)
    while part is not None:
        state, reader, steps = part
        trainer = Trainer(inputs, built, reader, saver, log, observer, ranks, screen, schedule, validate, bad_rows, profile)
        with preemption:
            state = trainer.run(state, steps, preemption)
            part = source.next(state, preemption)
    evaluations = evaluate_splits(inputs, splits, built.model, ranks, screen, bad_rows, state.step)
    for split, evaluation in evaluations.items():
        log.evaluation(state.step, split, evaluation.tasks)
    if ranks.first and evaluations:
        record(folder.evaluation, folder.scores, evaluations, state.step, state.samples, config.metrics.keep_scores)
    log.close()
    screen.say(
        f"checkpoint:  {checkpoints.newest()}\ntensorboard: {folder.tensorboard}\n"
        f"config:      {folder.config}\nfigures:     {folder.evaluation}"
    )


def _splits_to_evaluate(inputs: Inputs) -> list[str]:
    """At a run's end: validation and test; where there is neither, the training data, if these have an end."""
    return [s for s in inputs.files if s != "train"] or list(inputs.files)


def _has_figures(folder: RunFolder, splits: Sequence[str], step: int, ranks: Ranks) -> bool:
    """Whether the run's figures are of its newest checkpoint. The first rank looks, and tells the others."""
    there = [ranks.first and (not splits or recorded(folder.evaluation, splits, step))]
    torch.distributed.broadcast_object_list(there)
    return there[0]


def _newest(checkpoints: Checkpoints, screen: Screen, ranks: Ranks) -> Path | None:
    """The one to go on from; with `[checkpoint] damaged = "skip"` damaged ones are set aside before."""
    if checkpoints.keep.damaged == "skip":
        set_damaged_aside(checkpoints, screen.say)
    found = [checkpoints.newest() if ranks.first else None]
    torch.distributed.broadcast_object_list(found)  # a shared file system may show the ranks different states of the folder
    return found[0]


def _validation(inputs: Inputs, model: nn.Module, ranks: Ranks, bad_rows: BadRowReport) -> Callable[[int], dict[str, float]]:
    """Measures the validation split at a step: means over tasks, by "validation/auc" and so on."""

    def measure(step: int) -> dict[str, float]:
        reader = inputs.evaluation_reader("validation", ranks)
        mean = mean_row(evaluate(model, reader, inputs.schema, inputs.layout, inputs.config, ranks).tasks)
        bad_rows("validation", reader, step)
        return {f"validation/{name}": getattr(mean, name) for name in ("auc", "gauc", "log_loss")}

    return measure


def evaluate_run(run_dir: Path, checkpoint: Path | None, splits: tuple[str, ...], ranks: Ranks) -> None:
    """Evaluates a run's newest, or the given, checkpoint on the splits, by default on validation and test. Raises UserError."""
    screen = Screen(ranks.first)
    folder = RunFolder(run_dir)
    config, schema = together(folder.open)
    splits = together(lambda: _splits_asked_for(folder, config, splits))
    screen.say(detected(ranks, config.kernel))
    chosen = together(lambda: find(checkpoint or run_dir))
    inputs = together(lambda: open_inputs(config, schema, splits))
    built = together(lambda: build(inputs, ranks))
    screen.say_if(kernel_taken(ranks, config.kernel, built.kernel))
    state = load(chosen, built.model, None)
    screen.say(f"checkpoint: {chosen}, step {state.step:,}")
    bad_rows = BadRowReport(ranks, screen)
    evaluate_splits(inputs, tuple(inputs.files), built.model, ranks, screen, bad_rows, state.step)


def _splits_asked_for(folder: RunFolder, config: RunConfig, asked: tuple[str, ...]) -> tuple[str, ...]:
    """Raises ConfigError for splits that the run does not have."""
    there = tuple(s for s in ("validation", "test") if getattr(config.data, s))
    if not asked and not there:
        raise ConfigError(
            f"{folder.config}: data.validation and data.test are empty, so that there is nothing to evaluate. Name a split's "
            "folder there, or evaluate on what was trained on, with --split train."
        )
    for split in asked:
        if not getattr(config.data, split):
            raise ConfigError(f"{folder.config}: data.{split} is empty. Name that split's folder there, or leave --split out.")
    return asked or there


def evaluate_splits(
    inputs: Inputs,
    splits: Sequence[str],
    model: nn.Module,
    ranks: Ranks,
    screen: Screen,
    bad_rows: BadRowReport,
    step: int,
) -> dict[str, Evaluation]:
    """step: that the model stands at."""
    found = {}
    for split in splits:
        reader = inputs.evaluation_reader(split, ranks)
        found[split] = evaluate(model, reader, inputs.schema, inputs.layout, inputs.config, ranks)
        bad_rows(split, reader, step)
        screen.table(evaluation_table(split, found[split].tasks))
        for note in found[split].notes:
            screen.say(f"note: {note}")
        for feature in inputs.config.metrics.slices:
            screen.table(slice_table(split, feature, [s for s in found[split].slices if s.feature == feature]))
    return found
