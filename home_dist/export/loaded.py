"""`home_dist.load`: a trained model in one process, which predicts for tables.

It is the scoring model of an export (scorer.py), filled from a checkpoint, or an exported program; both read columns as
training does. All tables of embeddings are held in memory.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from home_dist.data.matching_rows import RunSide, refuse_other_vocabularies
from home_dist.errors import CheckpointError, ConfigError, DataError
from home_dist.export.columns import batches_of, parquet_files
from home_dist.export.managed_rows import stored_rows, with_managed_rows
from home_dist.export.program import ABOUT, Program, open_program, predictions_of
from home_dist.export.scorer import Scorer
from home_dist.export.source import Source
from home_dist.training.checkpoint.folder import step_of
from home_dist.training.checkpoint.of_run import checkpoints_of
from home_dist.training.run_folder import RunFolder


@dataclass(frozen=True)
class LoadedModel:
    """A trained model. `predict` gives its predictions."""

    program: Program
    place: Path
    """The checkpoint's folder, or the export's."""
    step: int
    """Steps that it was trained for."""

    @property
    def predictions(self) -> list[dict[str, Any]]:
        """What each column of `predict` is: its name, task, the task's kind, and its unit."""
        return self.program.about["predictions"]

    @property
    def columns(self) -> list[str]:
        """Columns that `predict` reads; labels are none of them."""
        return self.program.columns

    def predict(self, table: Any, rows: int = 4096) -> pa.Table:
        """A column of float32 per task: a probability, or a number in the label's unit; of a multiclass task a probability per
        class, TASK_0, TASK_1, ... Rows stand as they are in the table.

        table: a pyarrow.Table or pandas.DataFrame whose columns are as in the data that the model was trained on, such as one
        read from its train/*.parquet; or the path of Parquet files, a file, folder, glob or URL, which may be prepared with
        other vocabularies (the nearest schema.toml tells). rows: computed together.

        Equal to what `home-dist evaluate` measures, but for rounding: products are in fp32 here, also of runs with
        kernel.precision = "bf16". Raises DataError, which names what is missing or wrong: columns, types, values and rows.
        """
        if rows < 1:
            raise ConfigError(f"rows = {rows}: compute at least one row together")
        parts = list(self._scores(table, rows))
        names = self.program.names
        scores = np.concatenate(parts) if parts else np.zeros((0, len(names)), np.float32)
        return pa.table({name: pa.array(scores[:, n]) for n, name in enumerate(names)})

    def _scores(self, table: Any, rows: int) -> Iterator[Any]:
        if isinstance(table, str | Path):
            store, files = parquet_files(str(table))
            for _, scores in self.program.reading(str(table)).scores(store, files, rows):
                yield scores
            return
        for inputs in batches_of(_arrow(table), self.program.layout, rows):
            yield self.program.of_inputs(inputs)


def load(run: str | Path, step: int | None = None, averaged: bool | None = None) -> LoadedModel:
    """The model of a run, with `predict(table)`, in this process: no process group and no GPU are needed.

    run: a run.dir, for its newest checkpoint, RUN/best, a checkpoint's folder, or a folder that `home-dist export --format
    program` wrote. step: of a run.dir, the step whose checkpoint is wanted. averaged: the averages of dense parameters, by
    default as `train.ema` says. A class of the user's own (`model.kind = "mymodel:Gated"`) must be importable for a run; an
    exported program needs none.

    Raises CheckpointError, ConfigError or DataError.
    """
    place = Path(run)
    if (place / ABOUT).is_file():
        if step is not None or averaged is not None:
            raise ConfigError(f"{place}: is an exported program, which has one step and one kind of parameters: leave both out")
        program = open_program(place)
        return LoadedModel(program, place, int(program.about["step"]))
    return model_of(Source.open(_of_step(place, step) if step is not None else place, averaged))


def model_of(source: Source) -> LoadedModel:
    """The model of a checkpoint. Raises ConfigError, DataError."""
    return LoadedModel(_program(source), source.checkpoint, source.record.state.step)


def _of_step(run: Path, step: int) -> Path:
    there = {step_of(path): path for path in checkpoints_of(run).complete()}
    if step not in there:
        raise CheckpointError(f"{run}: no checkpoint of step {step}; there are: {', '.join(map(str, there)) or 'none'}")
    return there[step]


def _program(source: Source) -> Program:
    recorded = RunFolder(source.checkpoint.parent.parent).recorded_vocabularies()
    read = {i.table.name for i in source.layout.inputs if i.rows_of is not None}
    refuse_other_vocabularies(source.config, source.whole, {t: sha for t, sha in recorded.items() if t in read})
    scorer = Scorer(source)
    predictions = predictions_of(source.schema.task, scorer.head.objectives)
    about = {**source.metadata(), "tasks": scorer.tasks, "predictions": predictions}
    trained = RunSide(source.given, source.whole, recorded)
    tables = {t.name: t for t in source.layout.tables}
    layout = with_managed_rows(source.layout, lambda name: stored_rows(source, tables[name]))
    return Program(scorer, layout, scorer.names, about, trained)


def _arrow(table: Any) -> pa.Table:
    if isinstance(table, pa.RecordBatch):
        return pa.Table.from_batches([table])
    if isinstance(table, pa.Table):
        return table
    if type(table).__module__.partition(".")[0] == "pandas":
        return pa.Table.from_pandas(table, preserve_index=False)
    raise DataError(
        f"a {type(table).__name__} is no table: give a pyarrow.Table, a pandas.DataFrame or the path of Parquet files"
    )
