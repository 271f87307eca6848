"""Estimates the memory of each rank, the time of a step, and what bounds it.

Times of transfers and matrix products assume a share of the devices' speeds, see ASSUMED; times of the host's launches and
reading are in host.py. They show what bounds a step and how plans compare; they do not predict measured times.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from home_dist.config import RunConfig
from home_dist.planning.host import HostWork
from home_dist.planning.probe import DenseCost
from home_dist.planning.topology import Machines
from home_dist.planning.traffic import Counter, Placed, Traffic, Widths

ASSUMED = {"matrix products": 0.4, "memory": 0.6, "links": 0.7}
"""Assumed share of a device's speed that is reached."""
DEVICE = "work of the device"
"""Name of the bound that sums all parts of a step that are not hidden."""
HEAD_ROOM = 0.08
"""Share of a device's memory that is left to the driver, the allocator and short-lived tensors."""
_BYTES = {"fp32": 4.0, "fp16": 2.0, "bf16": 2.0, "int8": 1.25}
_ADAM = 4  # numbers per dense parameter: itself, its gradient, and AdamW's two moments
_CACHE_INDEX = 4  # bytes per row by which FBGEMM finds a cached row's table
_BATCHES = 3  # batches that the pipeline holds


@dataclass(frozen=True)
class TableBytes:
    """Bytes of tables, (ranks,) each."""

    weights: NDArray[np.float64]
    """On the ranks' devices, caches included."""
    state: NDArray[np.float64]
    """Of their optimizer, on the devices."""
    in_host: NDArray[np.float64]
    """Weights and optimizer state in the memory of the devices' hosts."""
    ids: NDArray[np.float64]
    """Of managed tables: which ids their rows belong to."""
    cached: NDArray[np.float64]
    """Those of `weights` that are copies, of rows in the hosts' memory."""


@dataclass(frozen=True)
class Estimate:
    memory: dict[str, NDArray[np.float64]]
    """Bytes, (ranks,) each, by use."""
    traffic: Traffic
    seconds: dict[str, float]
    """Seconds of the slowest rank, by part of a step, without hidden parts."""
    hidden: dict[str, float]
    """Seconds of parts that overlap with the step: exchange of ids, and of dense gradients as far as the backward hides it."""
    looked_up: NDArray[np.float64]
    """(ranks,) bytes of table rows that a forward pass reads."""
    host: HostWork
    tables: TableBytes

    @property
    def bounds(self) -> dict[str, float]:
        """Lower bounds of a step, in seconds, by who is busy. They work in parallel, so that the largest bounds the step."""
        return {
            DEVICE: sum(self.seconds.values()),
            "exchange of ids": self.hidden["exchange of ids"],
            "launches": self.host.launching,
            "reader": self.host.reading,
        }

    @property
    def step(self) -> float:
        return max(self.bounds.values())

    @property
    def bound(self) -> str:
        """The largest of `bounds`; where it is the device, the largest part of its work."""
        largest = max(self.bounds, key=self.bounds.__getitem__)
        return max(self.seconds, key=self.seconds.__getitem__) if largest == DEVICE else largest

    @property
    def samples_per_second(self) -> float:
        """Of all ranks together."""
        return self.host.batch * len(self.looked_up) / self.step


def widths(config: RunConfig) -> Widths:
    exchange = config.distributed.exchange
    return Widths(_BYTES[exchange.forward], _BYTES[exchange.backward], _BYTES[exchange.gradients])


def not_tables(config: RunConfig, dense: DenseCost) -> dict[str, float]:
    """Bytes of every rank beside tables, by use."""
    kept = dense.kept * config.train.batch_size
    return {"dense parameters and AdamW": dense.parameters * 4.0 * _ADAM, "activations": kept * 2}  # and their gradients


def state_bytes(optimizer: str, rows: int, columns: int) -> float:
    """Bytes of the optimizer's state of rows x columns of a table: a float32 number per row, per weight, or none."""
    return {"row_wise_adagrad": rows, "adagrad": rows * columns, "sgd": 0}[optimizer] * 4.0


