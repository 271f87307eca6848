"""`[publish]`: versions of a run while it trains.

Training hands over copies between two steps: rows that were touched, dense tensors, and the rows that golden requests read. A
thread on each rank writes them. A full version begins with all rows, which the thread reads beside training, block by block;
those that training changes meanwhile are copied at the version's step and stand behind them, where they replace them. So a
version holds the model of one step, and takes memory for touched rows alone.

The first rank decides when a version is due, and tells the others by a broadcast that no step waits for. Whatever fails is told
and tried again, later and later; training goes on.
"""

import queue
import threading
import time
from contextlib import ExitStack, suppress
from enum import IntEnum
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
import torch.distributed as dist

from home_dist.config import RunConfig, config_tree
from home_dist.config.publish import PublishSection
from home_dist.config.stopping import averages_wanted
from home_dist.data.side_files import with_local_schema
from home_dist.distributed import health
from home_dist.distributed.ranks import Ranks, together
from home_dist.errors import UserError
from home_dist.export.meaning import ModelMeaning
from home_dist.export.program import predictions_of
from home_dist.export.source import Source
from home_dist.files.remote import StoreError
from home_dist.publish.folder import VersionsFolder
from home_dist.publish.keys import version_tables
from home_dist.publish.live_golden import LiveGolden, Read
from home_dist.publish.live_tables import LiveTables
from home_dist.publish.live_version import Base, Copied, LiveModel, Together, VersionWriter
from home_dist.publish.manifest import PublishError
from home_dist.publish.of_checkpoint import is_current, newest_data
from home_dist.publish.writing import Facts
from home_dist.screen import Screen
from home_dist.training.checkpoint.state import TrainState
from home_dist.training.run import Run
from home_dist.training.stored_tables import all_tables

_LONGEST_RETRY = 300.0


_NO_STEP = PublishError("its step did not come, as the run ended or went back to its best checkpoint")


class Wish(IntEnum):
    NOTHING = 0
    BEGIN_FULL = 1
    """Note what is touched from now on, and read all rows beside training."""
    COPY = 2
    """Copy what was touched: a full version's rows have been read, or a delta begins."""


