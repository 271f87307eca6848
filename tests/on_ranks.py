"""Runs a test's body in several real processes that form a group."""

import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from tests.ranks import spawn


def _start(rank: int, world: int, folder: str, body: Callable[[int, int, Path], None]) -> None:
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    store = dist.FileStore(f"{folder}/store", world)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world, timeout=timedelta(seconds=60))
    try:
        body(rank, world, Path(folder))
    finally:
        dist.destroy_process_group()


def on_ranks(body: Callable[[int, int, Path], None], world: int, folder: Path) -> None:
    """Runs body(rank, world, folder) in `world` processes; raises what one of them raised."""
    spawn(_start, world, world, str(folder), body)
