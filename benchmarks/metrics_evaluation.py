"""Parts of metrics.py: memory of an evaluation whose rows ranks share, and its speed beside the forward of training."""

import gc
import itertools
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from benchmarks.machine import memory
from benchmarks.sample_run import ROOT
from home_dist.config import MetricsSection, load_config
from home_dist.evaluation.split import Evaluation, evaluate

FAMILIES = ("binary",) * 6 + ("number", "class")
CLASSES = 3
BATCH = 2048
WORLDS = (1, 2, 4)
LAYOUT = SimpleNamespace(at=lambda _: [SimpleNamespace(key="tab")])
SCHEMA = SimpleNamespace(task=[SimpleNamespace(name=f"task_{k}") for k in range(len(FAMILIES))], group_column="user")


class _Batch(SimpleNamespace):
    def to(self, _: object) -> "_Batch":
        return self


class _Given(nn.Module):
    def forward(self, batch: Any) -> tuple[None, Any]:
        return None, SimpleNamespace(scores=batch.scores)


def batches(first: int, last: int, rows: int) -> Iterator[Any]:
    """Batches of the rows first .. last of `rows`, drawn when they are read: 8 tasks, a tenth as many users as rows, requests
    of some 10 rows, and a feature of 5 values."""
    for begin in range(first, last, BATCH):
        n, random = min(BATCH, last - begin), np.random.default_rng(begin)
        scores = random.normal(size=(n, len(FAMILIES) - 1 + CLASSES)).astype(np.float32)
        labels = (random.random((n, len(FAMILIES))) < 1 / (1 + np.exp(1 - scores[:, : len(FAMILIES)]))).astype(np.float32)
        labels[:, 6] *= random.exponential(20, n).round(3)
        labels[:, 7] *= random.integers(0, CLASSES, n)
        columns = {
            "scores": scores,
            "labels": labels,
            "weights": np.ones_like(labels),
            "groups": random.integers(0, rows // 10, n) * 7919,
            "requests": random.integers(0, rows // 10, n),
            "small": random.integers(0, 5, (n, 1)),
            "mask": np.ones(n, np.float32),
        }
        yield _Batch(**{name: torch.from_numpy(column) for name, column in columns.items()})


def evaluated(rank: int, world: int, rows: int) -> Evaluation:
    """Of rows dealt to ranks evenly, in whole batches."""
    number = -(-rows // BATCH)
    bounds = [min(rows, number * r // world * BATCH) for r in range(world + 1)]
    reader: Any = SimpleNamespace(epoch=lambda _: batches(bounds[rank], bounds[rank + 1], rows), reads_requests=True)
    objectives = SimpleNamespace(measured=FAMILIES, predictions=(1,) * 7 + (CLASSES,))
    built: Any = SimpleNamespace(model=_Given(), objectives=objectives)
    config: Any = SimpleNamespace(metrics=MetricsSection(slices=("tab",), keep_scores=0))
    ranks: Any = SimpleNamespace(device="cpu", rank=rank, world_size=world)
    schema: Any = SCHEMA
    layout: Any = LAYOUT
    return evaluate(built, reader, schema, layout, config, ranks)


def _rank(rank: int, world: int, rows: int, folder: str) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/store", world)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world, timeout=timedelta(seconds=300))
    evaluated(rank, world, 10_000)  # imports, builds, buffers of the process group
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak from here on
    before, began = memory("VmRSS"), time.perf_counter()
    tasks = evaluated(rank, world, rows).tasks
    seconds = time.perf_counter() - began
    figures = [v for task in tasks for v in (task.auc, task.gauc, task.xauc, task.macro_auc, task.ndcg, task.calibration_error)]
    found = {"bytes": (memory("VmHWM") - before) / rows, "seconds": seconds, "figures": figures}
    Path(folder, f"{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


def shared(rows: int, worlds: tuple[int, ...] = WORLDS) -> dict[str, Any]:
    """By number of ranks: the peak of the rank that takes most, in bytes for each row of all ranks, and seconds."""
    # Arrays are given back when they are freed, as arrays above 32 MB always are; and one thread for each rank.
    os.environ |= {"MALLOC_MMAP_THRESHOLD_": "131072", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    multiprocessing.set_forkserver_preload(["benchmarks.metrics_evaluation"])  # imports once for all ranks
    result: dict[str, Any] = {"rows": rows, "tasks": len(FAMILIES)}
    figures = {}
    for world in worlds:
        with tempfile.TemporaryDirectory() as folder:
            mp.start_processes(_rank, (world, rows, folder), nprocs=world, start_method="forkserver")
            parts = [json.loads(Path(folder, f"{rank}.json").read_text()) for rank in range(world)]
        result[str(world)] = {name: max(part[name] for part in parts) for name in ("bytes", "seconds")}
        figures[world] = np.array([part["figures"] for part in parts])
        print(f"evaluation, ranks: {world}: {result[str(world)]['bytes']:.0f} bytes per row and rank", flush=True)
    apart = [np.nanmax(np.abs(of - figures[worlds[0]][0])) for of in figures.values()]
    return result | {"apart": float(max(apart))}


def speeds(pairs: int, steps: int) -> dict[str, Any]:
    """Samples/s of an evaluation, all of its metrics included, and of as many samples in the forward of training; in turns."""
    from home_dist.config import DistributedSection
    from home_dist.data.inputs import open_inputs
    from home_dist.distributed.ranks import form_ranks
    from home_dist.schema import load_schema
    from home_dist.training.build import build

    config = load_config(ROOT / "configs" / "kuairand_pure.toml", [f"data.path={ROOT / 'examples' / 'kuairand_pure'}"])
    schema = load_schema(config.schema_path())
    ranks = form_ranks(DistributedSection(threads=1))
    inputs = open_inputs(config, schema, ("train", "test"))
    built = build(inputs, ranks)
    found: dict[str, list[float]] = {"forward": [], "evaluation": []}
    scan = inputs.training_scan(ranks)
    for turn in range(pairs + 1):
        built.model.train()
        epoch, samples, began = inputs.training_reader(ranks, scan).epochs(0, 1 << 30), 0, time.perf_counter()
        for batch in itertools.islice(epoch, steps):
            built.model(batch.to(ranks.device))
            samples += int(batch.mask.sum())
        forward = samples / (time.perf_counter() - began)
        epoch.close()
        began = time.perf_counter()
        reader = inputs.evaluation_reader("test", ranks)
        found_rows = evaluate(built, reader, inputs.schema, inputs.layout, inputs.config, ranks).scored
        evaluation = len(found_rows.groups) / (time.perf_counter() - began) if found_rows is not None else 0.0
        if turn:  # the first one allocates
            found["forward"].append(forward)
            found["evaluation"].append(evaluation)
    dist.destroy_process_group()
    ratio = statistics.median(e / f for e, f in zip(found["evaluation"], found["forward"], strict=True))
    return {**found, "ratio": ratio}
