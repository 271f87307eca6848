"""Data of benchmarks/peers.py and benchmarks/time_to_quality.py: features of one id each, and a configuration to train on."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.id_log import GROUP, describe, power_law, rare_labels
from home_dist.schema import IdFeature, StatisticFeature, load_schema

SAMPLE = Path(__file__).resolve().parent.parent / "examples" / "kuairand_pure"
BATCH, FEATURES = 2048, 67
CONFIG = """
run = {{ dir = "{folder}/run" }}
data = {{ path = "{folder}", validation = "{validation}", test = "{test}" }}
embedding = {{ dim = 16, small_dim = 16, replicate_rows = {replicate}, replicated_weight_decay = 1e-5, lr = 0.02 }}
model = {{ kind = "mmoe", experts = 8, expert_hidden = [256], expert_dim = 128, tower_hidden = [64], expert_norm = true }}
train = {{ batch_size = {batch}, lr = 1e-3, weight_decay = 1e-5, linear_path = false, decay = "none" }}
insight = {{ every_steps = 0 }}
log = {{ tensorboard = false }}
"""


def sample_as_ids(folder: Path) -> None:
    """The sample's columns of one id, and its first statistics as their buckets."""
    schema = load_schema(SAMPLE / "schema.toml")
    ids = [f for f in schema.feature if isinstance(f, IdFeature) and f.pooling == "none"]
    statistics_ = [f for f in schema.feature if isinstance(f, StatisticFeature)][: FEATURES - len(ids)]
    tasks = [t for t in schema.task if t.kind == "binary"]
    rows = {f.name: schema.table_rows()[f.table] for f in ids} | {s.name: s.buckets for s in statistics_}
    for split in ("train", "validation", "test"):
        table = pa.concat_tables(pq.read_table(p) for p in sorted((SAMPLE / split).glob("*.parquet")))
        columns: dict[str, Any] = {}
        for f in ids:
            columns[f.name] = table[f.column].combine_chunks().fill_null(0).cast(pa.int32())
        for s in statistics_:
            values = np.nan_to_num(table[s.column].to_numpy().astype(np.float64))
            columns[s.name] = (1 + np.searchsorted(s.boundaries, values, side="right")).astype(np.int32)
        for t in tasks:
            columns[t.name] = table[t.column].combine_chunks().fill_null(0).cast(pa.int8())
        columns[GROUP] = table[schema.group_column].combine_chunks()
        _write(folder / split, pa.table(columns), 8192)
    _describe(folder, rows, {t.name: t.group for t in tasks}, replicate=100_000, evaluated=True)


def large(folder: Path, rows: int, samples: int) -> None:
    random = np.random.default_rng(0)
    features = {f"id_{i}": rows for i in range(20)}
    tasks = {f"task_{i}": "a" if i < 4 else "b" for i in range(8)}
    columns: dict[str, Any] = {name: power_law(random, rows, samples) for name in features}
    columns |= rare_labels(random, list(tasks), samples)
    columns[GROUP] = columns["id_0"]
    _write(folder / "train", pa.table(columns), 8192)
    # Such tables are sharded; all others take the dense optimizer.
    _describe(folder, features, tasks, replicate=0, evaluated=False)


def _write(folder: Path, table: pa.Table, group: int) -> None:
    folder.mkdir(parents=True)
    for first in range(0, table.num_rows, 10 * group):
        pq.write_table(table.slice(first, 10 * group), folder / f"part-{first:09d}.parquet", row_group_size=group)


def _describe(folder: Path, features: dict[str, int], tasks: dict[str, str], replicate: int, evaluated: bool) -> None:
    describe(folder, features, tasks)
    (folder / "about.json").write_text(
        json.dumps({"features": list(features.items()), "tasks": list(tasks), "groups": list(tasks.values())})
    )
    splits = {split: split if evaluated else "" for split in ("validation", "test")}
    (folder / "run.toml").write_text(CONFIG.format(folder=folder, replicate=replicate, batch=BATCH, **splits))
