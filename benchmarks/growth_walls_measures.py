"""Parts of growth_walls.py. Each takes `quick` and returns its results for JSON: seconds, bytes and counts."""

import functools
import io
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest import mock

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import nn
from torchrec import EmbeddingBagCollection, EmbeddingBagConfig
from torchrec.distributed.types import ShardingPlan
from torchrec.sparse.jagged_tensor import JaggedTensor

from benchmarks import growth_former as former
from benchmarks.expert_bank_measures import clock
from benchmarks.id_log import power_law
from benchmarks.sample_run import ROOT
from home_dist.config import load_config
from home_dist.data.inputs import Inputs
from home_dist.distributed.ranks import Ranks
from home_dist.embeddings.collections import initialise
from home_dist.embeddings.initial import Drawn
from home_dist.embeddings.managed import drawn_later
from home_dist.embeddings.managed_ids import ManagedIds
from home_dist.ids.hashing import mix
from home_dist.ids.managed_sets import ManagedSets
from home_dist.ids.rows import MANAGED_BITS
from home_dist.ids.vocabulary import VocabularyFile
from home_dist.insight.table_figures import table_figures
from home_dist.planning import plan as planning
from home_dist.planning.placement import model_without_memory, placed_tables
from home_dist.planning.probe import LaunchCount
from home_dist.planning.topology import machines
from home_dist.planning.traffic import Placed
from home_dist.publish.keys import VocabularyIds
from home_dist.publish.live_tables import LiveRows
from home_dist.publish.live_version import LiveModel
from home_dist.publish.rows_file import RowsFile
from home_dist.schema import build_layout, load_schema
from home_dist.sequence import sim, twin
from home_dist.sequence.din import Din, DinSection
from home_dist.sequence.history import Encoder, EncoderInputs, History
from home_dist.sequence.jagged import dots_within
from home_dist.sequence.sim import Sim, SimSection
from home_dist.sequence.twin import Twin, TwinSection
from home_dist.training import build
from home_dist.training.progress import Meter

STD, SEED = 0.01, 0
IDS = 8192
Dots = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
USES = ("forward", "vectors", "events")
"""Of products: alone, as TWIN searches; with gradients of vectors, as SIM's soft search; with gradients of events as well."""
KINDS = ("din", "sim soft", "twin")
SCALE = ROOT / "configs" / "kuaishou_scale.toml"


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    yield
    torch.set_num_threads(before)


def _seconds(step: Callable[[], object]) -> float:
    start = clock()
    step()
    return clock() - start


def _tables(count: int, rows: int, dim: int) -> nn.Module:
    """Tables with values of any kind."""
    configs = [
        EmbeddingBagConfig(name=f"t{n}", num_embeddings=rows, embedding_dim=dim, feature_names=[f"f{n}"], init_fn=drawn_later)
        for n in range(count)
    ]
    return EmbeddingBagCollection(tables=configs).requires_grad_(False)


def figures(quick: bool) -> dict[str, Any]:
    dim, repeats = 8, 3 if quick else 9
    points = []
    with _threads(1):
        for rows in (10**5, 10**6) if quick else (10**5, 10**6, 10**7, 10**8):
            if rows * dim * 4 * 1.3 > psutil.virtual_memory().available:
                print(f"figures of {rows:,} rows: left out, they do not fit into memory", flush=True)
                continue
            points.append(_figures_of(rows, dim, repeats))
        rows, tables, width = 10**4 if quick else 10**5, 60, 64
        model = _tables(tables, rows, width)
        initialise(model, STD, SEED)
        seconds = statistics.median(_cold(model) for _ in range(3))
    return {"dim": dim, "points": points, "checkpoint": {"tables": tables, "rows": rows, "dim": width, "seconds": seconds}}


