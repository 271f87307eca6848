"""Forms the process group from torchrun's variables; without them, a group of one process."""

import os
import socket
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist

from home_dist.config import DistributedSection
from home_dist.distributed import health
from home_dist.errors import DistributedError, UserError

Result = TypeVar("Result")


class OtherRankFailed(Exception):
    """Another rank reports the error; this rank leaves silently with the same exit code."""

    def __init__(self, exit_code: int):
        super().__init__(f"another rank failed with exit code {exit_code}")
        self.exit_code = exit_code


@dataclass(frozen=True)
class Ranks:
    rank: int
    world_size: int
    local_rank: int
    local_world_size: int
    device: torch.device
    backend: str
    threads: int

    @property
    def first(self) -> bool:
        return self.rank == 0


def form_ranks(config: DistributedSection) -> Ranks:
    """Joins the process group: gloo on CPUs; with GPUs, nccl for CUDA tensors. Raises DistributedError within the timeout."""
    rank, world = _variable("RANK", 0), _variable("WORLD_SIZE", 1)
    local_rank, local_world = _variable("LOCAL_RANK", 0), _variable("LOCAL_WORLD_SIZE", 1)
    if not (rank < world and local_rank < local_world <= world):
        raise DistributedError(
            f"RANK={rank} of WORLD_SIZE={world} with LOCAL_RANK={local_rank} of LOCAL_WORLD_SIZE={local_world} does not fit "
            "together: ranks are numbered from 0 up to the number of them. Start with torchrun, which sets all four."
        )
    device, backend = _device(local_rank, local_world)
    threads = config.threads or max(1, len(os.sched_getaffinity(0)) // local_world)
    torch.set_num_threads(threads)
    timeout = timedelta(seconds=config.timeout)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if "RANK" in os.environ:
                dist.init_process_group(backend, rank=rank, world_size=world, timeout=timeout)
            else:
                dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1, timeout=timeout)
    except (RuntimeError, ValueError) as error:
        address = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        raise DistributedError(
            f"rank {rank} on {socket.gethostname()} could not join {world} ranks at {address} within {config.timeout:g} s: "
            f"{str(error).splitlines()[0]}. Check that all ranks were started and reach that address, or "
            "raise distributed.timeout."
        ) from None
    health.begin(rank, world, config.timeout)
    if device.type == "cuda":
        health.watch_while_gpus_wait()
    return Ranks(rank, world, local_rank, local_world, device, backend, threads)


def leave_ranks() -> None:
    if dist.is_initialized():
        health.stop_watching()
        health.meet()
        dist.barrier()  # the first rank hosts the rendezvous store and must leave last
        dist.destroy_process_group()


def together(action: Callable[[], Result], group: dist.ProcessGroup | None = None) -> Result:
    """Runs `action` on each rank. If it fails on some ranks, all ranks stop, and the first failed rank reports why.

    Raises the UserError on that rank and OtherRankFailed on all others, so that the message appears once. A rank may take any
    time: the others wait as long as it answers. group: a process group of all ranks, for a thread whose collectives must not
    mix with other threads'. Without a process group this is the action alone.
    """
    if not dist.is_initialized():
        return action()
    result, error, failures = tried_together(action, UserError, group)
    if failures:
        if error is not None and min(failures) == dist.get_rank():
            raise error
        raise OtherRankFailed(failures[min(failures)].exit_code)
    return result  # type: ignore[return-value]


@dataclass(frozen=True)
class Failure:
    exit_code: int
    text: str


def tried_together(
    action: Callable[[], Result], caught: type[Exception], group: dist.ProcessGroup | None = None
) -> tuple[Result | None, Exception | None, dict[int, Failure]]:
    """Runs `action` on each rank: (its result here, its error here, by rank the failures, which all ranks get). An error of
    another kind than `caught` is raised on its rank alone. group: see `together`."""
    result, error = None, None
    try:
        result = action()
    except caught as found:
        error = found
    health.meet("main" if group is None else group.group_name)
    told: list[Failure | None] = [None] * dist.get_world_size()
    dist.all_gather_object(told, None if error is None else _failure(error), group)
    return result, error, {rank: failure for rank, failure in enumerate(told) if failure is not None}


def _failure(error: Exception) -> Failure:
    if isinstance(error, UserError):
        return Failure(error.exit_code or 1, str(error))
    return Failure(1, f"{type(error).__name__}: {error}")


def _device(local_rank: int, local_world: int) -> tuple[torch.device, str]:
    if not torch.cuda.is_available():
        return torch.device("cpu"), "gloo"
    gpus = torch.cuda.device_count()
    if local_world > gpus:
        raise DistributedError(
            f"{local_world} ranks on {socket.gethostname()}, which has {gpus} GPUs: start at most one rank per GPU, "
            "or hide the GPUs with CUDA_VISIBLE_DEVICES= to train on CPU."
        )
    device = torch.device("cuda", local_rank)
    torch.cuda.set_device(device)
    return device, "cpu:gloo,cuda:nccl"


def _variable(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    if not text.isdigit():
        raise DistributedError(f"environment variable {name} is {text!r}, not a number; start with torchrun or unset it")
    return int(text)


def lost_contact(error: BaseException) -> DistributedError | None:
    """The error to raise if a collective failed because another rank is gone; None for other errors."""
    text = str(error)
    signs = (
        *("onnection closed by peer", "onnection reset by peer", "Timed out waiting", "timed out", "Broken pipe", "NCCL"),
        "timeout caused pair closure",
    )
    if not isinstance(error, RuntimeError) or not any(sign in text for sign in signs):
        return None
    rank = os.environ.get("RANK", "0")
    first = next(line for line in text.splitlines() if line.strip())
    others = "".join(f"\n  {line}" for line in health.who_is_there())
    return DistributedError(
        f"rank {rank} on {socket.gethostname()} lost contact with another rank ({first.strip()[:200]}). The first error of the "
        f"job tells why; start the same command again to go on from the newest checkpoint.{others}"
    )
