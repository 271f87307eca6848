"""One rank's reader of a split: batches in the epoch's order, read ahead by a thread, resumable exactly."""

import queue
import threading
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from home_dist.data.assemble import Assembler, Picks
from home_dist.data.batch import Batch
from home_dist.data.decode import Decoder, Rows
from home_dist.data.files import DataFiles
from home_dist.data.order import Deal, Fragment, Windows, deal, lanes_for, make_windows
from home_dist.errors import CheckpointError
from home_dist.schema import InputLayout, Schema


@dataclass(frozen=True)
class ReaderPosition:
    """Where training stands in the data: `steps` steps of `epoch` are done.

    `lanes` is what the epoch's remaining fragments were dealt to when it was resumed with other lanes or another global batch
    than it began with; None for an epoch that runs as it was dealt at first.
    """

    epoch: int
    steps: int
    lanes: int
    global_batch: int
    fingerprint: str
    dealt: tuple[tuple[Fragment, ...], ...] | None = None

    def to_json(self) -> dict[str, Any]:
        dealt = None if self.dealt is None else [[list(f) for f in lane] for lane in self.dealt]
        return {**self.__dict__, "dealt": dealt}

    @staticmethod
    def from_json(tree: dict[str, Any]) -> "ReaderPosition":
        dealt = tree["dealt"]
        lanes = None if dealt is None else tuple(tuple(Fragment(*f) for f in lane) for lane in dealt)
        return ReaderPosition(**{**tree, "dealt": lanes})


class Reader:
    """Reads a split for one rank of `world_size`.

    With a seed the rows of each epoch are permuted; without one they come in the files' order. All ranks make the same number
    of steps in every epoch, `steps(epoch)`, known before the first one from the files' footers alone.
    """

    def __init__(
        self,
        files: DataFiles,
        schema: Schema,
        layout: InputLayout,
        *,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        seed: int | None = None,
        lanes: int = 1,
        window_rows: int = 16384,
        prefetch: int = 4,
    ):
        self.files, self.batch_size = files, batch_size
        self.rank, self.world_size = rank, world_size
        self.seed, self.window_rows, self.prefetch = seed, window_rows, prefetch
        self.lanes = lanes_for(world_size, lanes)
        self.global_batch = batch_size * world_size
        self.decoder = Decoder(files, schema, layout)
        self.assemble = Assembler(layout, len(schema.task), batch_size)
        self.wait_seconds = 0.0
        """How long the consumer has waited for batches so far."""
        self._resumed: tuple[int, int, Deal] | None = None  # epoch, steps done in it, its deal
        self._latest: tuple[int, Deal] | None = None

    def windows(self, epoch: int) -> Windows:
        return make_windows(self.files.groups, self.window_rows, self.seed, epoch)

    def _deal(self, epoch: int) -> Deal:
        if self._resumed and self._resumed[0] == epoch:
            return self._resumed[2]
        if self._latest is None or self._latest[0] != epoch:
            self._latest = (epoch, deal(self.windows(epoch).whole(), self.lanes, self.global_batch))
        return self._latest[1]

    def steps(self, epoch: int) -> int:
        """Steps of an epoch; of a resumed one, counted from where its remaining rows were dealt last."""
        return self._deal(epoch).steps

    def steps_done(self, epoch: int) -> int:
        return self._resumed[1] if self._resumed and self._resumed[0] == epoch else 0

    def rows_of_step(self, epoch: int, step: int) -> int:
        """Samples, on all ranks together, of the step that a batch with this position belongs to."""
        rows = self._deal(epoch).rows
        return min(self.global_batch, rows - (step - 1) * self.global_batch)

    def position(self, epoch: int, steps: int) -> ReaderPosition:
        """The position after `steps` steps of `epoch`, as a batch's `epoch` and `step` tell them."""
        redealt = self._deal(epoch).lanes if self._resumed and self._resumed[0] == epoch else None
        return ReaderPosition(epoch, steps, self.lanes, self.global_batch, self.files.fingerprint(), redealt)

    def resume(self, position: ReaderPosition) -> None:
        """Goes on at `position`. With the same lanes and global batch, the batches that follow are those that would have
        followed; otherwise each remaining row is read exactly once, in batches of the new size.

        Raises CheckpointError when the files are not those of the position and it lies within an epoch.
        """
        if position.steps and position.fingerprint != self.files.fingerprint():
            raise CheckpointError(
                "the training data's files changed since the checkpoint, which lies within an epoch, so that it cannot be told "
                "which rows were trained on. Restore the files, or start a new run in another run.dir."
            )
        begun = position.dealt
        if begun is None:
            begun = deal(self.windows(position.epoch).whole(), position.lanes, position.global_batch).lanes
        before = Deal(begun, position.global_batch)
        if (position.lanes, position.global_batch) == (self.lanes, self.global_batch):
            self._resumed = (position.epoch, position.steps, before)
        else:
            rest = before.remaining(position.steps)
            self._resumed = (position.epoch, 0, deal(rest, self.lanes, self.global_batch))

    def epoch(self, epoch: int) -> Generator[Batch, None, None]:
        """One epoch's batches, from its position on."""
        return self.epochs(epoch, epoch + 1)

    def epochs(self, first: int, end: int) -> Generator[Batch, None, None]:
        """The batches of epochs first .. end - 1, the first one from its position on.

        Raises DataError for bad rows, in the consumer's thread.
        """
        ahead: queue.Queue[Batch | BaseException | None] = queue.Queue(self.prefetch)
        stop = threading.Event()
        thread = threading.Thread(target=self._produce, args=(range(first, end), ahead, stop), name="reader", daemon=True)
        thread.start()
        try:
            while True:
                began = time.perf_counter()
                item = ahead.get()
                self.wait_seconds += time.perf_counter() - began
                if item is None:
                    return
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            stop.set()
            while thread.is_alive():  # a producer that waits for room finds it, sees `stop` and ends
                try:
                    ahead.get(timeout=0.05)
                except queue.Empty:
                    continue

    def _produce(self, epochs: range, ahead: "queue.Queue[Batch | BaseException | None]", stop: threading.Event) -> None:
        try:
            for epoch in epochs:
                for batch in self._batches(epoch):
                    if stop.is_set():
                        return
                    ahead.put(batch)
            ahead.put(None)
        except BaseException as error:  # handed over to the consumer, who raises it
            ahead.put(error)

    def _batches(self, epoch: int) -> Iterator[Batch]:
        dealt, windows = self._deal(epoch), self.windows(epoch)
        share = self.lanes // self.world_size
        mine = range(self.rank * share, (self.rank + 1) * share)
        opened = _OpenWindows(self.decoder, windows)
        first, quota = self.steps_done(epoch), dealt.quota
        lanes = [_Lane(dealt.lanes[i], quota[i], opened, skip=first * quota[i]) for i in mine]
        for step in range(first, dealt.steps):
            picks = [pick for lane in lanes for pick in lane.take()]
            yield self.assemble(picks, epoch, step + 1)


