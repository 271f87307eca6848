"""Sources of training data: epochs over a fixed set of files, or, with `[data] follow`, files that keep arriving.

With `follow`, the files that have arrived since the last look form a round, which is read once, like an epoch. The checkpoint
holds the files of every round, so that a resumed run reads the rest of its round and then new files, on any number of ranks.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch.distributed as dist

from home_dist.data import DataFiles, Reader, ReaderPosition
from home_dist.data.arrivals import arrived
from home_dist.data.files import open_found
from home_dist.data.inputs import Inputs
from home_dist.distributed.preemption import Preemption
from home_dist.distributed.ranks import Ranks, together
from home_dist.errors import DataError
from home_dist.screen import Screen
from home_dist.training.checkpoint.state import TrainState

_TICK_SECONDS = 1.0
"""Longest wait for files before signals are checked again and ranks meet."""


Part = tuple[TrainState, Reader, int]
"""(state to continue from, reader at that position, number of the last step)"""


Waiting = Callable[[TrainState], None]


class Epochs:
    """Epochs over a fixed set of files: the whole run is one part."""

    def __init__(self, inputs: Inputs, ranks: Ranks):
        self.config, self.ranks = inputs.config.train, ranks
        scan = inputs.training_scan(ranks)
        self.reader: Reader | None = together(lambda: inputs.training_reader(ranks, scan))

    def begin(self) -> TrainState:
        """The state of a new run."""
        if self.reader is None:
            raise ValueError("the run has been given out")
        return TrainState(0, 0, False, self.reader.position(0, 0), self.ranks.world_size)

    def next(self, state: TrainState, preemption: Preemption, waiting: Waiting | None = None) -> Part | None:
        """The whole run at the first call, then None. Raises CheckpointError if the files differ from the state's."""
        reader, self.reader = self.reader, None
        if reader is None:
            return None
        if state.step:
            together(lambda: reader.resume(state.position))
        first, most = state.position.epoch, self.config.max_steps
        total = state.step + sum(reader.steps(e) - reader.steps_done(e) for e in range(first, self.config.epochs))
        return state, reader, total if most is None else min(total, most)


class Following:
    """Rounds of arriving files. Every rank has one; the first rank looks for files and tells the others."""

    def __init__(self, inputs: Inputs, ranks: Ranks, screen: Screen):
        self.inputs, self.data, self.ranks, self.screen = inputs, inputs.config.data, ranks, screen
        self._look_at = 0.0
        self._without_rows: set[str] = set()
        """Files that belong to no round, because they arrived in a look without any row; they are not opened again."""

    def begin(self) -> TrainState:
        """The state of a new run."""
        lanes, batch = self.data.lanes, self.inputs.config.train.batch_size * self.ranks.world_size
        return TrainState(0, 0, False, ReaderPosition(0, 0, lanes, batch, ""), self.ranks.world_size, rounds=[])

    def next(self, state: TrainState, preemption: Preemption, waiting: Waiting | None = None) -> Part | None:
        """The rest of the state's round or, after its end, a round of new files. None if nothing arrived for
        `follow_idle_minutes`, and after `max_steps`. waiting: called with the state now and then, on all ranks together. Raises
        Preempted, or DataError if files of the round are gone."""
        rounds, most = state.rounds or [], self.inputs.config.train.max_steps
        if most is not None and state.step >= most:
            return None
        current = state.position.epoch < len(rounds)
        while True:
            known = self._without_rows.union(*rounds)
            names = (
                rounds[state.position.epoch]
                if current
                else self._wait(known, preemption, partial(waiting, state) if waiting else None)
            )
            if names is None:
                return None
            files = together(partial(self._open, names))
            if files.rows:
                break
            if current:
                raise DataError(f"{self.data.shown}: the files of the round hold no rows now. Put back those of before.")
            self._without_rows |= set(names)
            self.screen.say(f"note: {len(names):,} files without rows have arrived, such as {names[0]}: passed over")
        inputs = replace(self.inputs, files={**self.inputs.files, "train": files})
        scan = inputs.training_scan(self.ranks)
        reader = together(partial(inputs.training_reader, self.ranks, scan))
        together(lambda: reader.resume(state.position))
        epoch = state.position.epoch
        steps_left = reader.steps(epoch) - reader.steps_done(epoch)
        self.screen.say(f"round {epoch}: {len(names):,} files, {reader.files.rows:,} rows, {steps_left:,} steps to go")
        total = state.step + steps_left
        state = replace(state, finished=False, rounds=rounds if current else [*rounds, names])
        return state, reader, total if most is None else min(total, most)

    def _open(self, names: list[str]) -> DataFiles:
        store, files = arrived(self.data)
        by_name = {f.name: f for f in files}
        gone = [n for n in names if n not in by_name]
        if gone:
            raise DataError(f"{self.data.shown}: {gone[0]} was there when its round began, and is not now. Put it back.")
        chosen = [by_name[n] for n in names]
        request = self.data.request_columns
        return open_found(store, chosen, self.inputs.schema, self.inputs.layout, rows_needed=False, request=request)

    def _wait(self, known: set[str], preemption: Preemption, waiting: Callable[[], None] | None) -> list[str] | None:
        """Waits for new files; returns their names, or None after `follow_idle_minutes` without any. Raises Preempted."""
        idle, began = self.data.follow_idle_minutes, time.monotonic()
        self._look_at, announced = began, False
        while True:
            news = together(lambda: self._look(known))
            from_first = [(news, idle is not None and time.monotonic() - began > 60 * idle)]
            dist.broadcast_object_list(from_first)
            news, ends = from_first[0]
            if news:
                return news
            if waiting is not None:
                waiting()
            if preemption.asked():
                preemption.leave(self.ranks, "asked to leave while waiting for data; the same command goes on")
            if ends:
                self.screen.say(f"nothing new in {self.data.shown} for {idle:g} minutes: the run ends")
                return None
            if not announced:
                self.screen.say(f"waiting for new files in {self.data.shown}, {self.data.train}; {len(known):,} are trained on")
                announced = True
            time.sleep(min(_TICK_SECONDS, self.data.follow_poll_seconds))

    def _look(self, known: set[str]) -> list[str]:
        """Names of new files; empty on other ranks than the first, and before it is time to look again."""
        if not self.ranks.first or time.monotonic() < self._look_at:
            return []
        self._look_at = time.monotonic() + self.data.follow_poll_seconds
        return [f.name for f in arrived(self.data)[1] if f.name not in known]
