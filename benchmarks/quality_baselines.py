"""What HoME must beat on the sample: logistic regression and LightGBM, one model per task, on the same features and split."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import lightgbm
import numpy as np
import pyarrow.parquet as pq
import scipy.sparse as sp
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from home_dist.schema import IdFeature, Schema, StatisticFeature

Floats = NDArray[np.float64]
_SMALL = 128
"""Tables of at most so many rows are categories for LightGBM; larger ones, which it would overfit, enter as numbers."""


@dataclass(frozen=True)
class Part:
    """A split. statistics (N, S), NaN where unknown; ids (N, I); lists: per multi-valued column or history a matrix (N, rows)
    of counts; labels and weights (N, K); users (N,)."""

    statistics: NDArray[np.float32]
    ids: NDArray[np.int64]
    lists: list[sp.csr_matrix]
    labels: NDArray[np.float32]
    weights: NDArray[np.float32]
    users: NDArray[np.int64]


def load(folder: Path, schema: Schema) -> Part:
    table = pq.read_table(folder)
    rows = schema.table_rows()
    statistics = [f for f in schema.feature if isinstance(f, StatisticFeature)]
    single = single_ids(schema)
    listed = [(f.column, f.table) for f in schema.feature if isinstance(f, IdFeature) and f.pooling != "none"]
    listed += [(e.column, e.table) for s in schema.sequence for e in s.events]
    ones = np.ones(table.num_rows, np.float32)
    return Part(
        statistics=np.stack([table[f.column].to_numpy().astype(np.float32) for f in statistics], 1),
        ids=np.stack([table[f.column].to_numpy().astype(np.int64) for f in single], 1),
        lists=[_counts(table[column].combine_chunks(), rows[name]) for column, name in listed],
        labels=np.stack([table[t.column].to_numpy() for t in schema.task], 1).astype(np.float32),
        weights=np.stack(
            [table[t.weight_column].to_numpy().astype(np.float32) if t.weight_column else ones for t in schema.task], 1
        ),
        users=table[schema.group_column].to_numpy(),
    )


def single_ids(schema: Schema) -> list[IdFeature]:
    return [f for f in schema.feature if isinstance(f, IdFeature) and f.pooling == "none"]


def _counts(lists, rows: int) -> sp.csr_matrix:
    # Copies: Arrow's memory is read-only, and SciPy sorts in place.
    values, offsets = lists.flatten().to_numpy().copy(), lists.offsets.to_numpy().copy()
    matrix = sp.csr_matrix((np.ones(len(values), np.float32), values, offsets), (len(lists), rows))
    matrix.sum_duplicates()
    return matrix


def wide_inputs(schema: Schema) -> tuple[Callable[[Part], NDArray[np.float32]], list[int]]:
    """(function that gives trees their inputs (N, columns), the columns that are categories)"""
    sizes = [schema.table_rows()[f.table] for f in single_ids(schema)]
    statistics = sum(isinstance(f, StatisticFeature) for f in schema.feature)

    def wide(part: Part) -> NDArray[np.float32]:
        # Multi-valued features and histories have no form that trees take; their lengths and the share of each outcome do.
        shares = [np.asarray(m.todense()) for m in part.lists if m.shape[1] <= _SMALL]
        return np.concatenate([part.statistics, part.ids.astype(np.float32), *shares], 1)

    return wide, [statistics + i for i, size in enumerate(sizes) if size <= _SMALL]


def light_gbm(schema: Schema, train: Part, validation: Part, test: Part, rounds: int, seed: int) -> tuple[Floats, Floats]:
    """Probabilities (N, K) of validation and test. Stops when a task's validation loss has not fallen for 30 rounds."""
    wide, categories = wide_inputs(schema)
    x, x_validation, x_test = wide(train), wide(validation), wide(test)
    settings = {
        "objective": "binary", "learning_rate": 0.05, "num_leaves": 31, "min_data_in_leaf": 100, "feature_fraction": 0.5,
        "bagging_fraction": 0.8, "bagging_freq": 1, "lambda_l2": 5.0, "seed": seed, "num_threads": 2, "verbose": -1,
    }  # fmt: skip
    found = []
    for task in range(len(schema.task)):
        kept, watched = train.weights[:, task] > 0, validation.weights[:, task] > 0
        data = lightgbm.Dataset(x[kept], train.labels[kept, task], categorical_feature=categories)
        held_out = lightgbm.Dataset(x_validation[watched], validation.labels[watched, task], reference=data)
        stop = lightgbm.early_stopping(30, verbose=False)
        model = lightgbm.train(settings, data, rounds, valid_sets=[held_out], callbacks=[stop])
        found.append((model.predict(x_validation), model.predict(x_test)))
    return np.stack([v for v, _ in found], 1), np.stack([t for _, t in found], 1)


def logistic_regression(
    schema: Schema, train: Part, validation: Part, test: Part, iterations: int, loss: Callable[[Floats, int], float]
) -> tuple[Floats, Floats]:
    """Probabilities (N, K) of validation and test. Statistics standardised and by bucket, ids, tags and histories as counts.

    The strength of the penalty is chosen per task by `loss` on the validation part.
    """
    statistics = [f for f in schema.feature if isinstance(f, StatisticFeature)]

    def wide(part: Part) -> sp.csr_matrix:
        columns = []
        for index, feature in enumerate(statistics):
            values = part.statistics[:, index].astype(np.float64)
            missing = np.isnan(values)
            bucket = np.where(missing, 0, 1 + np.searchsorted(feature.boundaries, values, side="right"))
            columns.append(_one_hot(bucket, feature.buckets))
            columns.append(sp.csr_matrix(np.where(missing, 0, (values - feature.mean) / feature.std)[:, None]))
        columns += [_one_hot(part.ids[:, i], schema.table_rows()[f.table]) for i, f in enumerate(single_ids(schema))]
        # A long history counts no more than a short one.
        columns += [sp.diags(1 / np.sqrt(np.maximum(m.sum(1).A1, 1))) @ m for m in part.lists]
        return sp.hstack(columns, format="csr", dtype=np.float32)

    x, x_validation, x_test = wide(train), wide(validation), wide(test)
    found = []
    for task in range(len(schema.task)):
        kept = train.weights[:, task] > 0
        best = None
        for strength in (0.001, 0.01):
            model = LogisticRegression(C=strength, max_iter=iterations).fit(x[kept], train.labels[kept, task])
            scores = model.predict_proba(x_validation)[:, 1]
            value = loss(scores, task)
            if best is None or value < best[0]:
                best = (value, scores, model.predict_proba(x_test)[:, 1])
        found.append(best)
    return np.stack([f[1] for f in found], 1), np.stack([f[2] for f in found], 1)


def _one_hot(values: NDArray[np.int64], size: int) -> sp.csr_matrix:
    rows = len(values)
    return sp.csr_matrix((np.ones(rows, np.float32), values, np.arange(rows + 1)), (rows, size))
