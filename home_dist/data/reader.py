"""One rank's reader of a split: batches in the epoch's order, prefetched by threads, with exact resume."""

import queue
import threading
import time
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from home_dist.config.data import NegativesSection
from home_dist.data.ahead import Ahead, FragmentRows
from home_dist.data.assemble import Assembler, RowRanges
from home_dist.data.bad_rows import BadRowLog
from home_dist.data.batch import Batch
from home_dist.data.bins import bin_size, pack
from home_dist.data.buffers import Buffers
from home_dist.data.decode import Decoder
from home_dist.data.files import DataFiles
from home_dist.data.negatives import Kept, NegativeSampler
from home_dist.data.order import Deal, Fragment, Windows, cut, deal, lanes_for, make_windows
from home_dist.data.position import ReaderPosition
from home_dist.data.requests import Requests, RequestSampler, sampler_of
from home_dist.data.sampling import Sampler
from home_dist.errors import CheckpointError
from home_dist.schema import InputLayout, Schema


@dataclass(frozen=True)
class WindowSizes:
    """How an epoch is cut into windows. An epoch keeps its sizes, even if it is resumed with another memory budget."""

    window_rows: int
    whole_rows: int | None
    """Row groups of more rows are read in slices of `window_rows`; None: all are read whole."""
    bin_rows: int = 1
    """With `data.request`: rows of a bin, see bins.py."""

    @staticmethod
    def of(memory_mb: float, row_bytes: float, window_rows: int, lanes: int) -> "WindowSizes":
        """Half of the budget is for the lanes' current windows, if one rank has all lanes; half is for windows read ahead.

        A window has up to `window_rows` + `whole_rows` rows. row_bytes: bytes of a decoded row.
        """
        of_a_lane = max(1, int(memory_mb * 2**20 / 2 / lanes / row_bytes))
        window_rows = max(1, min(window_rows, of_a_lane // 2))
        return WindowSizes(window_rows, of_a_lane - window_rows)


_KEPT_EPOCHS = 8
"""Epochs whose order is kept: the steps of all epochs are asked for at the start, and the consumer may be an epoch behind."""
_IDLE = 1 / 16
"""Share of the memory budget that may be idle, until arrays are made in it."""
_VALUE_BYTES = 8
"""Bytes of a decoded value in memory, without the temporary memory of decoding."""


class Reader:
    """Reads a split for one rank of `world_size`.

    With a seed the rows of each epoch are permuted; without one they come in the order of the files. All ranks make the same
    number of steps in an epoch, `steps(epoch)`, which is known from the files' footers before the first step.
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
        memory_mb: float = 1024,
        threads: int = 1,
        pin_memory: bool = False,
        sample: Mapping[str, float] | None = None,
        sample_seed: int = 0,
        bad_rows: BadRowLog | None = None,
        unknown_labels: bool = False,
        requests: Requests | None = None,
        kept: Kept | None = None,
        negatives: NegativesSection | None = None,
        dedup: bool = False,
    ):
        """memory_mb: bound of decoded rows in memory. threads: number of decoding threads; the order of rows does not depend
        on it. prefetch: batches made ahead.

        bad_rows: log of bad rows. Bad rows are then replaced by padding at the end of their batch, and the number of steps
        stays. Without a log, bad rows are errors. unknown_labels: labels that are no values of their kind are taken as unknown.

        requests: of the files, whose rows are then kept together, in bins (bins.py). Raises ConfigError if the largest does not
        fit in a batch. kept, negatives: of the files, whose other rows are then left out (negatives.py). dedup: whether batches
        tell the distinct ids of histories (distinct.py).
        """
        self.files, self.batch_size = files, batch_size
        self.rank, self.world_size = rank, world_size
        self.seed, self.window_rows, self.prefetch = seed, window_rows, prefetch
        self.threads, self.pin_memory = threads, pin_memory
        self.lanes = lanes_for(world_size, lanes)
        self.global_batch = batch_size * world_size
        self.requests = requests
        self.reads_requests = bool(files.request)
        """Whether batches tell the request of each sample."""
        if requests is not None:
            self._slices = lru_cache(2)(requests.slices)  # epochs share them
        self.sampler: Sampler | None = sampler_of(files, requests, sample, sample_seed) if sample else None
        if kept is not None:
            self.sampler = NegativeSampler(kept)
        self._fingerprint = (self.sampler or requests or files).fingerprint()
        self.bad_rows = bad_rows
        heads = requests.head_rows() if requests else None
        self.decoder = Decoder(files, schema, layout, self.sampler, bad_rows, heads, unknown_labels, negatives)
        self.buffers = Buffers(int(memory_mb * 2**20 * _IDLE))
        self.assemble = Assembler(layout, len(schema.task), batch_size, self.buffers, bool(files.request), dedup)
        row_bytes = files.row_values * _VALUE_BYTES
        self.sizes = WindowSizes.of(memory_mb, row_bytes, window_rows, lanes)
        if requests is not None:
            lane_rows = self.global_batch / self.lanes
            self.sizes = replace(self.sizes, bin_rows=bin_size(requests, batch_size, lane_rows, self.sizes.window_rows))
        self.most_rows = int(memory_mb * 2**20 / row_bytes)
        self.wait_seconds = 0.0
        """Seconds that the consumer has waited for batches so far."""
        self._resumed: tuple[int, int, Deal, WindowSizes] | None = None  # epoch, steps done in it, its deal and windows
        self._latest: dict[int, _Epoch] = {}

    def windows(self, epoch: int) -> Windows:
        return self._epoch(epoch).windows

    def _windows(self, epoch: int, sizes: WindowSizes) -> Windows:
        whole = sizes.whole_rows
        if self.requests is not None:
            sampler = self.sampler if isinstance(self.sampler, RequestSampler) else None
            slices, kept = self._slices(whole, sizes.window_rows, sampler), None if sampler is None else sampler.kept
            return pack(self.requests, slices, kept, sizes.window_rows, sizes.bin_rows, self.seed, epoch)
        groups = list(self.files.groups) if whole is None else cut(self.files.groups, whole, sizes.window_rows)
        if self.sampler is not None:
            groups = self.sampler.sample(groups)
        return make_windows(groups, sizes.window_rows, self.seed, epoch)

    def _epoch(self, epoch: int) -> "_Epoch":
        latest = self._latest.get(epoch)
        if latest is None:
            if self._resumed and self._resumed[0] == epoch:
                _, _, dealt, sizes = self._resumed
                latest = _Epoch(self._windows(epoch, sizes), dealt)
            else:
                windows = self._windows(epoch, self.sizes)
                latest = _Epoch(windows, deal(windows.whole(), self.lanes, self.global_batch // self.sizes.bin_rows))
            self._latest = {**dict(list(self._latest.items())[1 - _KEPT_EPOCHS :]), epoch: latest}
        return latest

    def steps(self, epoch: int) -> int:
        """Number of steps of an epoch; of a resumed one, counted from where its remaining rows were dealt last."""
        return self._epoch(epoch).dealt.steps

    def steps_done(self, epoch: int) -> int:
        return self._resumed[1] if self._resumed and self._resumed[0] == epoch else 0

    def rows_of_step(self, epoch: int, step: int) -> int:
        """Number of rows that all ranks together read in a step, counted from 1."""
        return int(self._epoch(epoch).rows_by_step[step - 1])

    def position(self, epoch: int, steps: int) -> ReaderPosition:
        """The position after `steps` steps of `epoch`. Arguments are a trained batch's `epoch` and `step`."""
        resumed = self._resumed if self._resumed and self._resumed[0] == epoch else None
        sizes = resumed[3] if resumed else self.sizes
        return ReaderPosition(
            epoch,
            steps,
            self.lanes,
            self.global_batch,
            self._fingerprint,
            resumed[2].lanes if resumed else None,
            sizes.window_rows,
            sizes.whole_rows,
            sizes.bin_rows if self.requests is not None else None,
        )

    def resume(self, position: ReaderPosition) -> None:
        """Resumes at `position`. With the same lanes and global batch, the same batches follow as without the interruption;
        otherwise each remaining row is read exactly once, in batches of the new size.

        Raises CheckpointError when the position lies within an epoch and the files or `data.request` have changed, or the
        batch size does not fit the epoch's bins.
        """
        within = position.steps > 0 or position.dealt is not None
        if within:
            self._refuse_other_bins(position.bin_rows)
        known = {self._fingerprint}
        if position.window_rows is None and self.sampler is None:
            known.add(self.files.older_fingerprint())
        if position.steps and position.fingerprint not in known:
            raise CheckpointError(
                "the training data's files changed since the checkpoint, which lies within an epoch, so that it cannot be told "
                "which rows were trained on. Restore the files, or start a new run in another run.dir."
            )
        self._resumed, self._latest = None, {}
        if self.requests is not None and not within:
            return
        sizes = self.sizes
        if within:
            sizes = WindowSizes(position.window_rows or self.window_rows, position.whole_rows, position.bin_rows or 1)
        lanes, batch_before = position.dealt, position.global_batch // sizes.bin_rows
        if lanes is None:
            lanes = deal(self._windows(position.epoch, sizes).whole(), position.lanes, batch_before).lanes
        before = Deal(lanes, batch_before)
        if (position.lanes, position.global_batch) == (self.lanes, self.global_batch):
            self._resumed = (position.epoch, position.steps, before, sizes)
        else:
            again = deal(before.remaining(position.steps), self.lanes, self.global_batch // sizes.bin_rows)
            self._resumed = (position.epoch, 0, again, sizes)

    def _refuse_other_bins(self, bin_rows: int | None) -> None:
        """bin_rows: of the epoch that is resumed; None if it keeps no requests together."""
        if (bin_rows is None) != (self.requests is None):
            was = "without data.request" if bin_rows is None else "with data.request"
            raise CheckpointError(
                f"the checkpoint lies within an epoch that began {was}, which orders rows in another way. Set data.request "
                "back, or start a new run in another run.dir."
            )
        if bin_rows is not None and self.batch_size % bin_rows:
            raise CheckpointError(
                f"train.batch_size = {self.batch_size:,}: the checkpoint lies within an epoch whose requests are packed "
                f"into bins of {bin_rows:,} rows, and a batch must hold whole bins. Set train.batch_size to {bin_rows:,}, "
                f"{2 * bin_rows:,}, {3 * bin_rows:,} or another multiple of {bin_rows:,}, at least until this epoch ends."
            )

    def epoch(self, epoch: int) -> Generator[Batch, None, None]:
        """The batches of one epoch, from the resumed position on."""
        return self.epochs(epoch, epoch + 1)

    def epochs(self, first: int, end: int) -> Generator[Batch, None, None]:
        """The batches of epochs first .. end - 1; those of a resumed epoch start at its position.

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
            while thread.is_alive():  # makes room for a waiting producer, which then sees `stop` and ends
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
        except BaseException as error:  # passed to the consumer, which raises it
            ahead.put(error)

    def _batches(self, epoch: int) -> Iterator[Batch]:
        dealt, windows = self._epoch(epoch).dealt, self._epoch(epoch).windows
        share = self.lanes // self.world_size
        own_lanes = range(self.rank * share, (self.rank + 1) * share)
        first, quota = self.steps_done(epoch), dealt.quota
        lanes = [_Lane(dealt.lanes[i], quota[i], skip=first * quota[i]) for i in own_lanes]
        coming = sorted((step, fragment) for lane in lanes for step, fragment in lane.coming())
        fragments, most = [f for _, f in coming], max(1, len(lanes))
        ahead = Ahead(self.decoder, windows, fragments, self.buffers, self.threads, most, self.most_rows)
        try:
            for step in range(first, dealt.steps):
                ranges = [r for lane in lanes for r in lane.take(ahead)]
                batch = self.assemble(ranges, epoch, step + 1)
                yield batch.pin_memory() if self.pin_memory else batch
        finally:
            ahead.close()


@dataclass(frozen=True)
class _Epoch:
    windows: Windows
    dealt: Deal

    @cached_property
    def rows_by_step(self) -> NDArray[np.int64]:
        """(steps,): rows that all ranks together read in each step."""
        return self.windows.rows_by_step(self.dealt)


class _Lane:
    """Runs through a lane's fragments, `quota` rows at a time."""

    def __init__(self, fragments: tuple[Fragment, ...], quota: int, skip: int):
        self.quota = quota
        self.fragments: list[Fragment] = []
        for fragment in fragments:
            passed = min(skip, fragment.rows)
            skip -= passed
            if passed < fragment.rows:
                self.fragments.append(fragment._replace(start=fragment.start + passed))
        self.fragments.reverse()  # the next one is popped from the end
        self._current: FragmentRows | None = None
        self._at = 0

    def coming(self) -> Iterator[tuple[int, Fragment]]:
        """The fragments, each with the number of steps until the lane reaches it."""
        rows = 0
        for fragment in reversed(self.fragments):
            yield rows // self.quota, fragment
            rows += fragment.rows

    def take(self, ahead: Ahead) -> RowRanges:
        ranges, wanted = [], self.quota
        while wanted and self.fragments:
            fragment = self.fragments[-1]
            if self._current is None:
                self._current, self._at = ahead.enter(fragment), 0
            count = min(wanted, fragment.rows - self._at)
            ranges.append(self._current.between(self._at, self._at + count))
            wanted -= count
            self._at += count
            if self._at == fragment.rows:
                self.fragments.pop()
                ahead.leave(fragment)
                self._current = None
        return ranges
