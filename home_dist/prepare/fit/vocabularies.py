"""Vocabularies as `prepare fit` writes them: beside the schema, with a checksum."""

from pathlib import Path

import pyarrow.parquet as pq

from home_dist.ids.vocabulary import Counts, file_sha256, most_frequent
from home_dist.prepare.fit.draft import DraftVocabulary
from home_dist.schema.values import VocabularyValues


def write_vocabulary(counts: Counts, draft: DraftVocabulary, folder: Path, name: str) -> tuple[VocabularyValues, int]:
    """Writes below `folder`, where the schema will be. Returns the schema's entry of it, and its number of keys."""
    file = f"vocabularies/{name}.parquet"
    path = folder / file
    path.parent.mkdir(exist_ok=True)
    kept = most_frequent(counts.total(), draft.min_count, 1 + draft.unknown_rows, draft.max_rows, unsigned=counts.unsigned)
    pq.write_table(kept, path, compression="zstd", store_schema=False, write_page_checksum=True)
    values = VocabularyValues(type=draft.type, file=file, unknown_rows=draft.unknown_rows, sha256=file_sha256(path))
    return values, len(kept)