class _OpenWindows:
    """Decoded windows that lanes of this rank stand in; a window is dropped when its last reader leaves it."""

    def __init__(self, decoder: Decoder, windows: Windows):
        self.decoder, self.windows = decoder, windows
        self._open: dict[int, tuple[Rows, NDArray[np.int64]]] = {}
        self._readers: dict[int, int] = {}

    def enter(self, window: int) -> tuple[Rows, NDArray[np.int64]]:
        if window not in self._open:
            rows = self.decoder.read(self.windows.groups[window])
            self._open[window] = (rows, self.windows.permutation(window))
        self._readers[window] = self._readers.get(window, 0) + 1
        return self._open[window]

    def leave(self, window: int) -> None:
        self._readers[window] -= 1
        if not self._readers[window]:
            del self._open[window], self._readers[window]


class _Lane:
    """Runs through a lane's fragments, `quota` rows at a time."""

    def __init__(self, fragments: tuple[Fragment, ...], quota: int, opened: _OpenWindows, skip: int):
        self.quota, self.opened = quota, opened
        self.fragments: list[Fragment] = []
        for fragment in fragments:
            passed = min(skip, fragment.rows)
            skip -= passed
            if passed < fragment.rows:
                self.fragments.append(fragment._replace(start=fragment.start + passed))
        self.fragments.reverse()  # the next one is popped from the end
        self._current: tuple[Rows, NDArray[np.int64]] | None = None

    def take(self) -> Picks:
        picks, wanted = [], self.quota
        while wanted and self.fragments:
            fragment = self.fragments[-1]
            if self._current is None:
                self._current = self.opened.enter(fragment.window)
            rows, permutation = self._current
            stop = min(fragment.start + wanted, fragment.stop)
            picks.append((rows, permutation[fragment.start : stop]))
            wanted -= stop - fragment.start
            if stop < fragment.stop:
                self.fragments[-1] = fragment._replace(start=stop)
            else:
                self.fragments.pop()
                self.opened.leave(fragment.window)
                self._current = None
        return picks
