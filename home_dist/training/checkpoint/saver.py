"""Writes checkpoints whole or not at all, while training continues.

A save first copies this rank's share of all tensors to the CPU; training waits only for this copy. Then a thread writes the
copy, with its own process group. Files are written to `step-00000123.writing` and fsynced. Once the folder holds the manifest
it gets its final name, so that every folder with a final name is complete.
"""

import shutil
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torchrec.distributed import DistributedModelParallel
from torchrec.optim.keyed import KeyedOptimizer

from home_dist.distributed import health
from home_dist.distributed.ranks import OtherRankFailed, together
from home_dist.errors import CheckpointError, UserError
from home_dist.files.json_files import json_text
from home_dist.files.whole import sync, write_whole
from home_dist.training.checkpoint.contents import optimizer_pieces, table_plans, weight_pieces
from home_dist.training.checkpoint.folder import STATE, WRITING, Checkpoints
from home_dist.training.checkpoint.manifest import Files, cannot_write, entry, write_manifest
from home_dist.training.checkpoint.pieces import METADATA, Piece, write_pieces
from home_dist.training.checkpoint.state import Record, TrainState, versions

Result = TypeVar("Result")


class Saver:
    """Every rank has one and calls `save` at the same steps."""

    def __init__(
        self,
        checkpoints: Checkpoints,
        config: dict[str, Any],
        asynchronous: bool,
        patience: float = 120.0,
        meaning: str | None = None,
    ):
        """config: the run's, stored in each checkpoint, and so is `meaning`, its schema's fingerprint. patience: seconds of
        waiting for a save before this rank asks whether the others are alive; as long as they are, a save may take any time."""
        self.checkpoints, self.config, self.patience, self.meaning = checkpoints, config, patience, meaning
        # Two threads must not share one process group: the order of their messages would differ between ranks.
        self.group = dist.new_group(backend="gloo") if asynchronous else None
        self.stalls: list[float] = []
        """Seconds that training waited for each save."""
        self.seconds: list[float] = []
        """Seconds from the copy to the renamed folder, per save."""
        self._asynchronous = asynchronous
        self._copies: dict[tuple[str, tuple[int, ...]], torch.Tensor] = {}
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def save(
        self, model: DistributedModelParallel, optimizer: KeyedOptimizer, state: TrainState, meter: Any | None = None
    ) -> Path:
        """Starts a checkpoint; with asynchronous=False also finishes it. meter: this rank's entry of TrainState.meter.

        Raises the error of an earlier save. A failed save raises CheckpointError on one rank and OtherRankFailed on the others;
        older checkpoints stay.
        """
        began = time.perf_counter()
        self.wait()
        final = self.checkpoints.path(state.step)
        if final not in self.checkpoints.complete():
            pieces = [*weight_pieces(model), *optimizer_pieces(model, optimizer)]
            record = Record(state, table_plans(model), self.config, versions(), self.meaning)
            if self._asynchronous:
                job = self._job(final, self._copied(pieces), record, meter)
                self._thread = threading.Thread(target=job, name="checkpoint", daemon=True)
                self._thread.start()
            else:
                self._write(final, pieces, record, meter)
                self.seconds.append(time.perf_counter() - began)
        self.stalls.append(time.perf_counter() - began)
        return final

    @property
    def writing(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def check(self) -> None:
        """Raises the error of a finished background save; does not wait for one under way."""
        if self._thread is not None and not self._thread.is_alive():
            self.wait()

    def wait(self) -> None:
        """Waits for the background save. Raises its error."""
        if self._thread is not None:
            self._thread.join(self.patience)
            while self._thread.is_alive():
                if health.someone_is_missing():
                    raise RuntimeError("Timed out waiting for a checkpoint that all ranks write together")
                self._thread.join(self.patience)
            self._thread = None
        error, self._error = self._error, None
        if error is not None:
            raise error

    def settle(self, error: Exception) -> Exception:
        """After training failed with `error`: waits for a save under way, in which other ranks take part. Returns the error to
        raise: the save's error if it explains why contact to another rank was lost, else `error`."""
        try:
            self.wait()
        except (UserError, OtherRankFailed) as cause:
            return error if isinstance(error, (UserError, OtherRankFailed)) else cause
        except Exception:
            return error
        return error

    def _copied(self, pieces: Iterable[Piece]) -> list[Piece]:
        """Copies pieces to the CPU, into memory that the next save reuses; a GPU's into pinned memory, in which copies run side
        by side at the speed of the link."""
        copied, of_gpu = [], False
        for piece in pieces:
            copy = self._copies.get((piece.name, piece.offsets))
            if copy is None or copy.shape != piece.values.shape or copy.dtype != piece.values.dtype:
                pinned = piece.values.is_cuda
                copy = torch.empty(piece.values.shape, dtype=piece.values.dtype, pin_memory=pinned)
                self._copies[piece.name, piece.offsets] = copy
            copy.copy_(piece.values.detach(), non_blocking=True)
            of_gpu |= piece.values.is_cuda
            copied.append(replace(piece, values=copy))
        if of_gpu:
            torch.cuda.synchronize()
        return copied

    def _job(self, final: Path, pieces: list[Piece], record: Record, meter: Any | None) -> Callable[[], None]:
        def run() -> None:
            began = time.perf_counter()
            try:
                self._write(final, pieces, record, meter)
                self.seconds.append(time.perf_counter() - began)
            except BaseException as error:  # the training thread raises it
                self._error = error

        return run

    def _write(self, final: Path, pieces: list[Piece], record: Record, meter: Any | None) -> None:
        writing = final.with_name(final.name + WRITING)

        def together_writing(action: Callable[[], Result]) -> Result:
            def guarded() -> Result:
                try:
                    return action()
                except (dcp.api.CheckpointException, OSError, RuntimeError) as error:
                    raise cannot_write(writing, error) from None

            return together(guarded, self.group)

        try:
            together_writing(lambda: self._begin(writing))
            together_writing(lambda: write_pieces(writing, pieces, self.group))
            parts: list[tuple[Files, Any]] = [({}, None)] * dist.get_world_size()
            dist.all_gather_object(parts, (together_writing(lambda: _own_files(writing)), meter), self.group)
            files = {name: e for part, _ in parts for name, e in part.items()}
            whole = replace(record, state=replace(record.state, meter=[m for _, m in parts] if meter is not None else None))
            together_writing(lambda: self._seal(writing, final, whole, files))
        except (CheckpointError, OtherRankFailed):
            if not dist.get_rank():
                shutil.rmtree(writing, ignore_errors=True)  # all ranks have stopped writing; the rest would fill the disk
            raise

    def _begin(self, writing: Path) -> None:
        """On the first rank: makes an empty folder to write to."""
        if dist.get_rank():
            return
        self.checkpoints.folder.mkdir(parents=True, exist_ok=True)
        self.checkpoints.clear_unfinished()
        writing.mkdir()

    def _seal(self, writing: Path, final: Path, record: Record, files: Files) -> None:
        """On the first rank: writes state and manifest, gives the folder its final name, removes old checkpoints."""
        if dist.get_rank():
            return
        write_whole(writing / STATE, json_text(record.to_json()))
        write_manifest(writing, files | {name: entry(writing / name) for name in (METADATA, STATE)})
        sync(writing)
        writing.rename(final)
        sync(self.checkpoints.folder)
        self.checkpoints.prune()


def _own_files(writing: Path) -> Files:
    # torch.distributed.checkpoint names a rank's files __RANK_N.distcp.
    return {p.name: entry(p) for p in writing.glob(f"__{dist.get_rank()}_*")}
