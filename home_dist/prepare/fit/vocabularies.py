"""Vocabularies as `prepare fit` writes them: beside the schema, with a checksum."""

from pathlib import Path

from home_dist.files.hashes import file_sha256
from home_dist.files.whole import whole_file
from home_dist.prepare.fit.draft import DraftVocabulary
from home_dist.prepare.fitted_keys import FrequentKeys, SpilledCounts, empty_vocabulary, write_row_groups
from home_dist.schema.values import VocabularyValues


def write_vocabulary(
    counts: SpilledCounts, draft: DraftVocabulary, folder: Path, name: str, memory: int
) -> tuple[VocabularyValues, int]:
    """Writes below `folder`, where the schema will be. Returns the schema's entry of it, and its number of keys. memory: bytes
    that it may take."""
    file = f"vocabularies/{name}.parquet"
    path, first_row = folder / file, 1 + draft.unknown_rows
    path.parent.mkdir(exist_ok=True)
    kept = FrequentKeys(counts.folder / "frequent", draft.min_count, counts.unsigned, memory)
    for part in counts.totals():
        kept.add(part)
    most = kept.keys if draft.max_rows is None else max(0, min(kept.keys, draft.max_rows - first_row))
    with whole_file(path) as written:
        empty = empty_vocabulary(draft.type)
        tables = kept.tables(first_row, most)
        write_row_groups(written, tables, empty, compression="zstd", store_schema=False, write_page_checksum=True)
    values = VocabularyValues(type=draft.type, file=file, unknown_rows=draft.unknown_rows, sha256=file_sha256(path))
    return values, most
