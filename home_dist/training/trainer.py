"""The training loop: steps, checkpoints, the progress line."""

import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from itertools import islice

from home_dist.data import Reader
from home_dist.data.batch import Batch
from home_dist.network import StepOutput
from home_dist.screen import Screen
from home_dist.training import health, progress
from home_dist.training.bad_rows import BadRowReport
from home_dist.training.build import Built, Inputs
from home_dist.training.checkpoint.saver import Saver
from home_dist.training.checkpoint.state import TrainState
from home_dist.training.events import EventLog
from home_dist.training.label_watch import LabelWatch
from home_dist.training.observer import Observer
from home_dist.training.optimizers import Schedule
from home_dist.training.pipeline import Pipeline, begin_step
from home_dist.training.preemption import Preemption
from home_dist.training.profiling import Profile
from home_dist.training.ranks import Ranks
from home_dist.training.refusals import Refusals
from home_dist.training.running import Running

_SLOW_STEPS = 2  # the first ones allocate and are left out of rates


class Trainer:
    """Runs the steps from a state on."""

    def __init__(
        self,
        inputs: Inputs,
        built: Built,
        reader: Reader,
        saver: Saver,
        log: EventLog,
        observer: Observer,
        ranks: Ranks,
        screen: Screen,
        schedule: Schedule,
        validate: Callable[[int], dict[str, float]] | None = None,
        bad_rows: BadRowReport | None = None,
        profile: Profile | None = None,
    ):
        """validate: measures the model at a step, for choosing the best checkpoint. Every rank calls it."""
        self.config = inputs.config
        self.built, self.reader, self.saver, self.validate = built, reader, saver, validate
        self.log, self.observer, self.ranks, self.screen = log, observer, ranks, screen
        self.schedule, self.bad_rows, self.profile = schedule, bad_rows, profile
        self.tasks = [t.name for t in inputs.schema.task]
        train, layout = inputs.config.train, inputs.layout
        self.refusals = Refusals(built.check, train, layout, self.tasks, ranks, screen, log, saver)

    def run(self, state: TrainState, total: int, preemption: Preemption) -> TrainState:
        """Trains up to step `total`, within `preemption`. Returns the state after it, which is also the newest checkpoint."""
        try:
            state = self._run(state, total, preemption)
            self.saver.wait()
            return state
        except Exception as error:
            cause = self.saver.settle(error)
            if cause is error:
                raise
            raise cause from None

    def _run(self, state: TrainState, total: int, preemption: Preemption) -> TrainState:
        pipeline = Pipeline.of(self.built, self.ranks, self.config.train.accumulate)
        pipeline.set_step(state.step)
        meter = progress.Meter(len(self.tasks))
        running, labels = self._running(), LabelWatch(self.tasks, self.ranks.device)
        if state.meter is not None:
            meter.resume(state.meter, self.ranks.device)
        measured = {k: v for k, v in state.metrics.items() if k == "loss"}
        epochs = self.reader.epochs(state.position.epoch, max(self.config.train.epochs, state.position.epoch + 1))
        batches = self._until_validation(epochs, state.step, total)
        waited, began, first = self.reader.wait_seconds, time.perf_counter(), state.step
        self.built.model.train()
        while state.step < total:
            rate = begin_step(self.built, self.schedule, self.config.train, state.step, self.ranks.rank)
            with self.observer.step(state.step + 1), self.profile.step() if self.profile else nullcontext():
                output: StepOutput = pipeline.progress(batches, is_last_batch=state.step + 1 == total)
            output = self.refusals.after(state.step + 1, output)
            meter.add(output)
            labels.add(output)
            if running is not None:
                running.add(output)
            state = self._after(state, output, total)
            health.at_step(state.step)
            self.saver.check()
            if state.step == first + _SLOW_STEPS:
                meter.restart_clock()
                waited, began = self.reader.wait_seconds, time.perf_counter()
            if state.step % self.config.log.every_steps == 0 or state.finished:
                interval = meter.close(self.reader.wait_seconds - waited)
                if running is not None:
                    interval = replace(interval, running=running.close())
                waited = self.reader.wait_seconds
                pace = (time.perf_counter() - began) / max(1, state.step - first - _SLOW_STEPS)
                self.screen.say(progress.line(state.step, total, interval, self.ranks.world_size, pace * (total - state.step)))
                self.log.step(state.step, interval, rate, self.tasks)
                self.observer.interval(state.step, interval, rate)
                self._tell_bad_rows(state.step)
                measured = {"loss": interval.loss}
            every = self.config.checkpoint.every_steps
            # Gradients that wait for their update are in no checkpoint.
            leaves = state.step % self.config.train.accumulate == 0 and preemption.asked() and not state.finished
            if leaves or state.finished or (every and state.step % every == 0):
                self.refusals.settle()
            if leaves:
                self._tell_bad_rows(state.step)
                state = replace(state, metrics=measured)
                path = self.saver.save(self.built.model, self.built.optimizer, state, meter.state())
                self.saver.wait()
                where = f"step {state.step:,} of {total:,}"
                preemption.leave(self.ranks, f"asked to leave at {where}; the same command goes on from {path}")
            if state.finished or (every and state.step % every == 0):
                if self.validate is not None:
                    pipeline.detach()  # the next step attaches it again
                    # A new dict: a save that is still being written holds the one before.
                    measured = measured | self.validate(state.step)
                    batches = self._until_validation(epochs, state.step, total)
                self._tell_bad_rows(state.step)
                state = replace(state, metrics=measured)
                self.saver.save(self.built.model, self.built.optimizer, state, meter.state())
                if running is not None:
                    running.restart()
                self.observer.tables(state.step, epoch_over=state.position.epoch > 0)
        epochs.close()
        for note in labels.notes():
            self.screen.say(f"note: {note}")
        if self.profile is not None:
            self.profile.close()
        pipeline.detach()
        return state

    def _tell_bad_rows(self, step: int) -> None:
        """With each progress line and before each checkpoint: a run that goes on from there does not read these rows again."""
        if self.bad_rows is not None:
            self.bad_rows("train", self.reader, step)

    def _running(self) -> Running | None:
        samples, ranks = self.config.metrics.running_samples, self.ranks
        return Running(len(self.tasks), samples, ranks.world_size, ranks.rank, ranks.device) if samples else None

    def _until_validation(self, batches: Iterator[Batch], step: int, total: int) -> Iterator[Batch]:
        """What the pipeline may take: it reads ahead, and must have nothing in flight when the model is used without it."""
        every = self.config.checkpoint.every_steps
        until = total if self.validate is None or not every else min(total, step - step % every + every)
        return islice(batches, until - step)

    def _after(self, state: TrainState, output: StepOutput, total: int) -> TrainState:
        step = state.step + 1
        if output.step == self.reader.steps(output.epoch):
            position = self.reader.position(output.epoch + 1, 0)
        else:
            position = self.reader.position(output.epoch, output.step)
        return TrainState(
            step=step,
            samples=state.samples + self.reader.rows_of_step(output.epoch, output.step),
            finished=step == total,
            position=position,
            world_size=self.ranks.world_size,
            rounds=state.rounds,
        )
