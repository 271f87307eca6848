"""The generated data set of tests/factory.py with tasks of every kind beside its binary ones."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from home_dist.schema import LabelValues, Schema, TaskSpec, load_schema, save_schema
from tests.factory import make_config, make_data

NUMBERS = ("seconds", "by_duration", "odds", "levels_watched")
"""Tasks that all learn the column `seconds`, each as another kind."""


def mixed_data(folder: Path, rows: int = 2000, **options: int) -> Path:
    """As `make_data`, with columns seconds (0 .. length, often 0), length, rating (0 .. 3) and
    request."""
    make_data(folder, rows, **options)
    for number, path in enumerate(sorted(folder.glob("*/*.parquet"))):
        groups = pq.read_metadata(path).row_group(0).num_rows
        pq.write_table(with_numbers(pq.read_table(path), number), path, row_group_size=groups, write_page_checksum=True)
    training = pa.concat_tables([pq.read_table(path) for path in sorted((folder / "train").glob("*.parquet"))])
    save_schema(mixed_schema(load_schema(folder / "schema.toml"), training), folder / "schema.toml")
    return folder


def with_numbers(table: pa.Table, seed: int) -> pa.Table:
    """Watch times follow the video and the statistic, so that a model can learn something."""
    draw = np.random.default_rng(1000 + seed)
    video, rate = table["video"].to_numpy(), np.nan_to_num(table["rate"].to_numpy(zero_copy_only=False))
    length = 5.0 * (1 + video % 12) + draw.integers(0, 5, len(table))
    interest = rate / 2 + (video % 7 - 3) / 2 + draw.logistic(size=len(table))
    seconds = np.where(interest > -2, length / (1 + np.exp(-interest)), 0)
    rating = np.clip(np.round(interest + 1.5), 0, 3)
    requests = np.cumsum(draw.random(len(table)) < 0.3) + 100_000 * seed  # of some 3 rows, whole within a file
    columns = {
        "request": requests,
        "seconds": seconds.astype(np.float32),
        "length": length.astype(np.float32),
        "rating": rating.astype(np.int8),
    }
    for name, values in columns.items():
        table = table.append_column(name, pa.array(values))
    return table


def mixed_schema(schema: Schema, training: pa.Table) -> Schema:
    y, length, rating = (training[c].to_numpy().astype(np.float64) for c in ("seconds", "length", "rating"))
    thresholds = np.unique(np.quantile(y[y > 0], np.linspace(0.1, 1, 8)))
    boundaries = np.quantile(length, [1 / 3, 2 / 3])
    group = np.searchsorted(boundaries, length, side="right")
    facts = LabelValues(
        mean=y.mean(),
        std=y.std(),
        log_mean=np.log1p(y).mean(),
        log_std=np.log1p(y).std(),
        thresholds=tuple(thresholds),
        above=tuple((y > t).mean() for t in thresholds),
        duration_boundaries=tuple(boundaries),
        quantiles=tuple(tuple(np.quantile(y[group == g], np.linspace(0, 1, 21))) for g in range(3)),
    )
    number = {"group": "passive", "column": "seconds", "unit": "s", "duration": "length", "values": facts}
    kinds = ("regression", "duration_quantile", "weighted_logistic", "ordinal")
    tasks = [TaskSpec.model_validate({"name": n, "kind": k, **number}) for n, k in zip(NUMBERS, kinds, strict=True)]
    shares = tuple((rating == c).mean() for c in range(4))
    stars = {"name": "stars", "group": "interaction", "column": "rating", "kind": "multiclass", "classes": 4}
    tasks.append(TaskSpec.model_validate({**stars, "values": LabelValues(shares=shares)}))
    first, second, *rest = schema.task
    # Out of order, so that a mix-up of columns shows.
    return schema.model_copy(update={"task": (first, tasks[0], tasks[4], second, *tasks[1:4], *rest)})


def mixed_config(folder: Path, data: Path, more: str = "", **options: int) -> Path:
    """A run of all tasks. more: further TOML."""
    path = make_config(folder, data, **options)
    path.write_text(path.read_text() + more)
    return path
