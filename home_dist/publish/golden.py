"""Golden requests: some real rows of the run's data, with the trainer's own answers. Whoever serves a version can send them and
compare.

golden.parquet holds the columns that the model reads, as they stand in the data, and a column `answer.NAME` of float32 for each
prediction, computed in fp32 from the model that the version was made of.
"""

import numpy as np
import pyarrow as pa

from home_dist.config import DataSection
from home_dist.data.files import open_parquet
from home_dist.errors import DataError
from home_dist.export.columns import parquet_files
from home_dist.export.loaded import LoadedModel
from home_dist.files.places import join
from home_dist.publish.manifest import PublishError

ANSWER = "answer."


def golden_requests(model: LoadedModel, data: DataSection, count: int) -> pa.Table:
    """At most `count` rows with the model's answers, spread over the first row group of the last file of the run's validation
    split, or of its training split where there is none. Raises PublishError if the data cannot be read."""
    place = join(data.path, data.validation or data.train)
    try:
        rows = _rows_of(place, model.columns, count)
        answers = model.predict(rows)
    except (DataError, pa.ArrowException, OSError) as error:
        raise PublishError(
            f"no golden requests could be taken from the run's data: {error}. Restore the data, or publish without: --golden 0."
        ) from None
    for name in answers.column_names:
        rows = rows.append_column(f"{ANSWER}{name}", answers[name])
    return rows


def _rows_of(place: str, columns: list[str], count: int) -> pa.Table:
    store, files = parquet_files(place)
    for found in reversed(files):
        file = open_parquet(store, found.path)
        missing = [c for c in columns if c not in file.schema_arrow.names]
        if missing:
            raise DataError(f"{found.path}: columns that the model reads are missing: {', '.join(missing)}")
        if file.metadata.num_rows:
            first = next(g for g in range(file.num_row_groups) if file.metadata.row_group(g).num_rows)
            table = file.read_row_group(first, columns=columns)
            chosen = np.unique(np.linspace(0, len(table) - 1, min(count, len(table))).astype(np.int64))
            return table.take(pa.array(chosen)).replace_schema_metadata()
    raise DataError(f"{place}: holds no rows")
