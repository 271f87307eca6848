"""Bytes that ranks exchange in one step, by use and by distance.

Counted as TorchRec 1.8 sends them. Ranks send ids (int64) and lengths (int32) to the owners of rows. Owners return sums of
pooled tables, or one vector per id of histories. Gradients take the same way back. A rank's data for itself counts as handed
to the collective, but travels no link.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from home_dist.schema import IdInput, Table

_ID, _LENGTH = 8, 4
USES = ("ids", "embeddings", "their gradients", "dense gradients", "statistics", "samples and experts")
"""The last: inputs and outputs of experts that ranks share, and their gradients."""


@dataclass(frozen=True)
class PlannedShard:
    """A block of rows x columns of a table, on a rank."""

    rank: int
    rows: int
    columns: int


@dataclass(frozen=True)
class Placed:
    """A table, its shards, and the inputs that look up rows in it."""

    table: str
    rows: int
    dim: int
    sharding: str
    """Kind, as named in the configuration."""
    shards: tuple[PlannedShard, ...]
    users: tuple[IdInput, ...]

    @property
    def of(self) -> Table:
        """The table as the run uses it."""
        return self.users[0].table

    @property
    def weight_bytes(self) -> int:
        """Bytes of one weight."""
        return self.of.weight_bytes

    @property
    def memory(self) -> str:
        """Where GPUs keep it."""
        return self.of.memory

    @property
    def cached_rows(self) -> float:
        """Share of the rows that a GPU holds."""
        return self.of.cached_rows


@dataclass
class Traffic:
    """Bytes that each rank sends in a step, (ranks,) each, by USES."""

    ranks: int
    handed: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    """Handed to collectives, the rank's own part included."""
    intra: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    """Sent to other ranks of the host."""
    inter: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    """Sent to other hosts."""

    def __post_init__(self) -> None:
        for sums in (self.handed, self.intra, self.inter):
            sums |= {use: np.zeros(self.ranks) for use in USES}


@dataclass(frozen=True)
class Widths:
    """Bytes of an exchanged number: of embeddings (forward), their gradients (backward), dense gradients."""

    forward: float = 4
    backward: float = 4
    dense: float = 4


