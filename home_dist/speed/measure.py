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
from home_dist.planning.probe import DenseCost, probe
from home_dist.planning.propose import model_without_memory, placed
from home_dist.speed.limits import bytes_per_second, products_per_second, synchronise
from home_dist.training.build import Built, build
from home_dist.training.optimizers import Schedule
from home_dist.training.pipeline import Pipeline, begin_step
from home_dist.training.profiling import Trace

_FOR_EVER = 10**9  # epochs: small data are read again and again
_FORWARD = ("look-up", "output exchange", "feature vector", "sequences", "experts", "towers")
_EVALUATED = 8  # batches, the first two to warm up
_SAMPLED = 4  # batches whose ids are counted, and files whose footers are read
# How often a step reads or writes at least:
_ROWS = 4  # a looked-up row: read, and in the backward read and written, with its gradient beside it
_DENSE = 10  # a dense parameter: read twice, its gradient written; AdamW reads the gradient, reads and writes three others
_ACTIVATIONS = 4  # what is kept for the backward: written and read, and so is its gradient


@dataclass(frozen=True)
class Speed:
    """Of a rank and step, means over ranks, where nothing else is said."""

    ranks: int
    batch: int
    """B of a rank."""
    seconds: list[float]
    """Of each measured step, of the slowest rank."""
    samples: int
    """In all measured steps, of all ranks."""
    waiting: float
    """Share of the time in which a step waited for data."""
    breakdown: Breakdown
    """Of the traced steps that follow the measured ones."""
    peak_memory: int
    """Bytes of the rank with most: of its process, or of its GPU."""
    dense: DenseCost
    read: float
    """Bytes of Parquet files per sample."""
    looked_up: float
    """Bytes of embedding rows of sharded tables per sample, forward."""
    moved: float
    """Bytes that a step has to read and write at least."""
    least_handed: dict[str, float]
    """Bytes that a rank has to hand to collectives in a step under this plan, by use; own part included."""
    evaluation: float
    """Samples/s of all ranks in a forward without gradients, data included."""
    products_limit: float
    """FLOP/s that a large product reaches on each rank while all ranks do one."""
    memory_limit: float
    """Bytes/s likewise, of a copy."""

    def percentile(self, share: float) -> float:
        """Seconds of a step, by nearest rank."""
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
        """Samples/s of all ranks in a training step's forward alone."""
        return self.batch * self.ranks / (sum(self.breakdown.parts[part] for part in _FORWARD) / 1e3)

    @property
    def flops(self) -> float:
        """Of a sample, forward and backward."""
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
    """overlap: the pipeline that exchanges ids beside the step before."""
    config = inputs.config
    lengths = mean_lengths(inputs.training_reader(ranks))
    reader = inputs.training_reader(ranks)
    built = build(inputs, ranks)
    pipeline = Pipeline.of(built, ranks, config.train.accumulate, overlap)
    total = warm_up + steps + traced
    schedule = Schedule(built.optimizer, config.train, total)
    batches = itertools.islice(reader.epochs(0, _FOR_EVER), total)
    built.model.train()
    done = 0

    def step() -> int:
        """Samples of all ranks."""
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
    waited, own, samples = reader.wait_seconds, [], 0
    for _ in range(steps):
        began = time.perf_counter()
        samples += step()
        synchronise(ranks.device)
        own.append(time.perf_counter() - began)
    waited = reader.wait_seconds - waited
    peak = _peak_memory(ranks.device)
    with tempfile.TemporaryDirectory() as folder:
        trace = Trace(built.model, Path(folder, "trace.json.gz"), ranks)
        for _ in range(traced):
            with trace.step():
                step()
        breakdown = trace.end()
    pipeline.detach()
    evaluation = _evaluate(built.model, inputs.training_reader(ranks), ranks)
    everyone: list[tuple[list[float], float, int]] = [(own, waited, peak)] * ranks.world_size
    dist.all_gather_object(everyone, (own, waited, peak))
    slowest = [max(of_step) for of_step in zip(*(e[0] for e in everyone), strict=True)]
    dense = probe(model_without_memory(inputs.schema, inputs.layout, config), inputs.layout, lengths)
    looked_up = sum(
        lengths.get(item.key, 1.0) * item.table.dim * float(item.table.weight_bytes)
        for item in inputs.layout.inputs
        if not item.table.replicated
    )
    batch = config.train.batch_size
    hosts = ranks.world_size // ranks.local_world_size
    traffic = counted(
        placed(built.plan, inputs.layout, ranks.world_size), config, ranks.world_size, hosts, dense, lengths
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
        waiting=sum(e[1] for e in everyone) / ranks.world_size / sum(slowest),
        breakdown=breakdown,
        peak_memory=max(e[2] for e in everyone),
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
def _evaluate(model: nn.Module, reader: Reader, ranks: Ranks) -> float:
    model.eval()
    epoch, samples, began = reader.epochs(0, _FOR_EVER), 0, 0.0
    for number, batch in enumerate(itertools.islice(epoch, _EVALUATED)):
        if number == 2:
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
    """Ids per sample by key of the input, of the first batches of this rank."""
    ids: dict[str, int] = {}
    samples = 0
    epoch: Iterator[Batch] = reader.epochs(0, 1)
    for batch in itertools.islice(epoch, _SAMPLED):
        samples += int(batch.mask.sum())
        for held in (batch.bags, batch.weighted_bags, batch.events, batch.managed, batch.small_lists):
            for key, count in zip(held.keys(), _counts(held), strict=True):
                ids[key] = ids.get(key, 0) + count
    epoch.close()  # type: ignore[attr-defined]
    return {key: count / max(1, samples) for key, count in ids.items()}


def stored_per_row(files: DataFiles) -> float:
    """Compressed bytes of the columns that are read, of some files."""
    stored = rows = 0
    for path in files.paths[:_SAMPLED]:
        opened = open_parquet(files.store, path)
        rows += opened.metadata.num_rows
        for group in range(opened.metadata.num_row_groups):
            about = opened.metadata.row_group(group)
            columns = [about.column(i) for i in range(about.num_columns)]
            stored += sum(c.total_compressed_size for c in columns if c.path_in_schema.split(".")[0] in files.columns)
    return stored / max(1, rows)


def _counts(held: KeyedJaggedTensor) -> list[int]:
    keys = len(held.keys())
    return held.lengths().view(keys, -1).sum(1).tolist() if keys else []


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    # getrusage's peak is also that of the process which started this one.
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.is_file() else []
    own = [int(line.split()[1]) for line in lines if line.startswith("VmHWM")]
    return (own[0] if own else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * 1024
