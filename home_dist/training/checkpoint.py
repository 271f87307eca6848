"""Sharded checkpoints that are whole or absent.

A checkpoint is a folder `step-00000123`: torch.distributed.checkpoint's shards, `state.json` (step, reader position, versions),
and `manifest.json` with the size and SHA-256 of every other file. It is written as `step-00000123.writing` and renamed when all
of it is on disk, so that a folder with the final name is complete. Nothing is read that does not agree with the manifest.
"""

import hashlib
import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
import torchrec
from torchrec.distributed import DistributedModelParallel
from torchrec.optim.keyed import KeyedOptimizer

import home_dist
from home_dist.data import ReaderPosition
from home_dist.embeddings.managed import ShardedManaged
from home_dist.errors import CheckpointError
from home_dist.training.ranks import OtherRankFailed, together

_MANIFEST, _STATE, _WRITING = "manifest.json", "state.json", ".writing"


@dataclass(frozen=True)
class TrainState:
    """What a checkpoint holds beside tensors. A step's random numbers are a function of (seed, step, rank): no state."""

    step: int
    """Optimizer steps done."""
    samples: int
    """Samples trained on so far, all ranks together."""
    finished: bool
    position: ReaderPosition
    world_size: int

    def to_json(self) -> dict[str, Any]:
        versions = {"home_dist": home_dist.__version__, "torch": torch.__version__, "torchrec": torchrec.__version__}
        return {**asdict(self), "position": self.position.to_json(), "versions": versions}

    @staticmethod
    def from_json(tree: dict[str, Any]) -> "TrainState":
        kept = {k: v for k, v in tree.items() if k != "versions"}
        return TrainState(**{**kept, "position": ReaderPosition.from_json(tree["position"])})


class Checkpoints:
    """The checkpoints of a run, in `folder`."""

    def __init__(self, folder: Path, keep_last: int):
        self.folder, self.keep_last = folder, keep_last

    def complete(self) -> list[Path]:
        """Complete checkpoints, oldest first."""
        if not self.folder.is_dir():
            return []
        named = (p for p in self.folder.glob("step-*") if not p.name.endswith(_WRITING))
        return sorted(p for p in named if (p / _MANIFEST).is_file())

    def newest(self) -> Path | None:
        return next(reversed(self.complete()), None)

    def save(self, model: DistributedModelParallel, optimizer: KeyedOptimizer, state: TrainState) -> Path:
        """Writes a checkpoint; every rank calls it. Raises CheckpointError on all ranks; what was there before stays."""
        final = self.folder / f"step-{state.step:08d}"
        if final in self.complete():
            return final
        writing = final.with_name(final.name + _WRITING)
        try:
            together(lambda: self._clear(writing))
            together(lambda: _write_shards(writing, model, optimizer))
            hashes: list[dict[str, Any]] = [{} for _ in range(dist.get_world_size())]
            dist.all_gather_object(hashes, together(lambda: _hashes_of_own_files(writing)))
            together(lambda: self._seal(writing, final, state, hashes))
        except (CheckpointError, OtherRankFailed):
            if not dist.get_rank():
                shutil.rmtree(writing, ignore_errors=True)  # all ranks have stopped writing; what is there fills the disk
            raise
        return final

    def _clear(self, writing: Path) -> None:
        """Removes what an interrupted save left, on the first rank."""
        if dist.get_rank():
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for left in self.folder.glob(f"*{_WRITING}"):
                shutil.rmtree(left)
            writing.mkdir()
        except OSError as error:
            raise _cannot_write(writing, error) from None

    def _seal(self, writing: Path, final: Path, state: TrainState, hashes: list[dict[str, Any]]) -> None:
        if dist.get_rank():
            return
        try:
            _write_durably(writing / _STATE, json.dumps(state.to_json(), indent=1).encode())
            files = {name: entry for part in hashes for name, entry in part.items()}
            files |= {name: _entry(writing / name) for name in (".metadata", _STATE)}
            _write_durably(writing / _MANIFEST, json.dumps({"files": files}, indent=1, sort_keys=True).encode())
            _sync(writing)
            writing.rename(final)
            _sync(self.folder)
            for old in self.complete()[: -self.keep_last]:
                shutil.rmtree(old)
        except OSError as error:
            raise _cannot_write(writing, error) from None


def read_state(checkpoint: Path) -> TrainState:
    """Raises CheckpointError for a missing or damaged one."""
    try:
        _check(checkpoint, _STATE, _manifest(checkpoint)[_STATE])
        return TrainState.from_json(json.loads((checkpoint / _STATE).read_text()))
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise _damaged(checkpoint, _STATE, repr(error)) from None


