"""Golden requests: some real rows of the run's data, with the trainer's own answers. Whoever serves a version can send them and
compare.

golden.parquet holds the columns that the model reads, as they stand in the data, and a column `answer.NAME` of float32 for each
prediction, computed in fp32 from the model that the version was made of.
"""

from typing import Protocol

import numpy as np
import pyarrow as pa

from home_dist.config import DataSection
from home_dist.data.files import open_parquet
from home_dist.errors import DataError
from home_dist.export.columns import parquet_files
from home_dist.files.places import join
from home_dist.publish.manifest import PublishError

ANSWER = "answer."


class Model(Protocol):
    @property
    def columns(self) -> list[str]:
        """Columns that `predict` reads."""

    def predict(self, table: pa.Table) -> pa.Table:
        """A column of float32 per prediction. Raises DataError for rows that training would refuse."""


def golden_requests(model: Model, data: DataSection, count: int) -> pa.Table:
    """At most `count` rows with the model's answers, spread over the first row group of the last file of the run's validation
    split, or of its training split where there is none. Rows that the reader refuses, as training may skip them
    (data.on_bad_row), are left out. Raises PublishError if no rows can be had."""
    place = join(data.path, data.validation or data.train)
    try:
        file, rows = _rows_of(place, model.columns, count)
        rows, answers = _answered(model, file, rows)
    except (DataError, pa.ArrowException, OSError) as error:
        raise PublishError(
            f"no golden requests could be taken from the run's data: {error}. Restore the data, or publish without: --golden 0."
        ) from None
    for name in answers.column_names:
        rows = rows.append_column(f"{ANSWER}{name}", answers[name])
    return rows


def _answered(model: Model, file: str, rows: pa.Table) -> tuple[pa.Table, pa.Table]:
    """(rows that are not refused, their answers). Raises DataError if all are."""
    try:
        return rows, model.predict(rows)
    except DataError as error:
        refused, first = error, None
    taken = []
    for n in range(len(rows)):
        try:
            model.predict(rows.slice(n, 1))
            taken.append(n)
        except DataError as error:
            first = first or error
    if not taken:
        raise DataError(f"{file}: all {len(rows)} rows that were tried are refused, the first one: {first or refused}")
    rows = rows.take(pa.array(taken))
    return rows, model.predict(rows)


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