class Publisher:
    """One rank's part (training/handover.py). Within its context no other publisher writes to the place."""

    def __init__(self, config: RunConfig, ranks: Ranks):
        """config: with a [publish] section. Raises DataError for a place that cannot be opened."""
        if config.publish is None:
            raise ValueError("the run publishes nothing")
        self._section: PublishSection = config.publish
        self._ranks, self._screen = ranks, Screen(ranks.first)
        self._folder = VersionsFolder(self._section.to)
        self._claims = ExitStack()
        self._claimed = False
        self._job: _Publication | None = None
        self._base: Base | None = None
        """The newest version, on the first rank."""
        self._deltas: int | None = None
        """Since the newest full version; None: the next one must be full."""
        self._generation = 0
        """How often all parameters were replaced."""
        self._ending = False
        self._last_step = -1
        self._due, self._failures = 0.0, 0
        self._pending: tuple[Any, torch.Tensor] | None = None

    def __enter__(self) -> "Publisher":
        """Claims the place. Raises PublishError if another publisher writes there. A store that is away is tried again."""
        together(lambda: self._claim(wait=True) if self._ranks.first else None)
        return self

    def _claim(self, wait: bool = False) -> None:
        if self._claimed:
            return
        try:
            self._claims.enter_context(self._folder.claimed())
            self._claimed = True
        except StoreError as error:
            if not wait:
                raise
            self._screen.say(f"note: {error} Versions are published once it is back.")

    def _claim_for(self, job: "_Publication") -> None:
        """On the first rank. Raises PublishError for a delta whose base is no longer the newest version."""
        self._claim()
        if not job.full and self._base is not None:
            there, own = self._folder.current(), (self._base[0].version, self._base[1])
            if there != own:
                self._deltas = None
                found = "there is none" if there is None else f"it is {there[0]}"
                raise PublishError(
                    f"{self._folder}: the newest version is not {own[0]} any more, {found}. The next one is full"
                )

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._job is not None:
            self._job.copies.put(_NO_STEP)
        if kind is None:
            self._read()
        self._claims.close()

    def lacks(self, checkpoint: Path) -> bool:
        told = [False]
        if self._ranks.first:
            try:
                told = [not is_current(self._folder, Source.open(checkpoint), self._section.rows)]
            except Exception:  # a version that cannot be read helps no server
                told = [True]
        dist.broadcast_object_list(told, 0)
        return told[0]

    def begin(self, run: Run) -> None:
        self._run = run
        self._tables = LiveTables(run.built.model)
        self._together = Together()
        self._decisions = dist.new_group(backend="gloo")
        names = [name.removeprefix("head.") for name in run.built.model.state_dict() if name.startswith("head.")]
        parts = run.inputs.config, run.inputs.schema, run.inputs.layout, names, self._section.golden
        self._golden: LiveGolden | None = None
        try:
            with torch.random.fork_rng([]):  # the run's random numbers stay its own
                self._golden = LiveGolden(*parts) if self._ranks.first and self._section.golden else None
        except Exception as error:  # on the first rank alone: the run goes on
            self._screen.say(f"note: versions are published without golden requests: {error}")
        self._read_by_golden: Read | None = None
        self._writer: VersionWriter | None = None

    def replaced(self) -> None:
        self._generation += 1
        self._deltas, self._last_step = None, -1
        if self._job is not None and self._job.full and not self._job.copied:
            self._job.copied = True
            self._job.copies.put(_NO_STEP)

    def tick(self, state: TrainState) -> None:
        self._do(Wish(self._read()), state)
        wish = self._wish(state) if self._ranks.first else Wish.NOTHING
        word = torch.tensor([int(wish)])
        self._pending = (dist.broadcast(word, 0, group=self._decisions, async_op=True), word)

    def end(self, state: TrainState) -> None:
        self._read()
        self._finish(state)
        self._due, self._ending = 0.0, True
        told = [int(self._wish(state)) if self._ranks.first else 0]
        dist.broadcast_object_list(told, 0)
        self._do(Wish(told[0]), state)
        self._finish(state)
        self._tables.close()

    def _finish(self, state: TrainState) -> None:
        """Waits for the version that is being written."""
        patience = self._run.inputs.config.distributed.timeout
        asked = time.monotonic()
        while self._job is not None and self._job.thread.is_alive():
            if self._job.wants.is_set():
                self._do(Wish.COPY, state)
            self._job.thread.join(0.05)
            if time.monotonic() - asked > patience:
                asked = time.monotonic()
                if health.someone_is_missing():
                    return

    def _read(self) -> int:
        """The first rank's wish of the call before; the same on all ranks."""
        if self._pending is None:
            return Wish.NOTHING
        work, word = self._pending
        self._pending = None
        work.wait()
        return int(word.item())

    def _wish(self, state: TrainState) -> Wish:
        if self._job is not None and self._job.thread.is_alive():
            return Wish.COPY if self._job.wants.is_set() else Wish.NOTHING
        if time.monotonic() < self._due or state.step == self._last_step or not state.step:
            return Wish.NOTHING
        full = self._deltas is None or self._deltas + 1 >= self._section.full_every
        return Wish.BEGIN_FULL if full else Wish.COPY

    def _do(self, wish: Wish, state: TrainState) -> None:
        if wish == Wish.NOTHING:
            return
        began = time.monotonic()
        self._begin_or_go_on(wish, state)
        if self._job is not None:
            self._job.waited += time.monotonic() - began

    def _begin_or_go_on(self, wish: Wish, state: TrainState) -> None:
        job = self._job
        if job is not None and wish == Wish.COPY and job.full and not job.copied:
            job.wants.clear()
            job.copied = True
            job.copies.put(self._copied(state))
            return
        if job is not None:
            job.thread.join()  # the first rank's has ended, and all end together
        self._due = time.monotonic() + self._section.every_seconds
        job = self._job = _Publication(wish == Wish.BEGIN_FULL, self._generation)
        if job.full:
            self._tables.restart()
        else:
            job.copied = True
            job.copies.put(self._copied(state))
        job.thread = threading.Thread(target=self._publish, args=(job,), name="publish", daemon=True)
        try:
            job.thread.start()
        except RuntimeError as error:  # the machine has no room for a thread
            self._without_thread(job, error)

    def _without_thread(self, job: "_Publication", error: RuntimeError) -> None:
        """Training takes the thread's part in the first that all ranks' threads do together, which fails on all of them."""

        def fail() -> None:
            raise error

        self._job = None
        try:
            self._together.all(fail)
        except Exception as told:
            self._failed(job, told)

    def _copied(self, state: TrainState) -> Copied | Exception:
        try:
            return self._copy(state)
        except Exception as error:  # the thread tells it, and training goes on
            return error

    def _copy(self, state: TrainState) -> Copied:
        """Between two steps."""
        read = self._read_by_golden
        golden = [] if read is None else self._tables.at(read.slots, read.hashes)
        config, tasks = self._run.inputs.config, self._run.inputs.schema.task
        facts = Facts(state.step, state.samples, None, predictions_of(tasks, self._run.built.objectives))
        self._last_step = state.step
        return Copied(facts, self._tables.changed(), golden, partial(newest_data, config.data, state))

    def _publish(self, job: "_Publication") -> None:
        """In the thread."""
        began = time.monotonic()
        try:
            if self._writer is None:
                self._writer = VersionWriter(self._folder, self._together, self._together.all(self._model), self._section)
            self._together.first(partial(self._claim_for, job))
            if job.full and self._section.golden and self._read_by_golden is None:
                self._read_by_golden = self._together.first(self._find_golden)
            base = None if job.full else self._base
            version = self._writer.write(job.full, base, self._tables.sweep, job.copy, self._golden)
        except Exception as error:
            self._failed(job, error)
            return
        self._tables.published(job.copy().changes)
        self._base, self._failures = version, 0
        if job.generation == self._generation:
            self._deltas = 0 if job.full else (self._deltas or 0) + 1
        if version is not None:
            manifest, _ = version
            rows, size = sum(t.entries for t in manifest.tables.values()), sum(f.bytes for f in manifest.files.values())
            self._screen.say(
                f"published {manifest.version} ({manifest.kind}, step {manifest.step:,}): {rows:,} rows, {size / 1e6:,.1f} MB, "
                f"in {time.monotonic() - began:.1f} s, for which training waited {1e3 * job.waited:,.0f} ms"
            )
            self._prune()

    def _failed(self, job: "_Publication", error: Exception) -> None:
        self._failures += 1
        wait = min(_LONGEST_RETRY, self._section.every_seconds * 2 ** min(self._failures - 1, 10))
        self._due, self._last_step = time.monotonic() + wait, -1
        if job.full:
            self._deltas = None
        else:
            try:
                self._tables.give_back(job.copy().changes)
            except PublishError:  # nothing was copied, so that nothing tells what the next delta has to hold
                self._deltas = None
        with suppress(StoreError):
            if self._claimed and not self._folder.is_own():
                self._claimed, self._deltas = False, None
                self._claims.close()
        told = (str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}").rstrip(". ") + "."
        then = "The run ends without it." if self._ending else f"Training goes on; it is tried again in {wait:,.0f} s."
        self._screen.say(f"note: no version was published: {told} {then}")

    def _prune(self) -> None:
        try:
            for damaged in self._folder.prune(self._section.keep):
                self._screen.say(f"note: an older version is damaged: {damaged}")
        except (UserError, OSError) as error:
            self._screen.say(f"note: older versions could not be removed: {error}")

    def _find_golden(self) -> Read | None:
        """On the first rank."""
        try:
            return None if self._golden is None else self._golden.find()
        except PublishError as error:
            self._screen.say(f"note: {error}")
            return None

    def _model(self) -> LiveModel:
        inputs, folder = self._run.inputs, self._run.folder
        given, whole = folder.open()
        config, layout = with_local_schema(given), inputs.layout
        tables = set(all_tables(layout))
        shown, written = str(folder.path), config_tree(inputs.config)
        parts = shown, given, config, written, whole, inputs.schema, tables, folder.recorded_vocabularies()
        meaning = ModelMeaning(*parts)
        return LiveModel(meaning, layout, averages_wanted(inputs.config, None), version_tables(meaning, layout))


class _Publication:
    """One version."""

    thread: threading.Thread

    def __init__(self, full: bool, generation: int):
        self.full, self.generation = full, generation
        self.copies: queue.SimpleQueue[Copied | Exception] = queue.SimpleQueue()
        self.wants = threading.Event()
        """Set when a full version's rows have been read."""
        self.copied = False
        self.waited = 0.0
        """Seconds that training has waited for this rank's copies."""
        self._copy: Copied | Exception | None = None

    def copy(self) -> Copied:
        """In the thread: waits for the copies. Raises PublishError if there are none."""
        if self._copy is None:
            if self.full:
                self.wants.set()
            self._copy = self.copies.get()
        if isinstance(self._copy, UserError):
            raise self._copy
        if isinstance(self._copy, Exception):
            raise PublishError(f"its rows could not be copied: {type(self._copy).__name__}: {self._copy}")
        return self._copy