class Counter:
    def __init__(self, ranks: int, hosts: int, batch: int, lengths: Mapping[str, float], widths: Widths):
        """batch: B, samples of a rank; lengths: ids per sample, by key of the input."""
        self.ranks, self.hosts, self.per_host = ranks, hosts, ranks // hosts
        self.batch, self.lengths, self.widths = batch, lengths, widths
        self.traffic = Traffic(ranks)
        self.looked_up = np.zeros(ranks)
        """Bytes of rows that a rank reads in a step's forward pass."""
        self.from_host = np.zeros(ranks)
        """Those of them that GPUs read from their host's memory, if each row is looked up equally often."""

    def tables(self, placed: Iterable[Placed]) -> None:
        for table in placed:
            for user in table.users:
                self._input(table, user, self.lengths.get(user.key, 1.0))

    def _input(self, table: Placed, user: IdInput, length: float) -> None:
        """Counts one input of a table. length: ids per sample."""
        ranks, batch = self.ranks, self.batch
        pooled = user.place in ("bag", "weighted_bag")
        weight = 4 if user.place == "weighted_bag" else 0
        if table.sharding == "data_parallel":
            self.looked_up += batch * length * table.dim * table.weight_bytes
            return
        for columns, owners in _groups(table):
            share = 1 / len(owners)  # ids are spread evenly over blocks of rows
            ids = batch * length * share * (_ID + weight) + batch * _LENGTH
            self._all_to("ids", owners, ids)
            for owner in owners:
                read = ranks * batch * length * share * columns * table.weight_bytes
                self.looked_up[owner] += read
                self.from_host[owner] += read * (1 - table.cached_rows)
            if not pooled:
                numbers = batch * length * share * columns
                self._from("embeddings", owners, numbers * self.widths.forward)
                self._all_to("their gradients", owners, numbers * self.widths.backward)
            elif table.sharding in ("table_row_wise", "grid"):
                self._in_two_steps(owners, batch * columns)
            elif len(owners) == 1 and table.sharding != "row_wise":
                self._from("embeddings", owners, batch * columns * self.widths.forward)
                self._all_to("their gradients", owners, batch * columns * self.widths.backward)
            else:  # partial sums of all samples: reduce-scatter, and all-gather of gradients
                self._from("embeddings", owners, batch * columns * self.widths.forward)
                self._gather("their gradients", batch * columns * self.widths.backward)

    def _in_two_steps(self, owners: list[int], values: float) -> None:
        """Partial sums are reduced within the host, then sent to the ranks of the same local number on other hosts. Gradients
        go back the same way."""
        per_host, hosts = self.per_host, self.hosts
        width, back = self.widths.forward, self.widths.backward
        for owner in owners:
            self._count("embeddings", owner, values * self.ranks * width, values * hosts * (per_host - 1) * width, 0.0)
            self._count("embeddings", owner, values * hosts * width, 0.0, values * (hosts - 1) * width)
            # Gradients that arrived from other hosts are all-gathered within the host.
            self._count("their gradients", owner, values * hosts * back, values * hosts * (per_host - 1) * back, 0.0)
        for rank in range(self.ranks):
            away = rank // per_host != owners[0] // per_host
            self._count("their gradients", rank, values * back, 0.0, values * back * away)

    def _all_to(self, use: str, owners: list[int], size: float) -> None:
        """Each rank sends `size` bytes to each owner."""
        for owner in owners:
            for sums, share in ((self.traffic.intra, self._same_host(owner)), (self.traffic.inter, ~self._on_host(owner))):
                sums[use] += size * share
            self.traffic.handed[use] += size

    def _from(self, use: str, owners: list[int], size: float) -> None:
        """Each owner sends `size` bytes to each rank."""
        ranks, per_host = self.ranks, self.per_host
        for owner in owners:
            self._count(use, owner, size * ranks, size * (per_host - 1), size * (ranks - per_host))

    def _gather(self, use: str, size: float) -> None:
        """An all-gather of `size` bytes per rank."""
        self.traffic.handed[use] += size
        self.traffic.intra[use] += size * (self.per_host - 1)
        self.traffic.inter[use] += size * (self.ranks - self.per_host)

    def within_groups(self, use: str, holders: int, size: float) -> None:
        """Each rank sends `size` bytes, in equal parts to each of the `holders` consecutive ranks of its group, itself too."""
        for rank in range(self.ranks):
            group = np.arange(rank - rank % holders, rank - rank % holders + holders)
            near = int((group // self.per_host == rank // self.per_host).sum())
            part = size / holders
            self._count(use, rank, size, part * (near - 1), part * (holders - near))

    def reduce_copies(self, use: str, holders: int, size: float) -> None:
        """Ring all-reduces of `size` bytes among the ranks that hold the same, every `holders`-th one."""
        copies = self.ranks // holders
        passed = 2 * size * (copies - 1) / copies
        for rank in range(self.ranks):
            after = (rank + holders) % self.ranks
            away = after // self.per_host != rank // self.per_host
            self._count(use, rank, size if copies > 1 else 0.0, passed * (not away), passed * away)

    def reduce(self, use: str, size: float) -> None:
        """A ring all-reduce of `size` bytes: each rank passes on 2 * size * (ranks - 1) / ranks. One rank per host passes to
        another host."""
        ranks, hosts = self.ranks, self.hosts
        self.traffic.handed[use] += size
        passed = 2 * size * (ranks - 1) / ranks
        self.traffic.inter[use] += passed / self.per_host if hosts > 1 else 0
        self.traffic.intra[use] += passed * (1 - 1 / self.per_host if hosts > 1 else 1)

    def gather(self, use: str, size: float) -> None:
        self._gather(use, size)

    def _count(self, use: str, rank: int, handed: float, intra: float, inter: float) -> None:
        for sums, size in ((self.traffic.handed, handed), (self.traffic.intra, intra), (self.traffic.inter, inter)):
            sums[use][rank] += size

    def _on_host(self, owner: int) -> NDArray[np.bool_]:
        return np.arange(self.ranks) // self.per_host == owner // self.per_host

    def _same_host(self, owner: int) -> NDArray[np.bool_]:
        """Other ranks of the owner's host."""
        return self._on_host(owner) & (np.arange(self.ranks) != owner)


def _groups(table: Placed) -> Iterable[tuple[int, list[int]]]:
    """Blocks of columns: number of columns, and the ranks that share the block's rows."""
    if table.sharding in ("row_wise", "table_row_wise"):
        yield table.dim, [s.rank for s in table.shards]
    elif table.sharding == "grid":
        per_block = max(1, round(sum(s.rows for s in table.shards) * 1.0 / table.rows))
        size = len(table.shards) // per_block
        for first in range(0, len(table.shards), size):
            block = table.shards[first : first + size]
            yield block[0].columns, [s.rank for s in block]
    else:
        for shard in table.shards:
            yield shard.columns, [shard.rank]