def table_bytes(placed: Sequence[Placed], config: RunConfig, ranks: int, platform: str = "cpu") -> TableBytes:
    """platform: of the devices. A CPU's tables all lie in its memory."""
    found = TableBytes(*(np.zeros(ranks) for _ in range(5)))
    for table in placed:
        away = table.of.is_in_host_memory(platform)
        for shard in table.shards:
            weights = shard.rows * shard.columns * table.weight_bytes
            state = state_bytes(config.embedding.optimizer, shard.rows, shard.columns)
            found.ids[shard.rank] += table.of.managed_bytes * shard.rows / table.rows
            if away:
                found.in_host[shard.rank] += weights + state
                cache = weights * table.cached_rows + shard.rows * _CACHE_INDEX if table.memory == "cached" else 0.0
                found.weights[shard.rank] += cache
                found.cached[shard.rank] += cache
            else:
                found.weights[shard.rank] += weights
                found.state[shard.rank] += state
    return found


def counted(
    placed: Sequence[Placed], config: RunConfig, ranks: int, hosts: int, dense: DenseCost, lengths: Mapping[str, float]
) -> Counter:
    """Counts the bytes that ranks exchange in a step and read from their tables."""
    counter = Counter(ranks, hosts, config.train.batch_size, lengths, widths(config))
    counter.tables(placed)
    copied = sum(p.rows * p.dim for p in placed if p.sharding == "data_parallel")
    counter.reduce("dense gradients", (dense.parameters - dense.apart + copied) * counter.widths.dense)
    for pool in dense.pools:
        there_and_back = 2 * pool.numbers * 4.0 * pool.pairs * config.train.batch_size  # gradients go the same ways
        counter.within_groups("samples and experts", pool.holders, there_and_back)
        counter.reduce_copies("dense gradients", pool.holders, pool.parameters * 4.0)
    counter.gather("statistics", dense.statistics * 4.0)
    counter.reduce("statistics", dense.statistics * 4.0 * ranks)
    return counter


def estimate(
    placed: Sequence[Placed],
    config: RunConfig,
    machines: Machines,
    dense: DenseCost,
    lengths: Mapping[str, float],
    host: HostWork,
) -> Estimate:
    ranks, batch, device = machines.count, config.train.batch_size, machines.device
    counter = counted(placed, config, ranks, machines.hosts, dense, lengths)
    traffic = counter.traffic
    tables = table_bytes(placed, config, ranks, device.platform)
    fixed = {name: np.full(ranks, size) for name, size in not_tables(config, dense).items()}
    received = sum(traffic.handed[use] for use in ("embeddings", "their gradients", "samples and experts"))
    buffers = received * 2 + traffic.handed["ids"] * _BATCHES
    ids = {"ids of managed tables": tables.ids} if tables.ids.any() else {}
    memory = {"tables": tables.weights, "their optimizer": tables.state, **ids, **fixed, "exchange and batches": buffers}

    def over_links(use: str) -> float:
        speed = ASSUMED["links"] * 1e9
        return float(np.maximum(traffic.intra[use] / (device.intra * speed), traffic.inter[use] / (device.inter * speed)).max())

    speed = device.bf16 if config.kernel.precision == "bf16" else device.fp32
    products = 3 * dense.flops * batch / (speed * 1e12 * ASSUMED["matrix products"])  # the backward takes twice the forward
    # Factor 4: the forward reads rows; the backward reads and writes them, and reads their gradients.
    on_device = counter.looked_up - (counter.from_host if device.platform == "cuda" else 0)
    looked_up = float(on_device.max()) * 4 / (device.memory_speed * 1e9 * ASSUMED["memory"])
    dense_gradients = over_links("dense gradients")
    seconds = {
        "matrix products": products,
        "look-up and update of rows": looked_up,
        **_of_host_memory(counter, machines),
        "exchange of embeddings": over_links("embeddings"),
        "exchange of their gradients": over_links("their gradients"),
        "exchange of dense gradients, exposed": max(0.0, dense_gradients - products * 2 / 3),
        "exchange of statistics": over_links("statistics"),
        **({"exchange of samples and experts": over_links("samples and experts")} if dense.pools else {}),
    }
    hidden = {"exchange of ids": over_links("ids"), "exchange of dense gradients": min(dense_gradients, products * 2 / 3)}
    return Estimate(memory, traffic, seconds, hidden, counter.looked_up, host, tables)


def _of_host_memory(counter: Counter, machines: Machines) -> dict[str, float]:
    """Seconds of reading and updating rows in the host's memory, if some lie there."""
    device = machines.device
    if device.platform != "cuda" or not counter.from_host.any():
        return {}
    speed = device.host_link * 1e9 * ASSUMED["links"]
    return {"look-up and update of rows in the host's memory": float(counter.from_host.max()) * 4 / speed}