def load(checkpoint: Path, model: DistributedModelParallel, optimizer: KeyedOptimizer | None) -> TrainState:
    """Fills the sharded model and, if given, the optimizer, on any number of ranks; every rank calls it.

    Each rank checks a share of the files against the manifest before any of them is read. Raises CheckpointError.
    """
    together(lambda: _verify(checkpoint))
    if optimizer is not None:
        # AdamW makes its state in its first step, and loading fills what is there. The values that this step of zero
        # gradients changes (by weight decay) are overwritten below.
        optimizer.init_state()
    together(lambda: _refuse_other_ranks(checkpoint, model))
    tensors = _tensors(model, optimizer)
    together(lambda: _read_shards(checkpoint, tensors))
    model.load_state_dict(tensors["model"])
    if optimizer is not None:
        loaded = tensors["optimizer"]
        stateless: dict[str, Any] = {key: {} for key, state in optimizer.state_dict()["state"].items() if not state}
        optimizer.load_state_dict({**loaded, "state": {**loaded["state"], **stateless}})
    return read_state(checkpoint)


def _refuse_other_ranks(checkpoint: Path, model: DistributedModelParallel) -> None:
    before, now = read_state(checkpoint).world_size, dist.get_world_size()
    if before != now and any(isinstance(m, ShardedManaged) for m in model.modules()):
        raise CheckpointError(
            f"{checkpoint}: was written by {before} ranks, but there are {now}: tables with managed ids keep each rank's "
            f"range of ids, which TorchRec does not deal anew. Start {before} ranks."
        )


def _tensors(model: DistributedModelParallel, optimizer: KeyedOptimizer | None) -> dict[str, Any]:
    """Parameters that the optimizer keeps nothing for are left out: torch.distributed.checkpoint takes an empty dictionary for
    an object, of which it writes the first rank's alone, and then misses it for a table that lies on another rank."""
    tensors = {"model": model.state_dict()}
    if optimizer is None:
        return tensors
    whole = optimizer.state_dict()
    return {**tensors, "optimizer": {**whole, "state": {key: state for key, state in whole["state"].items() if state}}}


def _write_shards(writing: Path, model: DistributedModelParallel, optimizer: KeyedOptimizer) -> None:
    try:
        dcp.save(_tensors(model, optimizer), storage_writer=dcp.FileSystemWriter(writing, sync_files=True))
    except (dcp.api.CheckpointException, OSError, RuntimeError) as error:
        raise _cannot_write(writing, error) from None


def _read_shards(checkpoint: Path, tensors: dict[str, Any]) -> None:
    try:
        dcp.load(tensors, storage_reader=dcp.FileSystemReader(checkpoint))
    except (dcp.api.CheckpointException, RuntimeError, ValueError) as error:
        raise CheckpointError(
            f"{checkpoint}: does not fit this model: {_first_line(error)}. "
            "It was written with another schema or [model]; use the run's own config.toml."
        ) from None


def _verify(checkpoint: Path) -> None:
    files = _manifest(checkpoint)
    rank, world = dist.get_rank(), dist.get_world_size()
    for name in sorted(files)[rank::world]:
        _check(checkpoint, name, files[name])


def _manifest(checkpoint: Path) -> dict[str, Any]:
    try:
        files = json.loads((checkpoint / _MANIFEST).read_text())["files"]
        if not isinstance(files, dict):
            raise ValueError("no list of files")
        return files
    except FileNotFoundError:
        raise CheckpointError(f"{checkpoint}: no {_MANIFEST}, so this is no complete checkpoint. Use another one.") from None
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(checkpoint, _MANIFEST, repr(error)) from None


def _check(checkpoint: Path, name: str, expected: dict[str, Any]) -> None:
    path = checkpoint / name
    if not path.is_file():
        raise _damaged(checkpoint, name, "the file is missing")
    if (size := path.stat().st_size) != expected["bytes"]:
        raise _damaged(checkpoint, name, f"{size} bytes instead of {expected['bytes']}")
    if _sha256(path) != expected["sha256"]:
        raise _damaged(checkpoint, name, "its content has changed since it was written")


def _hashes_of_own_files(writing: Path) -> dict[str, Any]:
    # torch.distributed.checkpoint names a rank's files __RANK_N.distcp.
    return {p.name: _entry(p) for p in writing.glob(f"__{dist.get_rank()}_*")}


def _entry(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": _sha256(path)}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_durably(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _first_line(error: BaseException) -> str:
    """The cause that a user can act on: a CheckpointException carries one error per rank."""
    failures = getattr(error, "failures", None)
    if failures:
        error = next(iter(failures.values()))[0]
    return next((line for line in str(error).splitlines() if line.strip()), repr(error))


def _cannot_write(path: Path, error: BaseException) -> CheckpointError:
    # torch's writer tells a full disk as "unexpected pos": look at the disk itself.
    existing = next((p for p in (path, *path.parents) if p.exists()), Path("/"))
    full = shutil.disk_usage(existing).free < 2**20
    reason = "No space left on device" if full else _first_line(error)
    return CheckpointError(
        f"{path}: the checkpoint could not be written: {reason}. "
        "Checkpoints written before are intact; make room or correct run.dir, then start the same command again."
    )


def _damaged(checkpoint: Path, name: str, reason: str) -> CheckpointError:
    return CheckpointError(
        f"{checkpoint / name}: damaged checkpoint: {reason}. Remove {checkpoint} to go on from the one before it."
    )
