"""How often each value of a table's columns was seen, batch by batch. Memory grows with distinct values, not with rows."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from home_dist.prepare.fit.draft import DraftVocabulary
from home_dist.schema.values import VocabularyValues, file_sha256

_PENDING = 1 << 20  # counted values that may wait to be merged


class Counts:
    def __init__(self, kind: pa.DataType):
        self.kind = kind
        self._parts: list[pa.Table] = []
        self._pending, self._merged = 0, 0

    def add(self, values: pa.Array) -> None:
        """values: (n,); nulls are not counted."""
        if pa.types.is_dictionary(values.type):
            values = values.cast(values.type.value_type)
        counted = pc.value_counts(values.cast(self.kind).drop_null())
        part = pa.table({"value": counted.field("values"), "count": counted.field("counts").cast(pa.int64())})
        self._parts.append(part)
        self._pending += len(part)
        if self._pending > max(_PENDING, self._merged):  # each value is then merged a few times, however many there are
            self._merge()

    def _merge(self) -> pa.Table:
        empty = pa.table({"value": pa.array([], self.kind), "count": pa.array([], pa.int64())})
        merged = pa.concat_tables([empty, *self._parts]).group_by("value").aggregate([("count", "sum")])
        merged = merged.rename_columns({"count_sum": "count"}).select(["value", "count"])
        self._parts, self._pending, self._merged = [merged], 0, len(merged)
        return merged

    def most_frequent(self, draft: DraftVocabulary) -> pa.Table:
        """Columns value, row and count: by falling count, equally frequent ones by value."""
        merged = self._merge()
        kept = merged.filter(pc.greater_equal(merged["count"], draft.min_count))
        kept = kept.sort_by([("count", "descending"), ("value", "ascending")])
        first = 1 + draft.unknown_rows
        if draft.max_rows is not None:
            kept = kept.slice(0, max(0, draft.max_rows - first))
        rows = pa.array(np.arange(first, first + len(kept)), pa.int64())
        return pa.table({"value": kept["value"], "row": rows, "count": kept["count"]})


def write_vocabulary(found: pa.Table, draft: DraftVocabulary, folder: Path, name: str) -> VocabularyValues:
    """Below `folder`, that of the schema."""
    file = f"vocabularies/{name}.parquet"
    path = folder / file
    path.parent.mkdir(exist_ok=True)
    pq.write_table(found, path, compression="zstd", store_schema=False, write_page_checksum=True)
    return VocabularyValues(type=draft.type, file=file, unknown_rows=draft.unknown_rows, sha256=file_sha256(path))
