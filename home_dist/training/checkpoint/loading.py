"""Loads a checkpoint into a sharded model and its optimizers, on any number of ranks and under any plan."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torchrec.distributed import DistributedModelParallel
from torchrec.optim.keyed import KeyedOptimizer

from home_dist.config import CheckpointSection
from home_dist.distributed.ranks import together
from home_dist.errors import CheckpointError
from home_dist.training.checkpoint.contents import load_optimizer, load_weights, refuse_unknown
from home_dist.training.checkpoint.folder import Checkpoints, problem_of, read_record
from home_dist.training.checkpoint.manifest import Damaged, first_line, read_manifest, verify
from home_dist.training.checkpoint.reading import trusted
from home_dist.training.checkpoint.state import Record, TrainState

Result = TypeVar("Result")


def load(
    checkpoint: Path, model: DistributedModelParallel, optimizer: KeyedOptimizer | None, meaning: str | None = None
) -> TrainState:
    """Fills the sharded model and, if given, the optimizer. Collective. meaning: fingerprint of the schema in the run's folder.

    Before any rank reads a file, all files are checked against the manifest; each rank checks a share. Raises CheckpointError.
    """
    together(lambda: _offering(checkpoint, _verify_share))
    record = together(lambda: read_record(checkpoint))
    together(lambda: record.refuse_other_meaning(checkpoint, meaning))
    together(lambda: _fill(checkpoint, record, model, optimizer))
    return record.state


def set_damaged_aside(checkpoints: Checkpoints, say: Callable[[str], None]) -> None:
    """Renames damaged checkpoints that are newer than the newest intact one, and reports each. Collective; each rank checks a
    share of the files."""
    rank, world = dist.get_rank(), dist.get_world_size()
    complete = [checkpoints.complete() if not rank else []]
    dist.broadcast_object_list(complete)
    for path in reversed(complete[0]):
        began = time.monotonic()
        say(f"checking {path} on {world} rank{'s' if world > 1 else ''}")
        problems: list[CheckpointError | None] = [None] * world
        own_problem = together(lambda p=path: problem_of(p, slice(rank, None, world)))  # type: ignore[misc]
        dist.all_gather_object(problems, own_problem)
        problem = next((p for p in problems if p is not None), None)
        if problem is None:
            say(f"{path}: intact, checked in {time.monotonic() - began:.0f} s")
            return
        aside = together(lambda p=path: checkpoints.set_aside(p) if not rank else p)  # type: ignore[misc]
        say(f"note: {problem} Set aside as {aside}.")


def read_offering(checkpoint: Path) -> Record:
    """Reads state.json. For a missing or damaged checkpoint raises a CheckpointError that offers an intact one."""
    return _offering(checkpoint, read_record)


def _offering(checkpoint: Path, action: Callable[[Path], Result]) -> Result:
    try:
        return action(checkpoint)
    except Damaged as error:
        raise Checkpoints(checkpoint.parent, CheckpointSection()).with_offer(checkpoint, error) from None


def _verify_share(checkpoint: Path) -> None:
    names = sorted(read_manifest(checkpoint))
    verify(checkpoint, names[dist.get_rank() :: dist.get_world_size()])


def _fill(checkpoint: Path, record: Record, model: DistributedModelParallel, optimizer: KeyedOptimizer | None) -> None:
    stored = trusted(checkpoint)
    try:
        refuse_unknown(model, stored)
        if optimizer is not None:
            load_optimizer(model, optimizer, stored, record.plan)
        load_weights(model, stored)
    except (dcp.api.CheckpointException, RuntimeError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"{checkpoint}: does not fit this model: {first_line(error)}. "
            "It was written with another schema or [model]; use the run's own config.toml."
        ) from None
