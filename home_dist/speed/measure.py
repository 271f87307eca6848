"""Times training steps of a configuration, data included, on all ranks."""

import itertools
import resource
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from home_dist.data import DataFiles, Reader
from home_dist.data.batch import Batch
from home_dist.data.files import open_parquet
from home_dist.data.inputs import Inputs
from home_dist.distributed.ranks import Ranks
from home_dist.insight.trace import Breakdown
from home_dist.network import StepOutput
from home_dist.planning.estimate import counted
from home_dist.planning.placement import model_without_memory, placed_tables
from home_dist.planning.probe import DenseCost, probe
from home_dist.speed.limits import bytes_per_second, products_per_second, synchronise
from home_dist.training.build import Built, build
from home_dist.training.optimizers import Schedule
from home_dist.training.pipeline import Pipeline, begin_step
from home_dist.training.profiling import Trace

_FOR_EVER = 10**9  # epochs: a small data set is read again and again
_FORWARD = ("data wait", "input exchange", "look-up", "output exchange", "feature vector", "sequences", "experts", "towers")
"""Parts of a training step that an evaluation has as well."""
_SAMPLED = 4  # batches whose ids are counted, and files whose footers are read
# How often, at least, a step reads or writes:
_ROWS = 4  # a looked-up row: the forward reads it; the backward reads it, writes it and reads its gradient
_DENSE = 10  # a dense parameter: read twice, its gradient written; AdamW reads the gradient, reads and writes three others
_ACTIVATIONS = 4  # an activation kept for the backward: it and its gradient are each written and read


@dataclass(frozen=True)
class Speed:
    """Speed of training. Figures are per rank and step, as means over ranks, unless the field says otherwise."""

    ranks: int
    batch: int
    """B of one rank."""
    seconds: list[float]
    """Per measured step, the slowest rank's time."""
    samples: int
    """Of all ranks in all measured steps."""
    waiting: float
    """Share of the measured time in which steps waited for data."""
    breakdown: Breakdown
    """Of the traced steps, which follow the measured ones."""
    peak_memory: int
    """Bytes of the process, or of the GPU, on the rank that uses most."""
    dense: DenseCost
    read: float
    """Bytes of Parquet files per sample."""
    looked_up: float
    """Bytes of embedding rows of sharded tables per sample, forward."""
    moved: float
    """Bytes that a step reads and writes at least."""
    least_handed: dict[str, float]
    """By use: bytes that a rank hands to collectives per step under this plan, the part that it keeps itself included."""
    evaluation: float
    """Samples/s of all ranks in a forward without gradients, data included."""
    products_limit: float
    """FLOP/s of a large product on each rank, while all ranks compute one."""
    memory_limit: float
    """Bytes/s of a copy on each rank, while all ranks copy."""

    def percentile(self, share: float) -> float:
        """Seconds of a step; share: in percent. Nearest-rank method."""
        return float(np.percentile(self.seconds, share, method="nearest"))

    @property
    def step(self) -> float:
        """Mean seconds."""
        return sum(self.seconds) / len(self.seconds)

    @property
    def samples_per_second(self) -> float:
        """Of all ranks."""
        return self.samples / sum(self.seconds)

    @property
    def samples_per_second_per_rank(self) -> float:
        return self.samples_per_second / self.ranks

    @property
    def forward_per_second(self) -> float:
        """Samples/s of all ranks in the forward of training steps, data and input exchange included: the forward's share of
        traced steps, which the profiler slows down, of the measured steps' time."""
        share = sum(self.breakdown.parts[part] for part in _FORWARD) / self.breakdown.milliseconds
        return self.samples_per_second / share

    @property
    def flops(self) -> float:
        """Per sample, forward and backward."""
        return 3 * self.dense.flops

    @property
    def products_used(self) -> float:
        """Share of the limit of matrix products."""
        return self.flops * self.samples_per_second_per_rank / self.products_limit

    @property
    def memory_used(self) -> float:
        """Share of the limit of memory."""
        return self.moved / self.step / self.memory_limit