def _figures_of(rows: int, dim: int, repeats: int) -> dict[str, Any]:
    model = _tables(1, rows, dim)
    [weights] = model.state_dict().values()
    initialise(model, STD, SEED)
    weights[: rows // 10] += STD
    [told] = table_figures(model, STD, SEED)
    after = statistics.median(_cold(model) for _ in range(repeats))
    former.fill("t0", weights, STD, SEED)
    weights[: rows // 10] += STD
    exact = former.table_figures("t0", weights, STD, SEED)
    before = statistics.median(_seconds(lambda: former.table_figures("t0", weights, STD, SEED)) for _ in range(min(repeats, 3)))
    untouched = {"before": exact.untouched, "after": told.untouched}
    return {"rows": rows, "before": before, "after": after, "untouched": untouched}


def _cold(model: nn.Module) -> float:
    """Seconds of today's figures, with none of the rows in the processor's cache."""
    torch.ones(1 << 25).sum()
    return _seconds(lambda: table_figures(model, STD, SEED))


def initial(quick: bool) -> dict[str, Any]:
    rows, dim = 10**5 if quick else 10**6, 64
    weights = torch.zeros(rows, dim)
    drawn, by_threads = Drawn("t", dim, STD, SEED), {}
    drawn.fill(weights, 0, 0)
    for threads in sorted({1, min(2, torch.get_num_threads())}):
        with _threads(threads):
            pairs = []
            for _ in range(3 if quick else 7):
                before = _seconds(lambda: former.fill("t", weights, STD, SEED))
                pairs.append((before, _seconds(lambda: drawn.fill(weights, 0, 0))))
        by_threads[str(threads)] = {
            "before": weights.numel() / statistics.median(b for b, _ in pairs),
            "after": weights.numel() / statistics.median(a for _, a in pairs),
            "speed": statistics.median(b / a for b, a in pairs),
        }
    return {"values": weights.numel(), "threads": by_threads}


def managed(quick: bool) -> dict[str, Any]:
    points = []
    with _threads(1):
        for rows in (10**5, 10**6) if quick else (10**5, 10**6, 10**7):
            ways = {"before": former.managed_ids(rows), "after": ManagedIds(ManagedSets.of(rows), 1, torch.device("cpu"))}
            chunk = 1 << 19
            for first, module in itertools.product(range(0, rows, chunk), ways.values()):
                _managed_step(module, _hashes(np.arange(first, min(rows, first + chunk))))
            random, seconds = np.random.default_rng(0), {name: [] for name in ways}
            for step in range(5 if quick else 15):
                numbers = power_law(random, rows, IDS).astype(np.int64)
                new = random.random(IDS) < 0.1
                numbers[new] = rows + step * IDS + np.arange(IDS)[new]
                ids = _hashes(numbers)
                for name, module in ways.items():
                    seconds[name].append(_seconds(lambda m=module, i=ids: _managed_step(m, i)))
            points.append({"rows": rows} | {name: statistics.median(of) for name, of in seconds.items()})
    return {"ids": IDS, "points": points}


def _hashes(numbers: np.ndarray) -> torch.Tensor:
    return torch.from_numpy((mix(numbers.astype(np.uint64)) >> np.uint64(64 - MANAGED_BITS)).astype(np.int64))


def _managed_step(module: Any, ids: torch.Tensor) -> None:
    feature = JaggedTensor(values=ids, lengths=torch.ones(len(ids), dtype=torch.int64))
    module.remap(module.profile({"t": feature}))
    module.evict()


def operators(quick: bool) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for kind in KINDS:
        found[kind] = {}
        for mean in (20, 1000) if quick else (20, 200, 300, 1000):
            found[kind][str(mean)] = {
                "before": _operators(kind, mean, former.dots_within),
                "after": _operators(kind, mean, dots_within),
            }
    return found


def _operators(kind: str, mean: int, way: Dots) -> int:
    """Of forward and backward."""
    history, encoder = _history(mean, 120, 16), _encoder(kind, 16)
    with mock.patch.object(sim, "dots_within", way), mock.patch.object(twin, "dots_within", way), LaunchCount() as launched:
        encoder(history).vector.sum().backward()
    return launched.count


def _encoder(kind: str, dim: int) -> Encoder:
    inputs = EncoderInputs(dim, 0, ("item",), tasks=1)
    if kind == "din":
        return Din(DinSection(name="h"), inputs).train()
    search: dict[str, Any] = {"name": "h", "most": 10, "heads": 2, "head_dim": 8}
    if kind == "sim soft":
        return Sim(SimSection(search="soft", **search), inputs).train()
    return Twin(TwinSection(**search), inputs).train()


def _history(mean: int, samples: int, dim: int) -> History:
    """Items of which hardly any occurs twice."""
    lengths = torch.tensor([mean - 7, mean + 5, mean + 2] * (samples // 3))
    generator = torch.Generator().manual_seed(0)
    count = int(lengths.sum())
    items = torch.randint(0, 10**7, (count,), generator=generator)
    events = torch.randn(count, dim, generator=generator).requires_grad_()
    targets = torch.randn(samples, dim, generator=generator).requires_grad_()
    wanted = {"item": torch.zeros(samples, dtype=torch.int64)}
    return History(events, torch.zeros(count, 0), targets, lengths, {"item": items}, wanted)


def products(quick: bool) -> list[dict[str, Any]]:
    found = []
    threads = sorted({1, min(2, torch.get_num_threads())})
    for count, mean, dim in itertools.product(threads, (300,) if quick else (300, 1000), (64,) if quick else (32, 64)):
        history = _history(mean, 255, dim)
        sizes = {"threads": count, "events": mean, "dim": dim, "samples": len(history.lengths)}
        with _threads(count):
            uses = {use: _compared(history, use, 3 if quick else 15) for use in USES}
        found.append(sizes | {"uses": uses})
    return found


def _compared(history: History, use: str, pairs: int) -> dict[str, float]:
    pull = torch.randn(len(history.events))
    ways = [functools.partial(_products, history, use, pull, way) for way in (former.dots_within, dots_within)]
    for one, other in zip(*(way() for way in ways), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)
    seconds = [tuple(map(_seconds, ways)) for _ in range(pairs)]
    before, after = (statistics.median(column) for column in zip(*seconds, strict=True))
    return {"before": before, "after": after, "speed": statistics.median(b / a for b, a in seconds)}


def _products(history: History, use: str, pull: torch.Tensor, way: Dots) -> Sequence[torch.Tensor]:
    """Products, or their gradients."""
    events = history.events if use == "events" else history.events.detach()
    with torch.set_grad_enabled(use != "forward"):
        dots = way(events, history.targets, history.lengths, history.owners)
    if use == "forward":
        return [dots]
    return torch.autograd.grad(dots, [history.targets, events] if use == "events" else [history.targets], pull)


class _Queued(torch.Tensor):
    """A tensor of a device whose queue of steps is done at `until`."""

    until = 0.0

    def cpu(self) -> torch.Tensor:
        time.sleep(max(0.0, _Queued.until - time.perf_counter()))
        return torch.Tensor.cpu(self).as_subclass(torch.Tensor)


def rate(quick: bool) -> dict[str, float]:
    steps, samples, seconds = 20 if quick else 100, 1024, 0.01
    found = {"true": samples / seconds}
    for name, kind in {"before": former.LaunchedMeter, "after": Meter}.items():
        _Queued.until = 0.0
        meter = kind(1)
        for timed in (False, True):
            if timed:
                meter.restart_clock()
            _Queued.until = max(time.perf_counter(), _Queued.until) + seconds * steps
            sums = torch.ones(1).as_subclass(_Queued)
            for _ in range(steps):
                meter.add(SimpleNamespace(loss_sums=sums, weight_sums=sums, samples=torch.tensor(float(samples)), auxiliary={}))
        found[name] = meter.close(0.0).samples_per_second
    return found


def delta(quick: bool) -> dict[str, Any]:
    rows, dim, points = 1000, 16, []
    with tempfile.TemporaryDirectory() as folder:
        for keys in (12 * 10**5, 24 * 10**5) if quick else (2 * 10**6, 5 * 10**6, 2 * 10**7):
            path = Path(folder) / f"{keys}.parquet"
            _write_vocabulary(path, keys)
            vocabulary = VocabularyFile.open(path, "t", "text")
            slots = np.unique(np.random.default_rng(1).integers(1, keys + 1, rows))
            changed = LiveRows("t", slots, torch.ones(len(slots), dim))
            model = cast(LiveModel, SimpleNamespace(_ids={"t": VocabularyIds(vocabulary)}))
            ways = {
                "before": functools.partial(former.write_delta, vocabulary=vocabulary, rows=changed),
                "after": functools.partial(LiveModel.write, model, rows=changed, told=True),
            }
            found = {name: [_delta(way) for _ in range(3 if quick else 5)] for name, way in ways.items()}
            point = {name: statistics.median(seconds for seconds, _ in of) for name, of in found.items()}
            points.append({"keys": keys} | point | {"keys_read": {name: of[0][1] for name, of in found.items()}})
            path.unlink()
    return {"rows": rows, "dim": dim, "points": points}


def _write_vocabulary(path: Path, keys: int) -> None:
    """Texts of 15 to 20 bytes, by ascending row, as `home-dist prepare` writes them."""
    kinds = pa.schema({"value": pa.string(), "row": pa.int64()})
    with pq.ParquetWriter(path, kinds, compression="zstd") as writer:
        for first in range(0, keys, 1 << 18):
            rows = np.arange(first, min(keys, first + (1 << 18)))
            values = pa.array(mix(rows.astype(np.uint64))).cast(pa.string())
            writer.write_table(pa.table({"value": values, "row": rows + 1}, kinds))


def _delta(write: Callable[..., None]) -> tuple[float, int]:
    """(seconds, keys of the vocabulary that were read)."""
    read, pieces = 0, VocabularyFile.pieces

    def counted(file: VocabularyFile) -> Iterator[Any]:
        nonlocal read
        for piece in pieces(file):
            read += len(piece[1])
            yield piece

    with mock.patch.object(VocabularyFile, "pieces", counted):
        began = time.perf_counter()
        write(RowsFile(io.BytesIO(), "rows-00000.bin", "fp32"))
        return time.perf_counter() - began, read


def placement(quick: bool) -> list[dict[str, Any]]:
    found = []
    for count, batch in itertools.product((64,) if quick else (64, 128), (8192,) if quick else (1024, 8192)):
        config = load_config(SCALE, [f"train.batch_size={batch}", f"data.path={SCALE.with_suffix('')}"])
        wanted = machines(f"{count}xH100-80GB")
        schema = load_schema(config.schema_path())
        layout = build_layout(schema, config)
        planned = planning.plan(config, wanted, {}).placed
        this = Ranks(0, 1, 0, 1, torch.device("cpu"), "gloo", 1)
        with mock.patch.object(build, "detected", lambda _, wanted=wanted: wanted):
            trained = build._placed(model_without_memory(schema, layout, config), Inputs(config, schema, layout, {}), this)
        before: ShardingPlan = former.plan(model_without_memory(schema, layout, config), layout, config, wanted)
        found.append(
            {
                "devices": count,
                "batch": batch,
                "before": _fullest(placed_tables(before, layout, count), count),
                "after": _fullest(planned, count),
                "mean": sum(p.rows * p.dim * p.weight_bytes for p in planned) / count,
                "alike": placed_tables(trained, layout, count) == planned,
            }
        )
    return found


def _fullest(placed: list[Placed], ranks: int) -> float:
    """Bytes of weights on the rank that holds most."""
    held = [0] * ranks
    for table in placed:
        for shard in table.shards:
            held[shard.rank] += shard.rows * shard.columns * table.weight_bytes
    return max(held)
