"""Vocabularies as pipelines write them; also those of published data sets, which have their own marks of missing values."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from home_dist.ids.keys import KeyType, as_keys
from home_dist.ids.rows import VocabularyRows
from home_dist.ids.vocabulary import counted, merged, most_frequent

Keys = NDArray[np.int64] | NDArray[np.str_]


def published_keys(values: Keys) -> pa.Array:
    """(n,) keys, null where missing: negative numbers, which these data sets never use as ids, and empty texts."""
    return pa.array(values, mask=values == "" if values.dtype.kind == "U" else values.astype(np.int64) < 0)


def write_vocabulary(kept: pa.Table, path: Path) -> None:
    """kept: columns value, row and count. Compressed well though slowly: each run reads the file at its start."""
    kept = kept.set_column(1, "row", kept.column("row").cast(pa.int32()))
    pq.write_table(kept, path, compression="zstd", compression_level=19, store_schema=False)


@dataclass(frozen=True)
class PublishedVocabulary:
    """table: columns value, row (from 1 on) and count (in the training part)."""

    table: pa.Table
    kind: KeyType

    @property
    def rows(self) -> int:
        return len(self.table) + 1

    @cached_property
    def _rows_of(self) -> VocabularyRows:
        keys = as_keys(self.table.column("value").combine_chunks(), self.kind)
        return VocabularyRows(self.kind, 0, keys, self.table.column("row").to_numpy())

    def encode(self, keys: Keys) -> NDArray[np.int32]:
        """(n,) rows of keys (n,); 0 for keys out of vocabulary."""
        return self._rows_of(published_keys(keys)).astype(np.int32)

    def save(self, path: Path) -> None:
        write_vocabulary(self.table, path)


def fit_vocabulary(keys: Keys, min_count: int, extra: Keys | None = None) -> PublishedVocabulary:
    """Fits a vocabulary on the training part's keys (n,) and on `extra`, keys of histories, which count alike."""
    kind: KeyType = "text" if keys.dtype.kind == "U" else "integer"
    parts = [counted(published_keys(part)) for part in (keys, extra) if part is not None]
    return PublishedVocabulary(most_frequent(merged(parts, kind), min_count), kind)
