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
from home_dist.data.other_data import read_as, with_weights
from home_dist.data.reader import Reader
from home_dist.data.request_scan import find_requests
from home_dist.data.requests import Requests
from home_dist.data.side_files import with_data, with_local_schema
from home_dist.distributed.ranks import Ranks
from home_dist.errors import ConfigError
from home_dist.files.stores import join
from home_dist.schema import InputLayout, Schema, build_layout, load_schema

# Evaluation keeps no gradients: larger batches fit in memory.
_EVALUATION_FACTOR = 4


@dataclass(frozen=True)
class Inputs:
    """Configuration, schema, layout and data files of a run, checked."""

    config: RunConfig
    schema: Schema
    layout: InputLayout
    files: dict[str, DataFiles]
    """By split (train, validation, test), if the configuration names its folder."""

    def training_requests(self, ranks: Ranks) -> Requests | None:
        """The requests of the training split, if `data.request` names them. Collective. Raises DataError."""
        if not self.config.data.request_columns:
            return None
        return find_requests(self.files["train"], ranks, self._threads(ranks))

    def training_reader(self, ranks: Ranks, requests: Requests | None = None) -> Reader:
        """Collective with `data.request`, unless the split's `requests` are given."""
        data, train = self.config.data, self.config.train
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
            requests=self.training_requests(ranks) if requests is None else requests,
            **self._reading("train", ranks),
        )

    def evaluation_reader(self, split: str, ranks: Ranks) -> Reader:
        return Reader(
            self.files[split],
            self.schema,
            self.layout,
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
        }


def open_inputs(
    config: RunConfig,
    schema: Schema,
    splits: tuple[str, ...] = ("train", "validation", "test"),
    recorded: dict[str, str] | None = None,
    other: str | None = None,
) -> Inputs:
    """Opens and checks the run's splits.

    schema: of the run, which may train only some of its tasks. If that of the data is another one, the data is read as the
    run's (other_data.py). recorded: SHA-256 of tables' vocabularies when the run began; other: folder or URL of other data that
    is read in place of data.path. Raises ConfigError or DataError.
    """
    for key, names in (("train.task_weights.{}", config.train.task_weights), ("data.tasks: {}", config.data.tasks)):
        unknown = sorted(set(names) - {t.name for t in schema.task})
        if unknown:
            task_names = ", ".join(t.name for t in schema.task)
            raise ConfigError(f"{key.format(unknown[0])}: no such task; there are: {task_names}")
    whole, schema = schema, schema.only(config.data.tasks) if config.data.tasks else schema
    local = with_local_schema(config)
    layout = build_layout(schema, local)
    reads = config if other is None else with_data(config, other)
    there = load_schema((local if other is None else with_local_schema(reads)).schema_path())
    sides = RunSide(config, whole, recorded or {}), RunSide(reads, there, {})
    layout = read_as(layout, *sides, reads.data.shown, schema.task)
    schema = with_weights(schema, there)
    folders = {s: getattr(config.data, s) or (s if other is not None else "") for s in splits}
    request = config.data.request_columns
    files = {s: open_files(join(reads.data.path, f), schema, layout, request) for s, f in folders.items() if f}
    if "train" in splits and "train" not in files:
        raise ConfigError("data.train is empty: name the folder of the training files")
    return Inputs(config, schema, layout, files)
