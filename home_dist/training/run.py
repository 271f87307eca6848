"""A training run on one rank: makes and connects everything that the trainer needs."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from home_dist.config import config_tree
from home_dist.data.inputs import Inputs
from home_dist.data.matching_rows import refuse_other_vocabularies, vocabulary_hashes
from home_dist.distributed.ranks import Ranks, together
from home_dist.embeddings.sharding import plan_rows
from home_dist.evaluation.record import record
from home_dist.evaluation.split import evaluate, evaluate_splits
from home_dist.metrics import mean_row
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
from home_dist.training.opening import kernel_taken, plan_table
from home_dist.training.optimizers import Schedule
from home_dist.training.profiling import Profile
from home_dist.training.run_folder import RunFolder
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

    @staticmethod
    def begin(
        inputs: Inputs,
        ranks: Ranks,
        screen: Screen,
        folder: RunFolder,
        checkpoints: Checkpoints,
        start: Start,
        profile_steps: int = 0,
    ) -> "Run":
        """Builds the model and fills it from the checkpoint or by a warm start. Collective. Raises UserError."""
        config = inputs.config
        meaning, built = together(lambda: (fingerprint(folder.open()[1]), build(inputs, ranks)))
        screen.say_if(kernel_taken(ranks, config.kernel, built.kernel))
        screen.table(plan_table(plan_rows(built.plan, inputs.layout)))
        if start.checkpoint is not None:
            together(lambda: refuse_other_vocabularies(config, inputs.schema, folder.recorded_vocabularies()))
            load(start.checkpoint, built.model, built.optimizer, meaning)
        elif config.checkpoint.warm_start is not None:
            warm = WarmStart(config.checkpoint.warm_start, inputs)
            for line in together(lambda: warm.fill(built.model, built.optimizer)):
                screen.say(line)
        schedule = Schedule(built.optimizer, config.train, start.steps)
        if start.checkpoint is not None:
            for line in resumed(start, schedule):
                screen.say(line)
        else:
            together(lambda: folder.write_vocabularies(vocabulary_hashes(config, inputs.schema)) if ranks.first else None)
        log = EventLog(folder.tensorboard if ranks.first and config.log.tensorboard else None, start.state.step)
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
            observer=Observer(built, inputs.schema, config, folder.insight, log, ranks, screen, start.state.step),
            bad_rows=BadRowReport(ranks, screen, log, folder.bad_rows),
            profile=Profile(built.model, profile_steps, folder.profile, ranks, screen),
        )

    @property
    def tasks(self) -> list[str]:
        return [t.name for t in self.inputs.schema.task]

    def validate(self, step: int) -> dict[str, float]:
        """Evaluates the validation split at `step`: means over tasks by "validation/auc" and so on. Collective."""
        reader = self.inputs.evaluation_reader("validation", self.ranks)
        inputs = self.inputs
        mean = mean_row(evaluate(self.built.model, reader, inputs.schema, inputs.layout, inputs.config, self.ranks).tasks)
        self.bad_rows("validation", reader, step)
        return {f"validation/{name}": getattr(mean, name) for name in ("auc", "gauc", "log_loss")}

    def evaluate(self, splits: Sequence[str], state: TrainState) -> None:
        """Evaluates splits, shows their metrics and records them in the run's folder. Collective."""
        evaluations = evaluate_splits(self.inputs, splits, self.built.model, self.ranks, self.screen, self.bad_rows, state.step)
        for split, evaluation in evaluations.items():
            self.log.evaluation(state.step, split, evaluation.tasks)
        if self.ranks.first and evaluations:
            keep = self.inputs.config.metrics.keep_scores
            record(self.folder.evaluation, self.folder.scores, evaluations, state.step, state.samples, keep)


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
