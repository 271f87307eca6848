"""Vocabularies as pipelines write them; also those of published data sets, which have their own marks of missing values."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from home_dist.files.whole import whole_file
from home_dist.ids.keys import KeyType, as_keys
from home_dist.ids.rows import VocabularyRows
from home_dist.ids.vocabulary import counted, merged, most_frequent
from home_dist.prepare.fitted_keys import empty_vocabulary, write_row_groups

Keys = NDArray[np.int64] | NDArray[np.str_]

_LEVEL, _LEVEL_OF_MANY = 19, 3  # of zstd
_MANY = 4 << 20  # keys


def published_keys(values: Keys) -> pa.Array:
    """(n,) keys, null where missing: negative numbers, which these data sets never use as ids, and empty texts."""
    return pa.array(values, mask=values == "" if values.dtype.kind == "U" else values.astype(np.int64) < 0)


def write_vocabulary(kept: Iterable[pa.Table], keys: int, kind: KeyType, path: Path) -> None:
    """kept: columns value, row and count, piece by piece; keys: their number. The file appears when it is whole.

    Compressed well though slowly, as each run reads the file at its start; but faster from some million keys on."""
    tables = (table.set_column(1, "row", table.column("row").cast(pa.int32())) for table in kept)
    empty = empty_vocabulary(kind)
    empty = empty.set_column(1, "row", empty.column("row").cast(pa.int32()))
    level = _LEVEL if keys <= _MANY else _LEVEL_OF_MANY
    with whole_file(path) as file:
        write_row_groups(file, tables, empty, compression="zstd", compression_level=level, store_schema=False)


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
        write_vocabulary([self.table], len(self.table), self.kind, path)


def fit_vocabulary(keys: Keys, min_count: int, extra: Keys | None = None) -> PublishedVocabulary:
    """Fits a vocabulary on the training part's keys (n,) and on `extra`, keys of histories, which count alike."""
    kind: KeyType = "text" if keys.dtype.kind == "U" else "integer"
    parts = [counted(published_keys(part)) for part in (keys, extra) if part is not None]
    return PublishedVocabulary(most_frequent(merged(parts, kind), min_count), kind)
