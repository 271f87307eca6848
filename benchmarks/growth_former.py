"""Former ways of home_dist, kept to be measured beside today's: each stopped a run, or misled its user, at size."""

import contextlib
import hashlib
import io
import time
from dataclasses import dataclass, replace

import torch
from torchrec.distributed.planner import EmbeddingShardingPlanner, Topology
from torchrec.distributed.types import ShardingPlan
from torchrec.modules.mc_modules import LFU_EvictionPolicy, MCHManagedCollisionModule

from home_dist.config import RunConfig
from home_dist.embeddings.sharding import sharders, table_constraints
from home_dist.ids.rows import MANAGED_BITS
from home_dist.ids.vocabulary import VocabularyFile
from home_dist.network import Network
from home_dist.planning.topology import Machines
from home_dist.publish.keys import VocabularyIds
from home_dist.publish.live_tables import LiveRows
from home_dist.publish.rows_file import RowsFile
from home_dist.schema import InputLayout
from home_dist.training.progress import IntervalFigures, Meter

_BLOCK = 1 << 16  # rows that one random stream initialised


def initial_values(table: str, dim: int, first: int, count: int, std: float, seed: int) -> torch.Tensor:
    """(count, dim) initial values of rows first .. first + count - 1, from one random stream per block of rows."""
    parts, end = [], first + count
    while first < end:
        block, within = divmod(first, _BLOCK)
        take = min(_BLOCK - within, end - first)
        digest = hashlib.sha256(f"{seed}/{table}/{block}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))
        parts.append(torch.randn(within + take, dim, generator=generator)[within:])
        first += take
    return torch.cat(parts) * std


def fill(table: str, weights: torch.Tensor, std: float, seed: int) -> None:
    """Fills `weights` (rows, dim). The uniform values are TorchRec's own: as it builds a table, and as it shards it."""
    weights.uniform_(-1, 1)
    weights.uniform_(-1, 1)
    for first in range(0, len(weights), _BLOCK):
        part = weights[first : first + _BLOCK]
        part.copy_(initial_values(table, weights.shape[1], first, len(part), std, seed))


@dataclass(frozen=True)
class Figures:
    untouched: float
    size: float
    largest: float
    used_to: int


@torch.no_grad()
def table_figures(table: str, weights: torch.Tensor, std: float, seed: int) -> Figures:
    """A table's figures from all its rows, of which each is compared with its initial values."""
    same_rows, squares, entries, largest, last = 0, 0.0, 0, 0.0, 0
    for first in range(0, len(weights), _BLOCK):
        values = weights[first : first + _BLOCK]
        same = (values == initial_values(table, weights.shape[1], first, len(values), std, seed)).all(1)
        finite = values.isfinite()
        touched = torch.where(finite, values, 0)[~same].double()
        same_rows += int(same.sum())
        squares += float(touched.square().sum())
        entries += touched.numel()
        used = (~same).nonzero().flatten()
        largest = max(largest, torch.where(finite, values, 0).abs().max().item())
        last = first + int(used[-1]) + 1 if len(used) else last
    return Figures(same_rows / len(weights), (squares / max(1, entries)) ** 0.5, largest, last)


def managed_ids(rows: int) -> MCHManagedCollisionModule:
    """TorchRec's managed ids, sorted by id, of which each step evicts."""
    return MCHManagedCollisionModule(
        zch_size=rows,
        device=torch.device("cpu"),
        eviction_policy=LFU_EvictionPolicy(),
        eviction_interval=1,
        input_hash_size=2**MANAGED_BITS,
        buckets=1,
    )


def write_delta(file: RowsFile, vocabulary: VocabularyFile, rows: LiveRows) -> None:
    """Rows of a delta with their ids, for which the vocabulary was read: once to see whether its rows ascend, then up to the
    last one that is wanted."""
    file.rows(rows.table, rows.slots, rows.values.numpy(), VocabularyIds(vocabulary).take(rows.slots))


_LONG, _TOGETHER = 256, 4


def dots_within(
    values: torch.Tensor, vectors: torch.Tensor, lengths: torch.Tensor, owners: torch.Tensor, places: None = None
) -> torch.Tensor:
    """Inner product (N,) of each event (N, D) and its sample's vector (B, D): long histories by a product per four samples."""
    if len(values) < _LONG * len(lengths):
        return (values * vectors.index_select(0, owners)).sum(1)
    parts = torch.stack([lengths[n : n + _TOGETHER].sum() for n in range(0, len(lengths), _TOGETHER)]).tolist()
    dots = []
    for n, part, samples in zip(range(0, len(lengths), _TOGETHER), values.split(parts), owners.split(parts), strict=True):
        products = torch.mm(part, vectors[n : n + _TOGETHER].t())
        dots.append(products.gather(1, (samples - n).unsqueeze(1)).squeeze(1))
    return torch.cat(dots)


class LaunchedMeter(Meter):
    """A meter whose clock stops when steps have been launched, not when the device has done them."""

    def restart_clock(self) -> None:
        self._samples, self._began = None, time.perf_counter()

    def close(self, waited: float) -> IntervalFigures:
        seconds, samples = time.perf_counter() - self._began, self._samples
        figures = super().close(waited)
        return replace(figures, samples_per_second=0.0 if samples is None else float(samples) / seconds)


def plan(network: Network, layout: InputLayout, config: RunConfig, machines: Machines) -> ShardingPlan:
    """TorchRec's plan that a run took: with TorchRec's own batch size, speeds of links and reserve, and one id per feature."""
    topology = Topology(
        world_size=machines.count,
        local_world_size=machines.per_host,
        compute_device=machines.device.platform,
        hbm_cap=int(machines.device.memory * 1e9),
    )
    constraints = table_constraints(layout, config.embedding, machines.device.platform)
    planner = EmbeddingShardingPlanner(topology=topology, constraints=constraints)
    with contextlib.redirect_stdout(io.StringIO()):
        return planner.plan(network, sharders(config.embedding, config.train.seed))
