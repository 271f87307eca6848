"""The data that a run reads, checked before any model is built."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from home_dist.config import RunConfig
from home_dist.data.ahead import MOST_DECODERS
from home_dist.data.bad_rows import BadRowLog
from home_dist.data.files import DataFiles, open_files
from home_dist.data.matching_rows import RunSide
from home_dist.data.negatives import Kept, find_kept
from home_dist.data.other_data import read_as, with_weights
from home_dist.data.reader import Reader
from home_dist.data.request_scan import find_requests
from home_dist.data.requests import Requests
from home_dist.data.side_files import with_data, with_local_schema
from home_dist.distributed.ranks import Ranks
from home_dist.errors import ConfigError
from home_dist.files.places import join
from home_dist.schema import InputLayout, Schema, build_layout, load_schema
from home_dist.schema.once import once_per_request

# Evaluation keeps no gradients: larger batches fit in memory.
_EVALUATION_FACTOR = 4


@dataclass(frozen=True)
class Scan:
    """What is read of the training files before the first step."""

    requests: Requests | None = None
    """With `data.request`."""
    kept: Kept | None = None
    """With `data.negatives`."""


@dataclass(frozen=True)
class Inputs:
    """Configuration, schema, layout and data files of a run, checked."""

    config: RunConfig
    schema: Schema
    layout: InputLayout
    files: dict[str, DataFiles]
    """By split (train, validation, test), if the configuration names its folder."""

    def training_scan(self, ranks: Ranks) -> Scan:
        """Collective with `data.request` and `data.negatives`. Raises DataError."""
        data, files, threads = self.config.data, self.files["train"], self._threads(ranks)
        if data.negatives is not None:
            tasks = [t for t in self.schema.task if t.name in data.negatives.tasks]
            return Scan(kept=find_kept(files, data.negatives.keep, tasks, self.config.train.seed, ranks, threads))
        return Scan(find_requests(files, ranks, threads) if data.request_columns else None)

    def training_reader(self, ranks: Ranks, scan: Scan | None = None) -> Reader:
        """Collective as `training_scan`, unless its result is given."""
        data, train = self.config.data, self.config.train
        scan = self.training_scan(ranks) if scan is None else scan
        return Reader(
            self.files["train"],
            self.schema,
            self.layout,
            batch_size=train.batch_size,
            rank=ranks.rank,
            world_size=ranks.world_size,
            seed=train.seed,
            lanes=data.lanes,
            window_rows=data.window_rows,
            sample=data.sample,
            sample_seed=train.seed,
            requests=scan.requests,
            kept=scan.kept,
            negatives=data.negatives,
            **self._reading("train", ranks),
        )

    def evaluation_reader(self, split: str, ranks: Ranks) -> Reader:
        return Reader(
            self.files[split],
            self.schema,
            self.layout.untaught,
            batch_size=self.config.train.batch_size * _EVALUATION_FACTOR,
            rank=ranks.rank,
            world_size=ranks.world_size,
            lanes=1,
            window_rows=self.config.data.window_rows,
            **self._reading(split, ranks),
        )

    def _threads(self, ranks: Ranks) -> int:
        cores = len(os.sched_getaffinity(0))
        return self.config.data.threads or max(1, min(MOST_DECODERS, cores // ranks.local_world_size))

    def _reading(self, split: str, ranks: Ranks) -> dict[str, Any]:
        data = self.config.data
        on_gpu = ranks.device.type == "cuda"
        bad_rows = None
        if data.on_bad_row != "fail":
            file = Path(self.config.run.dir, "quarantine", f"{split}.rank-{ranks.rank:05d}.jsonl")
            bad_rows = BadRowLog(file if data.on_bad_row == "quarantine" else None)
        return {
            "prefetch": data.prefetch,
            "memory_mb": data.memory_mb,
            "threads": self._threads(ranks),
            "pin_memory": on_gpu,
            "bad_rows": bad_rows,
            "unknown_labels": data.on_bad_label == "unknown",
            "dedup": not on_gpu if self.config.embedding.dedup is None else self.config.embedding.dedup,
        }


def open_inputs(
    config: RunConfig,
    schema: Schema,
    splits: tuple[str, ...] = ("train", "validation", "test"),
    recorded: dict[str, str] | None = None,
    other: str | None = None,
    trains: bool = True,
) -> Inputs:
    """Opens and checks the run's splits. trains: whether the training split is opened to train on it, with its teachers.

    schema: of the run, which may train only some of its tasks. If that of the data is another one, the data is read as the
    run's (other_data.py). recorded: SHA-256 of tables' vocabularies when the run began; other: folder or URL of other data that
    is read in place of data.path. Raises ConfigError or DataError.
    """
    named = {"train.task_weights.{}": tuple(config.train.task_weights), "data.tasks: {}": config.data.tasks}
    named["data.negatives.tasks: {}"] = config.data.negatives.tasks if config.data.negatives is not None else ()
    named["train.stop.tasks: {}"] = config.train.stop.tasks if config.train.stop is not None else ()
    for key, names in {**named, "objective.{}": tuple(config.objective)}.items():
        unknown = sorted(set(names) - {t.name for t in schema.task})
        if unknown:
            task_names = ", ".join(t.name for t in schema.task)
            raise ConfigError(f"{key.format(unknown[0])}: no such task; there are: {task_names}")
    _refuse_negatives(config, schema)
    for name in config.train.stop.tasks if config.train.stop is not None and config.data.tasks else ():
        if name not in config.data.tasks:
            raise ConfigError(f"train.stop.tasks: {name!r} is not among data.tasks")
    whole, schema = schema, schema.only(config.data.tasks) if config.data.tasks else schema
    local = with_local_schema(config)
    layout = once_per_request(build_layout(schema, local), config.data.once_per_request)
    reads = config if other is None else with_data(config, other)
    there = load_schema((local if other is None else with_local_schema(reads)).schema_path()).in_groups(config.data.groups)
    sides = RunSide(config, whole, recorded or {}), RunSide(reads, there, {})
    layout = read_as(layout, *sides, reads.data.shown, schema.task)
    schema = with_weights(schema, there)
    folders = {s: getattr(config.data, s) or (s if other is not None else "") for s in splits}
    request = config.data.request_columns
    of_split = {s: layout if s == "train" and trains else layout.untaught for s in splits}
    files = {s: open_files(join(reads.data.path, f), schema, of_split[s], request) for s, f in folders.items() if f}
    if "train" in splits and "train" not in files:
        raise ConfigError("data.train is empty: name the folder of the training files")
    return Inputs(config, schema, layout, files)


def _refuse_negatives(config: RunConfig, schema: Schema) -> None:
    """Raises ConfigError if `data.negatives` names tasks that are not trained, or are not of yes or no."""
    negatives = config.data.negatives
    for task in [t for t in schema.task if negatives is not None and t.name in negatives.tasks]:
        if config.data.tasks and task.name not in config.data.tasks:
            raise ConfigError(f"data.negatives.tasks: {task.name!r} is not among data.tasks")
        kind = config.objective_of(task.name, task.kind)
        if kind.labels != "0 or 1":
            raise ConfigError(f"data.negatives.tasks: {task.name!r} is of kind {kind.kind}; only yes or no has negatives")
