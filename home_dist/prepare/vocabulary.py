"""Vocabularies: raw values -> rows of an embedding table.

Row 0 stands for missing and out-of-vocabulary values. The others are ordered by falling frequency in the training
part, so that keeping a table's first rows cuts its tail.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

Keys = NDArray[np.int64] | NDArray[np.str_]


@dataclass(frozen=True)
class Vocabulary:
    """values[i] has row i + 1; counts are those of the training part."""

    values: Keys
    counts: NDArray[np.int64]

    @property
    def rows(self) -> int:
        return len(self.values) + 1

    def encode(self, keys: Keys) -> NDArray[np.int32]:
        """(n,) rows of keys (n,); 0 for what is not in the vocabulary."""
        if not len(self.values):
            return np.zeros(len(keys), np.int32)
        order = np.argsort(self.values, kind="stable")
        at = np.minimum(np.searchsorted(self.values, keys, sorter=order), len(order) - 1)
        rows = order[at]
        return np.where(self.values[rows] == keys, rows + 1, 0).astype(np.int32)

    def save(self, path: Path) -> None:
        table = pa.table(
            {
                "value": pa.array(self.values),
                "row": pa.array(np.arange(1, self.rows), pa.int32()),
                "count": pa.array(self.counts, pa.int64()),
            }
        )
        pq.write_table(table, path, compression="zstd", compression_level=19, store_schema=False)


def missing(keys: Keys) -> NDArray[np.bool_]:
    """(n,) which keys stand for a missing value: negative numbers and empty texts."""
    return np.asarray(keys == "") if keys.dtype.kind == "U" else np.asarray(keys.astype(np.int64) < 0)


def fit_vocabulary(keys: Keys, min_count: int, extra: Keys | None = None) -> Vocabulary:
    """From the training part's keys (n,) and, counted alike, those of histories.

    Negative numbers and empty texts are missing values. Values seen less than `min_count` times are left out; equally
    frequent ones are ordered by value.
    """
    every = keys if extra is None else np.concatenate([keys, extra])
    values, counts = np.unique(every, return_counts=True)
    kept = ~missing(values) & (counts >= min_count)
    values, counts = values[kept], counts[kept]
    order = np.argsort(-counts, kind="stable")
    return Vocabulary(values[order], counts[order])
