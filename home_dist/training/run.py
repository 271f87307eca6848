"""A training run on one rank: makes and connects everything that the trainer needs."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from home_dist.config import config_tree
from home_dist.config.stopping import Measure, averages_wanted
from home_dist.data.inputs import Inputs
from home_dist.data.matching_rows import refuse_other_vocabularies, vocabulary_hashes
from home_dist.distributed.ranks import Ranks, together
from home_dist.embeddings.sharding import plan_rows
from home_dist.evaluation.record import record
from home_dist.evaluation.split import evaluate, evaluate_splits
from home_dist.metrics import TaskMetrics, mean_row
from home_dist.schema.meaning import fingerprint
from home_dist.screen import Screen
from home_dist.training.bad_row_report import BadRowReport
from home_dist.training.build import Built, build
from home_dist.training.checkpoint.folder import Checkpoints
from home_dist.training.checkpoint.loading import load
from home_dist.training.checkpoint.saver import Saver
from home_dist.training.checkpoint.state import TrainState
from home_dist.training.events import EventLog
from home_dist.training.observer import Observer
from home_dist.training.opening import kernel_taken, plan_table, pools_taken
from home_dist.training.optimizers import Schedule
from home_dist.training.profiling import Profile
from home_dist.training.run_folder import RunFolder
from home_dist.training.table_starts import TableStarts
from home_dist.training.tracking import Trackers
from home_dist.training.warm_start import WarmStart


@dataclass(frozen=True)
class Start:
    """First and last step of a run, or of its first round."""

    state: TrainState
    steps: int
    """Number of the last step; with `[data] follow`, of the round's last step."""
    checkpoint: Path | None
    """Checkpoint to resume from; None for a new run."""
    finished: bool = False
    """Whether the run had ended at the checkpoint."""


@dataclass(frozen=True)
class Run:
    inputs: Inputs
    ranks: Ranks
    screen: Screen
    folder: RunFolder
    built: Built
    checkpoints: Checkpoints
    saver: Saver
    schedule: Schedule
    log: EventLog
    observer: Observer
    bad_rows: BadRowReport
    profile: Profile
    step_before: int
    """The last step before this process trains."""

    @staticmethod
    def begin(
        inputs: Inputs,
        ranks: Ranks,
        screen: Screen,
        folder: RunFolder,
        checkpoints: Checkpoints,
        start: Start,
        profile_steps: int = 0,
        trackers: Trackers | None = None,
    ) -> "Run":
        """Builds the model and fills it from the checkpoint or by a warm start. Collective. trackers: of the first rank. Raises
        UserError."""
        config = inputs.config
        loaded = start.checkpoint is not None
        starts = None if loaded else TableStarts.of_all_ranks(inputs)
        meaning, built = together(lambda: (fingerprint(folder.open()[1]), build(inputs, ranks, loaded)))
        screen.say_if(kernel_taken(ranks, config.kernel, built.kernel))
        screen.say_if(pools_taken(built.head))
        screen.table(plan_table(plan_rows(built.plan, inputs.layout)))
        if start.checkpoint is not None:
            together(lambda: refuse_other_vocabularies(config, inputs.schema, folder.recorded_vocabularies()))
            load(start.checkpoint, built.model, built.optimizer, meaning)
        if starts is not None:
            for line in together(lambda: starts.fill(built.model)):
                screen.say(line)
        if start.checkpoint is None and config.checkpoint.warm_start is not None:
            warm = WarmStart(config.checkpoint.warm_start, inputs)
            for line in together(lambda: warm.fill(built.model, built.optimizer)):
                screen.say(line)
        schedule = Schedule(built.optimizer, config.train, start.steps)
        if start.checkpoint is not None:
            for line in resumed(start, schedule):
                screen.say(line)
        else:
            together(lambda: folder.write_vocabularies(vocabulary_hashes(config, inputs.schema)) if ranks.first else None)
        if trackers is not None:
            trackers.begin()
        last = None if config.data.follow else start.steps
        log = EventLog(folder.tensorboard if ranks.first and config.log.tensorboard else None, start.state.step, trackers)
        return Run(
            inputs=inputs,
            ranks=ranks,
            screen=screen,
            folder=folder,
            built=built,
            checkpoints=checkpoints,
            saver=Saver(checkpoints, config_tree(config), config.checkpoint.asynchronous, config.distributed.timeout, meaning),
            schedule=schedule,
            log=log,
            observer=Observer(built, inputs.schema, config, folder.insight, log, ranks, screen, start.state.step, last),
            bad_rows=BadRowReport(ranks, screen, log, folder.bad_rows),
            profile=Profile(built.model, profile_steps, folder.profile, ranks, screen),
            step_before=start.state.step,
        )

    @property
    def tasks(self) -> list[str]:
        return [t.name for t in self.inputs.schema.task]

    def validate(self, step: int) -> dict[str, float]:
        """Evaluates the validation split at `step`: means over tasks by "validation/auc" and so on. Collective."""
        reader = self.inputs.evaluation_reader("validation", self.ranks)
        inputs = self.inputs
        with self.built.averaged(self._averaged):
            tasks = evaluate(self.built, reader, inputs.schema, inputs.layout, inputs.config, self.ranks).tasks
        self.bad_rows("validation", reader, step)
        self.log.evaluation(step, "validation", tasks)
        self.observer.validation(step, tasks)
        means = _means(tasks)
        stop = inputs.config.train.stop
        if stop is not None:
            chosen = [m for m in tasks if not stop.tasks or m.task in stop.tasks]
            means["validation/stop"] = stop.signed(getattr(mean_row(chosen), stop.name))
        return means

    @property
    def _averaged(self) -> bool:
        return averages_wanted(self.inputs.config, None)

    def evaluate(self, splits: Sequence[str], state: TrainState) -> None:
        """Evaluates splits, shows their metrics and records them in the run's folder. Collective."""
        with self.built.averaged(self._averaged):
            told = self.screen, self.bad_rows, state.step
            evaluations = evaluate_splits(self.inputs, splits, self.built, self.ranks, *told)
        for split, evaluation in evaluations.items():
            self.log.evaluation(state.step, split, evaluation.tasks)
        if evaluations:
            keep = self.inputs.config.metrics.keep_scores
            record(self.folder.evaluation, self.folder.scores, evaluations, state.step, state.samples, keep)


def _means(tasks: Sequence[TaskMetrics]) -> dict[str, float]:
    """Means over tasks that are defined, by "validation/auc" and so on."""
    row = mean_row(tasks)
    values = {f"validation/{name}": float(getattr(row, name)) for name in get_args(Measure)}
    always = ("auc", "gauc", "log_loss")  # as older versions told them
    return {name: value for name, value in values.items() if not math.isnan(value) or name.split("/")[1] in always}


def resumed(start: Start, schedule: Schedule) -> Iterator[str]:
    """Lines that a resumed run shows."""
    state, config = start.state, schedule.config
    yield f"resuming from {start.checkpoint}: step {state.step:,} of {start.steps:,}"
    if start.finished and state.step < start.steps and config.decay != "none":
        yield (
            f"note: the run had ended at step {state.step:,}, at the end of the {config.decay} decay of its learning "
            f"rate. Over {start.steps:,} steps the rate is {config.lr * schedule.factor(state.step):.3g} again, and falls to 0 "
            "from there: one run of that length would not have fallen in between."
        )