def measure(inputs: Inputs, ranks: Ranks, warm_up: int, steps: int, traced: int, overlap: bool = True) -> tuple[Speed, Built]:
    """overlap: whether the pipeline exchanges a batch's ids during the step before."""
    config = inputs.config
    scan = inputs.training_scan(ranks)
    lengths = mean_lengths(inputs.training_reader(ranks, scan))
    reader = inputs.training_reader(ranks, scan)
    built = build(inputs, ranks)
    pipeline = Pipeline.of(built, ranks, config.train.accumulate, overlap)
    total = warm_up + steps + traced
    schedule = Schedule(built.optimizer, config.train, total)
    batches = itertools.islice(reader.epochs(0, _FOR_EVER), total)
    built.model.train()
    done = 0

    def step() -> int:
        """Trains one step; returns its samples on all ranks."""
        nonlocal done
        begin_step(built, schedule, config.train, done, ranks.rank)
        done += 1
        output: StepOutput = pipeline.progress(batches, is_last_batch=done == total)
        return reader.rows_of_step(output.epoch, output.step)

    for _ in range(warm_up):
        step()
    synchronise(ranks.device)
    if ranks.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(ranks.device)
    dist.barrier()
    waited, step_seconds, samples = reader.wait_seconds, [], 0
    for _ in range(steps):
        began = time.perf_counter()
        samples += step()
        synchronise(ranks.device)
        step_seconds.append(time.perf_counter() - began)
    waited = reader.wait_seconds - waited
    peak = _peak_memory(ranks.device)
    with tempfile.TemporaryDirectory() as folder:
        trace = Trace(built.model, Path(folder, "trace.json.gz"), ranks)
        for _ in range(traced):
            with trace.step():
                step()
        breakdown = trace.end()
    pipeline.detach()
    evaluation = _evaluate(built.model, inputs.training_reader(ranks, scan), ranks, warm_up, steps)
    by_rank: list[tuple[list[float], float, int]] = [(step_seconds, waited, peak)] * ranks.world_size
    dist.all_gather_object(by_rank, (step_seconds, waited, peak))
    slowest = [max(seconds) for seconds in zip(*(rank[0] for rank in by_rank), strict=True)]
    network = model_without_memory(inputs.schema, inputs.layout, config, ranks.world_size)
    dense = probe(network, inputs.layout, lengths)
    looked_up = sum(
        lengths.get(item.key, 1.0) * item.table.dim * float(item.table.weight_bytes)
        for item in inputs.layout.inputs
        if not item.table.replicated
    )
    batch = config.train.batch_size
    hosts = ranks.world_size // ranks.local_world_size
    traffic = counted(
        placed_tables(built.plan, inputs.layout, ranks.world_size), config, ranks.world_size, hosts, dense, lengths
    ).traffic
    moved = batch * (looked_up * _ROWS + dense.kept * _ACTIVATIONS) + dense.parameters * 4.0 * _DENSE
    dist.barrier()
    limits = torch.tensor([products_per_second(ranks.device, built.kernel.precision), bytes_per_second(ranks.device)])
    dist.all_reduce(limits)
    limits /= ranks.world_size
    return Speed(
        ranks=ranks.world_size,
        batch=batch,
        seconds=slowest,
        samples=samples,
        waiting=sum(rank[1] for rank in by_rank) / ranks.world_size / sum(slowest),
        breakdown=breakdown,
        peak_memory=max(rank[2] for rank in by_rank),
        dense=dense,
        read=stored_per_row(inputs.files["train"]),
        looked_up=looked_up,
        moved=moved,
        least_handed={use: float(of_ranks.mean()) for use, of_ranks in traffic.handed.items()},
        evaluation=evaluation,
        products_limit=float(limits[0]),
        memory_limit=float(limits[1]),
    ), built


@torch.no_grad()
def _evaluate(model: nn.Module, reader: Reader, ranks: Ranks, warm_up: int, steps: int) -> float:
    """Samples/s of all ranks in a forward without gradients, of as many batches as are trained on. With fewer to warm up, the
    reader would still be decoding its first windows beside them."""
    model.eval()
    epoch, samples, began = reader.epochs(0, _FOR_EVER), 0, 0.0
    for number, batch in enumerate(itertools.islice(epoch, warm_up + steps)):
        if number == warm_up:
            synchronise(ranks.device)
            dist.barrier()
            samples, began = 0, time.perf_counter()
        model(batch.to(ranks.device))
        samples += int(batch.mask.sum())
    synchronise(ranks.device)
    dist.barrier()
    took = time.perf_counter() - began
    epoch.close()
    model.train()
    return samples * ranks.world_size / took


def mean_lengths(reader: Reader) -> Mapping[str, float]:
    """By input key: mean ids per sample in this rank's first batches."""
    ids: dict[str, int] = {}
    samples = 0
    epoch: Iterator[Batch] = reader.epochs(0, 1)
    for batch in itertools.islice(epoch, _SAMPLED):
        samples += int(batch.mask.sum())
        for jagged in (batch.bags, batch.weighted_bags, batch.events, batch.managed, batch.small_lists):
            for key, count in zip(jagged.keys(), _counts(jagged), strict=True):
                ids[key] = ids.get(key, 0) + count
    epoch.close()  # type: ignore[attr-defined]
    return {key: count / max(1, samples) for key, count in ids.items()}


def stored_per_row(files: DataFiles) -> float:
    """Compressed bytes per row of the columns that are read, from the footers of the first files."""
    stored = rows = 0
    for path in files.paths[:_SAMPLED]:
        opened = open_parquet(files.store, path)
        rows += opened.metadata.num_rows
        for n in range(opened.metadata.num_row_groups):
            row_group = opened.metadata.row_group(n)
            columns = [row_group.column(i) for i in range(row_group.num_columns)]
            stored += sum(c.total_compressed_size for c in columns if c.path_in_schema.split(".")[0] in files.columns)
    return stored / max(1, rows)


def _counts(jagged: KeyedJaggedTensor) -> list[int]:
    """Ids per key."""
    keys = len(jagged.keys())
    return jagged.lengths().view(keys, -1).sum(1).tolist() if keys else []


def _peak_memory(device: torch.device) -> int:
    """Bytes."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    # getrusage's peak includes the parent process's peak before the fork, VmHWM does not.
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.is_file() else []
    peaks_kib = [int(line.split()[1]) for line in lines if line.startswith("VmHWM")]
    return (peaks_kib[0] if peaks_kib else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * 1024
