"""A small generated data set in the prepared layout, with every kind of input."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from home_dist.schema import Schema, save_schema

TASKS = (("like", "interaction"), ("follow", "interaction"), ("watch", "passive"))


def make_schema() -> Schema:
    return Schema.model_validate(
        {
            "group_column": "user_key",
            "table": [
                {"name": "user", "rows": 3000},
                {"name": "video", "rows": 2000},
                {"name": "tag", "rows": 1500},
                {"name": "tab", "rows": 5},
                {"name": "level", "rows": 4},
            ],
            "feature": [
                {"kind": "id", "name": "user", "column": "user", "table": "user"},
                {"kind": "id", "name": "video", "column": "video", "table": "video"},
                {"kind": "id", "name": "tab", "column": "tab", "table": "tab"},
                {"kind": "id", "name": "tags", "column": "tags", "table": "tag", "pooling": "mean"},
                {"kind": "id", "name": "levels", "column": "levels", "table": "level", "pooling": "sum"},
                {"kind": "statistic", "name": "rate", "column": "rate", "boundaries": [-1.0, 0.0, 1.0], "mean": 0.1, "std": 2},
                {"kind": "dense", "name": "age", "column": "age", "mean": 5, "std": 3},
                {"kind": "dense", "name": "vector", "column": "vector", "width": 3},
            ],
            "sequence": [
                {
                    "name": "watched",
                    "events": [
                        {"column": "watched_video", "table": "video", "target": "video"},
                        {"column": "watched_level", "table": "level"},
                    ],
                }
            ],
            "task": [
                {"name": "like", "group": "interaction", "column": "like", "base_rate": 0.3},
                {"name": "follow", "group": "interaction", "column": "follow", "base_rate": 0.2},
                {"name": "watch", "group": "passive", "column": "watch", "weight_column": "watch_weight", "base_rate": 0.5},
            ],
        }
    )


def make_rows(rows: int, seed: int = 0, first_id: int = 0) -> pa.Table:
    """Labels follow tab, rate and the video, so that a model can learn something."""
    rng = np.random.default_rng(seed)
    video, tab = rng.integers(0, 2000, rows), rng.integers(0, 5, rows)
    rate = rng.normal(0, 2, rows)
    score = rate / 2 + (video % 7 - 3) / 2 + (tab - 2) / 2

    def lists(most: int, bound: int) -> tuple[pa.Array, np.ndarray]:
        offsets = np.concatenate([[0], np.cumsum(rng.integers(0, most + 1, rows))])
        return pa.ListArray.from_arrays(offsets.astype(np.int32), rng.integers(0, bound, offsets[-1]).astype(np.int32)), offsets

    history, offsets = lists(6, 2000)
    levels = pa.ListArray.from_arrays(offsets.astype(np.int32), rng.integers(0, 4, offsets[-1]).astype(np.int32))
    columns = {
        "row_id": np.arange(first_id, first_id + rows),
        "user_key": rng.integers(0, max(2, rows // 10), rows),
        "user": rng.integers(0, 3000, rows).astype(np.int32),
        "video": video.astype(np.int32),
        "tab": tab.astype(np.int32),
        "tags": lists(3, 1500)[0],
        "levels": lists(2, 4)[0],
        "rate": pa.array(rate, mask=rng.random(rows) < 0.1),
        "age": rng.uniform(0, 10, rows).astype(np.float32),
        "vector": pa.array(list(rng.normal(size=(rows, 3)).astype(np.float32)), type=pa.list_(pa.float32())),
        "watched_video": history,
        "watched_level": levels,
        "like": (score + rng.logistic(size=rows) > 1).astype(np.int8),
        "follow": (score + rng.logistic(size=rows) > 2).astype(np.int8),
        "watch": (score + rng.logistic(size=rows) > 0).astype(np.int8),
        "watch_weight": (rng.random(rows) < 0.9).astype(np.float32),
    }
    return pa.table(columns)


def make_data(
    folder: Path,
    rows: int = 2000,
    files: int = 3,
    row_group: int = 100,
    splits: tuple[str, ...] = ("train", "validation", "test"),
) -> Path:
    """Writes schema.toml and `rows` rows of training data in `files` files; the other splits have a quarter of it."""
    save_schema(make_schema(), _made(folder) / "schema.toml")
    for number, split in enumerate(splits):
        count = rows if split == "train" else max(1, rows // 4)
        table = make_rows(count, seed=number)
        parts = files if split == "train" else 1
        bounds = [count * i // parts for i in range(parts + 1)]
        for index in range(parts):
            part = table.slice(bounds[index], bounds[index + 1] - bounds[index])
            pq.write_table(
                part, _made(folder / split) / f"part-{index:05d}.parquet", row_group_size=row_group, write_page_checksum=True
            )
    return folder


CONFIG = """
[run]
dir = "{run}"
[data]
path = "{data}"
window_rows = 200
lanes = 4
[embedding]
dim = 8
small_dim = 4
replicate_rows = 100
[[sequence]]
name = "watched"
kind = "din"
hidden = [8]
[model]
kind = "home"
expert_hidden = [16]
expert_dim = 8
feature_gate_rank = 4
tower_hidden = [8]
[train]
batch_size = {batch_size}
epochs = 2
lr = 0.01
[log]
every_steps = 1
tensorboard = false
"""


def make_config(folder: Path, data: Path, batch_size: int = 64, name: str = "run") -> Path:
    """Writes a configuration of a small HoME; returns its path."""
    path = _made(folder) / f"{name}.toml"
    path.write_text(CONFIG.format(run=folder / name, data=data, batch_size=batch_size))
    return path


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
