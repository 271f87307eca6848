"""What a checkpoint of a run costs, and starting again from it: bytes of each rank, and seconds at given speeds.

As training/checkpoint/ does it: each rank copies its part to its host's memory, for which training waits; then writes it, and
hashes what it has written, beside training. A restart checks all files against the manifest, each rank a share of them, and
then each rank reads its own part. Initial values are not drawn where a checkpoint follows.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from home_dist.planning.estimate import TableBytes
from home_dist.planning.probe import DenseCost
from home_dist.planning.topology import Machines

HASHED = 1.5
"""GB/s of SHA-256 by one thread, as processors with instructions for it have (benchmarks/results/checkpoints.md)."""
_DENSE_NUMBERS = 3  # of a dense parameter: itself, and AdamW's two moments


@dataclass(frozen=True)
class Speeds:
    """GB/s (1e9) of the place of checkpoints, in one direction."""

    host: float = 2.0
    """Of one host, to its disk or to the store."""
    store: float | None = None
    """Of the store, for all hosts together; None if the hosts do not share one."""


@dataclass(frozen=True)
class CheckpointCost:
    written: NDArray[np.float64]
    """(ranks,) bytes."""
    host_copies: float
    """Bytes of the fullest host's memory that the copies take."""
    stall: float
    """Seconds that training waits."""
    writing: float
    """Seconds from the copy to the whole checkpoint, beside training."""
    restart: dict[str, float]
    """Seconds, by part, from formed ranks to the first step."""


def checkpoint_cost(tables: TableBytes, dense: DenseCost, machines: Machines, speeds: Speeds) -> CheckpointCost:
    # Each rank writes some of the dense parameters, which all hold; those that share a pool of experts first write their own.
    of_dense = np.full(machines.count, (dense.parameters - dense.apart) * 4.0 * _DENSE_NUMBERS / machines.count)
    for pool in dense.pools:
        of_dense[: pool.holders] += pool.parameters * 4.0 * _DENSE_NUMBERS
    written = tables.weights - tables.cached + tables.state + tables.ids + tables.in_host + of_dense
    by_host = written.reshape(machines.hosts, machines.per_host).sum(1)
    link = machines.device.host_link if machines.device.platform == "cuda" else machines.device.memory_speed / 2

    def moved(size: NDArray[np.float64]) -> float:
        """Seconds of bytes by host, to or from the place of checkpoints."""
        together = size.sum() / (speeds.store * 1e9) if speeds.store else 0.0
        return max(float(size.max()) / (speeds.host * 1e9), float(together))

    hashed = float(written.max()) / (HASHED * 1e9)
    share = np.full(machines.hosts, written.sum() / machines.hosts)
    return CheckpointCost(
        written=written,
        host_copies=float(by_host.max()),
        stall=float(written.max()) / (link * 1e9),
        writing=moved(by_host) + hashed,
        restart={
            "checking against the manifest": max(moved(share), float(written.mean()) / (HASHED * 1e9)),
            "reading": moved(by_host),
            "filling tables": float(written.max()) / (link * 1e9),
        },
    )
