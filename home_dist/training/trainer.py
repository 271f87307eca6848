"""The training loop: steps, checkpoints, the progress line."""

import math
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

from home_dist import process
from home_dist.data import Reader
from home_dist.data.batch import Batch
from home_dist.distributed import health
from home_dist.distributed.preemption import Preemption
from home_dist.network import StepOutput
from home_dist.training import progress
from home_dist.training.checkpoint.state import TrainState
from home_dist.training.handover import Handover
from home_dist.training.label_watch import LabelWatch
from home_dist.training.pipeline import Pipeline, begin_step
from home_dist.training.refusals import Refusals
from home_dist.training.run import Run
from home_dist.training.running_metrics import Running

_SLOW_STEPS = 2  # first steps, which allocate: left out of rates


class Trainer:
    """Trains a run, or one round of it, from a given state on. Every rank has one."""

    def __init__(self, run: Run, reader: Reader, handover: Handover | None = None):
        """reader: of the run's or the round's data, at the position to continue from."""
        self.run, self.reader, self.handover = run, reader, handover
        self.config, self.ranks, self.saver = run.inputs.config, run.ranks, run.saver
        self.refusals = Refusals(run)
        self.pipeline = Pipeline.of(run.built, run.ranks, self.config.train.accumulate, prefetch=_prefetches(run))
        self.meter, self.labels = progress.Meter(len(run.tasks)), LabelWatch(run.tasks, run.ranks.device)
        self.running = self._running()
        self.measured: dict[str, float] = {}
        """Metrics of the newest interval and validation, for checkpoints."""
        self.stopped = False
        """Whether `train.stop` has ended the run; its best checkpoint is then before the newest one."""

    def train(self, state: TrainState, total: int, preemption: Preemption) -> TrainState:
        """Trains up to step `total`, within `preemption`. Returns the last state, which is also the newest checkpoint."""
        try:
            state = self._steps(state, total, preemption)
            self.saver.wait()
            return state
        except Exception as error:
            cause = self.saver.settle(error)
            if cause is error:
                raise
            raise cause from None
        finally:
            self.run.screen.keep_progress()

    def _steps(self, state: TrainState, total: int, preemption: Preemption) -> TrainState:
        run, pipeline = self.run, self.pipeline
        pipeline.set_step(state.step)
        if state.meter is not None:
            self.meter.resume(state.meter, self.ranks.device)
        self.measured = {k: v for k, v in state.metrics.items() if k == "loss" or k.startswith("stop/")}
        epochs = self.reader.epochs(state.position.epoch, max(self.config.train.epochs, state.position.epoch + 1))
        batches = self._until_validation(epochs, state.step, total)
        pace = Pace(self.reader, state.step)
        run.built.model.train()
        while state.step < total and not self.stopped:
            rate = begin_step(run.built, run.schedule, self.config.train, state.step, self.ranks.rank)
            with run.observer.step(state.step + 1), run.profile.step():
                output: StepOutput = pipeline.progress(batches, is_last_batch=state.step + 1 == total)
            output = self.refusals.after(state.step + 1, output)
            head = run.built.head
            head.weighting.after_step(output.loss_sums, output.weight_sums)
            if head.averages is not None and pipeline.updates:
                head.averages.update(head)
            self._count(output)
            state = self._after(state, output, total)
            if state.step == run.step_before + 1:
                run.screen.say_if(progress.first_step(process.age()))
            health.at_step(state.step)
            self.saver.check()
            if self.handover is not None:
                self.handover.tick(state)
            if state.step == pace.first + _SLOW_STEPS:
                run.log.prepare()
                if self.running is not None:
                    self.running.prepare()
                self.meter.restart_clock()
                pace.restart()
            if state.step % self.config.log.every_steps == 0 or state.finished:
                self._tell(state, total, rate, pace)
            every = self.config.checkpoint.every_steps
            due = state.finished or bool(every and state.step % every == 0)
            # Leaves only between updates, because checkpoints do not hold accumulated gradients.
            leaves = state.step % self.config.train.accumulate == 0 and preemption.asked() and not state.finished
            if leaves or due:
                self.refusals.settle()
            if leaves:
                self._leave(state, total, preemption)
            if due:
                if self._validates:
                    pipeline.detach()  # the next step attaches it again
                    # A new dict, because a save under way may still hold the old one.
                    self.measured = self.measured | run.validate(state.step)
                    self._wait_for_better()
                    batches = self._until_validation(epochs, state.step, total)
                state, _ = self._save(state)
                if self.running is not None:
                    self.running.restart()
                run.observer.tables(state.step, epoch_over=state.position.epoch > 0)
        epochs.close()
        for note in self.labels.notes():
            run.screen.say(f"note: {note}")
        run.profile.close()
        pipeline.detach()
        return state

    def _count(self, output: StepOutput) -> None:
        self.meter.add(output)
        self.labels.add(output)
        if self.running is not None:
            self.running.add(output)

    def _tell(self, state: TrainState, total: int, rate: float, pace: "Pace") -> None:
        """Ends the interval: reports it as a progress line, in TensorBoard and in the run's records."""
        run = self.run
        interval = self.meter.close(pace.waited())
        if self.running is not None:
            interval = replace(interval, running=self.running.close())
        seconds_left = pace.seconds_left(state.step, total)
        run.screen.progress(progress.parts(state.step, total, interval, self.ranks.world_size, seconds_left))
        run.log.step(state.step, interval, rate, run.tasks)
        run.observer.interval(state.step, interval, rate)
        self._tell_bad_rows(state.step)
        self.measured = {k: v for k, v in self.measured.items() if k.startswith("stop/")} | {"loss": interval.loss}

    def _wait_for_better(self) -> None:
        """Counts the validations since the best one. The counts are in checkpoints, among the metrics."""
        stop, now = self.config.train.stop, self.measured.get("validation/stop")
        if stop is None or now is None:
            return
        best = self.measured.get("stop/best", math.nan)
        if math.isnan(now) and math.isnan(best):
            return  # not defined yet, as without a positive
        better = not math.isnan(now) and not now <= best
        waited = 0.0 if better else self.measured.get("stop/waited", 0.0) + 1
        self.measured |= {"stop/best": now if better else best, "stop/waited": waited}
        self.stopped = waited >= stop.patience

    def _save(self, state: TrainState) -> tuple[TrainState, Path]:
        self._tell_bad_rows(state.step)
        self.run.built.head.weighting.settle()
        state = replace(state, metrics=self.measured)
        return state, self.saver.save(self.run.built.model, self.run.built.optimizer, state, self.meter.state())

    def _leave(self, state: TrainState, total: int, preemption: Preemption) -> None:
        """Saves, then raises on every rank to end the process."""
        _, path = self._save(state)
        self.saver.wait()
        where = f"step {state.step:,} of {total:,}"
        preemption.leave(self.ranks, f"asked to leave at {where}; the same command goes on from {path}")

    def _tell_bad_rows(self, step: int) -> None:
        """Called with each progress line, and before each checkpoint, because a run resumed there does not read these rows
        again."""
        self.run.bad_rows("train", self.reader, step)

    def _running(self) -> Running | None:
        samples, ranks = self.config.metrics.running_samples, self.ranks
        objectives = self.run.built.objectives
        return Running(objectives, samples, ranks.world_size, ranks.rank, ranks.device) if samples else None

    @property
    def _validates(self) -> bool:
        """Whether each checkpoint is validated, to choose the best one."""
        return self.config.checkpoint.best is not None

    def _until_validation(self, batches: Iterator[Batch], step: int, total: int) -> Iterator[Batch]:
        """Batches up to the next validation. The pipeline reads ahead, but must hold no batch when the model is validated."""
        every = self.config.checkpoint.every_steps
        until = total if not self._validates or not every else min(total, step - step % every + every)
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


def _prefetches(run: Run) -> bool:
    return run.inputs.config.embedding.prefetch and run.ranks.device.type == "cuda"


class Pace:
    """Time per step and time of waiting for data, without the first slow steps."""

    def __init__(self, reader: Reader, first: int):
        """first: the step that training continues from."""
        self.reader, self.first = reader, first
        self.restart()

    def restart(self) -> None:
        self._waited, self._began = self.reader.wait_seconds, time.perf_counter()

    def waited(self) -> float:
        """Seconds of waiting for data since the last call."""
        before, self._waited = self._waited, self.reader.wait_seconds
        return self._waited - before

    def seconds_left(self, step: int, total: int) -> float:
        return (time.perf_counter() - self._began) / max(1, step - self.first - _SLOW_STEPS) * (total - step)
