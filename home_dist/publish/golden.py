"""Golden requests: some real rows of the run's data, with the trainer's own answers. Whoever serves a version can send them and
compare.

golden.parquet holds the columns that the model reads, as they stand in the data, and a column `answer.NAME` of float32 for each
prediction, computed in fp32 from the model that the version was made of.
"""

import numpy as np
import pyarrow as pa

from home_dist.config import DataSection
from home_dist.data.files import needed_inputs, open_parquet
from home_dist.errors import DataError
from home_dist.export.columns import batches_of, parquet_files
from home_dist.files.places import join
from home_dist.publish.few_rows import FewRows
from home_dist.publish.manifest import PublishError
from home_dist.schema import InputLayout

ANSWER = "answer."


def golden_requests(model: FewRows, data: DataSection, count: int) -> pa.Table:
    """At most `count` rows with the model's answers. Raises PublishError if no rows can be had."""
    rows = golden_rows(model.layout, data, count)
    return with_answers(rows, model.predict(rows))


def with_answers(rows: pa.Table, answers: pa.Table) -> pa.Table:
    for name in answers.column_names:
        rows = rows.append_column(f"{ANSWER}{name}", answers[name])
    return rows


def golden_rows(layout: InputLayout, data: DataSection, count: int) -> pa.Table:
    """At most `count` rows of what the model reads, spread over the first row group of the last file of the run's validation
    split, or of its training split where there is none. Rows that the reader refuses, as training may skip them
    (data.on_bad_row), are left out. Raises PublishError if no rows can be had."""
    place = join(data.path, data.validation or data.train)
    try:
        return _accepted(*_rows_of(place, list(needed_inputs(layout)), count), layout)
    except (DataError, pa.ArrowException, OSError) as error:
        raise PublishError(
            f"no golden requests could be taken from the run's data: {error}. Restore the data, or publish without: "
            "--golden 0, or publish.golden = 0 in a run."
        ) from None


def _accepted(file: str, rows: pa.Table, layout: InputLayout) -> pa.Table:
    """Raises DataError if all rows are refused."""
    taken, refused = [], ""
    for n in range(len(rows)):
        try:
            list(batches_of(rows.slice(n, 1), layout, 1))
            taken.append(n)
        except DataError as error:
            refused = refused or str(error)
    if not taken:
        raise DataError(f"{file}: all {len(rows)} rows that were tried are refused, the first one: {refused}")
    return rows.take(pa.array(taken))


def _rows_of(place: str, columns: list[str], count: int) -> tuple[str, pa.Table]:
    """(their file, rows)"""
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
            return store.show(found.path), table.take(pa.array(chosen)).replace_schema_metadata()
    raise DataError(f"{place}: holds no rows")
